"""A small network trained on scikit-learn's handwritten digits, and pictures of some that it did not see: for where no other is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression


def features(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x (n, 1, 8, 8), w (c, 1, 3, 3): a convolution padded by 1, Relu, the largest of each 2 x 2; flat, (n, c * 16)."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x[:, 0], ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
    maps = np.maximum(np.einsum("nhwij,cij->nchw", windows, w[:, 0]), 0)
    return maps.reshape(len(x), len(w), 4, 2, 4, 2).max((3, 5)).reshape(len(x), -1)


def trained(folder: Path, wanted: tuple[int, ...]) -> Path:
    """Writes model.onnx and a JPEG of each digit wanted (`3.jpg`), of those that were held out, into the folder; returns the model's path."""
    found = load_digits()
    x = (found.images[:, None] / 16).astype(np.float32)
    w = np.random.default_rng(0).standard_normal((8, 1, 3, 3)).astype(np.float32)
    seen = 1500
    last = LogisticRegression(max_iter=300).fit(features(x[:seen], w), found.target[:seen])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]), helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "v", "bias"], ["y"], transB=1),
    ]
    weights = {"w": w, "v": last.coef_.astype(np.float32), "bias": last.intercept_.astype(np.float32)}
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(nodes, "digits", [helper.make_tensor_value_info("x", float32, [1, 1, 8, 8])],
                              [helper.make_tensor_value_info("y", float32, [1, 10])], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    scores = last.decision_function(features(x[seen:], w))
    for digit in wanted:  # the one that it is surest of: a JPEG is not the same to the last bit
        others = np.delete(scores, digit, 1).max(1)
        best = int(np.argmax(np.where(found.target[seen:] == digit, scores[:, digit] - others, -np.inf)))
        Image.fromarray(np.round(x[seen + best, 0] * 255).astype(np.uint8)).save(folder / f"{digit}.jpg", quality=95)
    return path
