"""The model: an immutable graph in ONNX terms, how it comes in, and the passes that simplify it."""
