"""Shape, Size, Constant, ConstantOfShape, Range, EyeLike: tensors made of shapes and parameters. Mostly folded away; never cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, register
from .operands import foreign_type, touch, variable_among


def _shape(node: Node, inputs: Sequence[np.ndarray | None]) -> object:
    return node.operands[0].shape[slice(node.attr("start", 0), node.attr("end"))]


def _size(node: Node, inputs: Sequence[np.ndarray | None]) -> object:
    return node.operands[0].type.size


def _constant(node: Node, inputs: Sequence[np.ndarray | None]) -> object:
    return next(node.attr(name) for name in _CONSTANTS if node.attr(name) is not None)


def _constant_of_shape(node: Node, inputs: Sequence[np.ndarray | None]) -> object:
    value = node.attr("value")
    return np.full(node.output.shape, 0 if value is None else np.asarray(value).reshape(-1)[0], node.output.dtype)


def _range(node: Node, inputs: Sequence[np.ndarray | None]) -> object:
    # Half is counted in single precision, where 2048 + 1 is not 2048.
    wide = np.float32 if node.output.dtype == np.float16 and node.attr("stash_type", 1) else node.output.dtype
    start, _, delta = (np.asarray(i, wide).reshape(()) for i in inputs)
    return start + np.arange(node.output.shape[0]).astype(wide) * delta


def _eye_like(node: Node, inputs: Sequence[np.ndarray | None]) -> object:
    rows, columns = node.output.shape
    return np.eye(rows, columns, node.attr("k", 0), node.output.dtype)


_CONSTANTS = ("value", "value_float", "value_floats", "value_int", "value_ints")
_MAKERS: dict[str, Callable[[Node, Sequence[np.ndarray | None]], object]] = {
    "Shape": _shape, "Size": _size, "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Range": _range, "EyeLike": _eye_like,
}
_BY_SHAPE = frozenset({"Shape", "Size", "EyeLike"})


@register
class Shaped(Op):
    """Runs whole; of an input whose shape alone matters a single element is named."""

    op_types = tuple(_MAKERS)

    def declines(self, node: Node) -> str | None:
        if node.op_type == "Constant" and all(node.attr(name) is None for name in _CONSTANTS):
            return "a constant of strings, or a sparse one"
        shapes = {"ConstantOfShape": {0: "input"}, "Range": {0: "start", 1: "limit", 2: "delta"}}.get(node.op_type, {})
        return foreign_type(node) or variable_among(node, shapes)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        if node.op_type in _BY_SHAPE:
            return tuple(touch(v.shape) for v in node.operands)
        return super().input_regions(node, out_region)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        with np.errstate(all="ignore"):
            return [np.asarray(_MAKERS[node.op_type](node, inputs)).astype(node.output.dtype, copy=False).reshape(node.output.shape)]

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0
