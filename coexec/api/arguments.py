"""A session's inputs and outputs, in ONNX Runtime's words."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph.ir import Value


@dataclass(frozen=True)
class NodeArg:
    """An input or output as ONNX Runtime shows it: `shape` holds names or None where a dimension is open, `type` like `tensor(float)`."""

    name: str
    shape: list[int | str | None] | None
    type: str


_ONNX_NAMES = {"float32": "float", "float64": "double", "object": "string"}


def argument_of(value: Value) -> NodeArg:
    """How ONNX Runtime would show that value."""
    dtype = value.type.dtype
    kind = "opaque" if dtype is None else f"tensor({_ONNX_NAMES.get(dtype.name, dtype.name)})"
    return NodeArg(value.name, None if value.type.shape is None else list(value.type.shape), kind)
