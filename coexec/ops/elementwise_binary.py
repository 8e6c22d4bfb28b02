"""Functions of several tensors, element by element, broadcast as NumPy broadcasts: arithmetic, logic, comparisons, Where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import broadcast_region, every_axis, foreign_type

Function = Callable[..., np.ndarray]


def _divide(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "fc":
        return x / y
    quotient = np.floor_divide(x, y)
    if x.dtype.kind == "u":
        return quotient
    # ONNX rounds towards zero, floor_divide down: one more where the exact quotient is negative and no integer.
    down = ((x < 0) != (y < 0)) & (quotient * y != x) & (y != 0)
    return quotient + down.astype(x.dtype)


def _power(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "f":
        return np.power(x, y)
    if y.dtype.kind == "f":
        return np.power(x.astype(np.float64), y.astype(np.float64))
    wide = np.uint64 if x.dtype.kind == "u" else np.int64
    powers = np.power(x.astype(wide), np.maximum(y, 0).astype(wide))
    # NumPy refuses integers to a negative power; truncated, only 1 and -1 leave something.
    inverse = np.where(x == 1, wide(1), wide(0))
    if x.dtype.kind == "i":
        inverse = np.where(x == -1, np.where(y % 2 == 0, wide(1), wide(-1)), inverse)
    return np.where(y < 0, inverse, powers)


def _modulo(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.fmod(x, y) if node.attr("fmod", 0) else np.mod(x, y)


def _shift(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    outside = (y < 0) | (y >= x.dtype.itemsize * 8)
    count = np.where(outside, y.dtype.type(0), y)
    if node.attr("direction") == "LEFT":
        return np.where(outside, x.dtype.type(0), np.left_shift(x, count))
    return np.where(outside, np.where(x < 0, x.dtype.type(0) - x.dtype.type(1), x.dtype.type(0)), np.right_shift(x, count))


def _all_of(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Function:
    return lambda node, *inputs: reduce(function, inputs)


def _mean(node: Node, *inputs: np.ndarray) -> np.ndarray:
    return reduce(np.add, inputs) / inputs[0].dtype.type(len(inputs))


def _two(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Function:
    return lambda node, x, y: function(x, y)


#: Operator -> its function, and how many operations an element costs (with two inputs, for those that take any number).
FUNCTIONS: dict[str, tuple[Function, int]] = {
    "Add": (_two(np.add), 1), "Sub": (_two(np.subtract), 1), "Mul": (_two(np.multiply), 1), "Div": (_divide, 1), "Pow": (_power, 8),
    "Mod": (_modulo, 3), "PRelu": (lambda node, x, slope: np.where(x < 0, x * slope, x), 2),
    "Min": (_all_of(np.minimum), 1), "Max": (_all_of(np.maximum), 1), "Sum": (_all_of(np.add), 1), "Mean": (_mean, 2),
    "And": (_two(np.logical_and), 1), "Or": (_two(np.logical_or), 1), "Xor": (_two(np.logical_xor), 1),
    "BitwiseAnd": (_two(np.bitwise_and), 1), "BitwiseOr": (_two(np.bitwise_or), 1), "BitwiseXor": (_two(np.bitwise_xor), 1),
    "BitShift": (_shift, 1), "Equal": (_two(np.equal), 1), "Less": (_two(np.less), 1), "LessOrEqual": (_two(np.less_equal), 1),
    "Greater": (_two(np.greater), 1), "GreaterOrEqual": (_two(np.greater_equal), 1),
    "Where": (lambda node, condition, x, y: np.where(condition, x, y), 1),
}

_VARIADIC = frozenset({"Min", "Max", "Sum", "Mean"})


@register
class ElementwiseBinary(Op):
    """An operator whose output element reads one element of every input; repeated inputs are read at (0, 1)."""

    op_types = tuple(FUNCTIONS)

    def declines(self, node: Node) -> str | None:
        if reason := foreign_type(node):
            return reason
        if not node.operands or any(v is None for v in node.operands):
            return "an input is absent"
        shape = np.broadcast_shapes(*(v.shape for v in node.operands)) if _compatible(node) else None
        return None if shape == node.output.shape else "the inputs do not broadcast to the output's shape"

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return tuple(broadcast_region(v.shape, node.output.shape, out_region) for v in node.operands)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        with np.errstate(all="ignore"):
            found = np.asarray(FUNCTIONS[node.op_type][0](node, *inputs))
            return [found.astype(node.output.dtype, copy=False)]

    def flops(self, node: Node, out_region: Region) -> float:
        each = FUNCTIONS[node.op_type][1] + (len(node.operands) - 2 if node.op_type in _VARIADIC else 0)
        return float(each * out_region.size)


def _compatible(node: Node) -> bool:
    """True where every operand's axes are the output's or 1."""
    out = node.output.shape
    return all(len(v.shape) <= len(out) and all(n in (1, full) for n, full in zip(reversed(v.shape), reversed(out)))
               for v in node.operands)
