"""Operators that fold axes away (ReduceSum and its kin, ArgMax, ArgMin) or run along one (CumSum, CumProd). Cut on the axes they keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type, integers, variable_among

Axes = tuple[int, ...]


def _lowest(dtype: np.dtype) -> object:
    return False if dtype == np.bool_ else -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _highest(dtype: np.dtype) -> object:
    return True if dtype == np.bool_ else np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _sum(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.add.reduce(x, axis=axes, dtype=x.dtype, keepdims=True)


def _mean(x: np.ndarray, axes: Axes) -> np.ndarray:
    count = np.prod([x.shape[a] for a in axes], dtype=np.int64)
    if x.dtype.kind in "fc":
        return _sum(x, axes) / x.dtype.type(count)
    return np.trunc(np.add.reduce(x.astype(np.float64), axis=axes, keepdims=True) / count)


def _log_sum_exp(x: np.ndarray, axes: Axes) -> np.ndarray:
    peak = np.maximum.reduce(x, axis=axes, keepdims=True, initial=_lowest(x.dtype))
    # exp(x - peak) cannot overflow; an infinite peak would make it NaN.
    peak = np.where(np.isfinite(peak), peak, x.dtype.type(0))
    return np.log(_sum(np.exp(x - peak), axes)) + peak


#: Operator -> its function (which keeps reduced axes at extent 1), and the operations an input element costs.
REDUCTIONS: dict[str, tuple[Callable[[np.ndarray, Axes], np.ndarray], int]] = {
    "ReduceSum": (_sum, 1), "ReduceMean": (_mean, 1),
    "ReduceMax": (lambda x, axes: np.maximum.reduce(x, axis=axes, keepdims=True, initial=_lowest(x.dtype)), 1),
    "ReduceMin": (lambda x, axes: np.minimum.reduce(x, axis=axes, keepdims=True, initial=_highest(x.dtype)), 1),
    "ReduceProd": (lambda x, axes: np.multiply.reduce(x, axis=axes, dtype=x.dtype, keepdims=True), 1),
    "ReduceL1": (lambda x, axes: _sum(np.abs(x), axes), 2), "ReduceL2": (lambda x, axes: np.sqrt(_sum(x * x, axes)), 2),
    "ReduceLogSum": (lambda x, axes: np.log(_sum(x, axes)), 1), "ReduceLogSumExp": (_log_sum_exp, 6),
    "ReduceSumSquare": (lambda x, axes: _sum(x * x, axes), 2),
}


class AlongAxes(Op):
    """What reductions share: reduced axes are read whole, kept ones where the output is written."""

    def reduced(self, node: Node) -> Axes:
        """The input axes that are folded, counted from the front."""
        raise NotImplementedError

    def keeps_dims(self, node: Node) -> bool:
        return bool(node.attr("keepdims", 1))

    def declines(self, node: Node) -> str | None:
        return foreign_type(node) or variable_among(node, {1: "axes"})

    def _input_dims(self, node: Node) -> list[int]:
        """For each output axis, the input axis it comes from."""
        rank = len(node.operands[0].shape)
        gone = () if self.keeps_dims(node) else self.reduced(node)
        return [d for d in range(rank) if d not in gone]

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        reduced, came_from = self.reduced(node), self._input_dims(node)
        return every_axis(node, lambda dim: came_from[dim] not in reduced)

    def _data_region(self, node: Node, out_region: Region) -> Region:
        reduced, region = self.reduced(node), Region.whole(node.operands[0].shape)
        for cut, dim in zip(out_region, self._input_dims(node)):
            if dim not in reduced:
                region = region.replace(dim, cut)
        return region

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (self._data_region(node, out_region), *(None if v is None else Region.whole(v.shape) for v in node.operands[1:]))


@register
class Reduce(AlongAxes):
    """Folds the axes its second input names: all of them where it names none, unless `noop_with_empty_axes` is set."""

    op_types = tuple(REDUCTIONS)

    def reduced(self, node: Node) -> Axes:
        rank, axes = len(node.operands[0].shape), integers(node.operand(1))
        if not axes:
            return () if node.attr("noop_with_empty_axes", 0) else tuple(range(rank))
        return axes_of(rank, axes)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = inputs[0]
        # Half is summed in single precision: NumPy's own order of summing half depends on the shape of the piece.
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        with np.errstate(all="ignore"):
            found = REDUCTIONS[node.op_type][0](wide, self.reduced(node))
            return [np.asarray(found, node.output.dtype).reshape(out_region.shape)]

    def flops(self, node: Node, out_region: Region) -> float:
        return float(REDUCTIONS[node.op_type][1] * self._data_region(node, out_region).size)


@register
class ArgReduce(AlongAxes):
    """The position of the largest or smallest element along one axis: the first of equals, or the last."""

    op_types = ("ArgMax", "ArgMin")

    def declines(self, node: Node) -> str | None:
        x = node.operands[0]
        if reason := foreign_type(node):
            return reason
        return None if x.shape and x.shape[self.reduced(node)[0]] else "the axis has no element"

    def reduced(self, node: Node) -> Axes:
        return axes_of(len(node.operands[0].shape), (node.attr("axis", 0),))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x, axis = inputs[0], self.reduced(node)[0]
        find = np.argmax if node.op_type == "ArgMax" else np.argmin
        if node.attr("select_last_index", 0):
            found = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis)
        else:
            found = find(x, axis=axis)
        return [np.asarray(found, np.int64).reshape(out_region.shape)]

    def flops(self, node: Node, out_region: Region) -> float:
        return float(self._data_region(node, out_region).size)


@register
class Cumulative(Op):
    """Running sums or products along one axis, from the front or the back, the element itself left out where `exclusive`."""

    op_types = ("CumSum", "CumProd")

    def declines(self, node: Node) -> str | None:
        return foreign_type(node) or variable_among(node, {1: "axis"})

    def _axis(self, node: Node) -> int:
        return axes_of(len(node.operands[0].shape), integers(node.operands[1]))[0]

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        axis = self._axis(node)
        return every_axis(node, lambda dim: dim != axis)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        axis = self._axis(node)
        return (out_region.replace(axis, (0, node.output.shape[axis])), Region.whole(node.operands[1].shape))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        axis, back = self._axis(node), bool(node.attr("reverse", 0))
        function = np.add if node.op_type == "CumSum" else np.multiply
        x = np.moveaxis(inputs[0], axis, 0)
        x = x[::-1] if back else x
        with np.errstate(all="ignore"):
            found = function.accumulate(x, axis=0, dtype=x.dtype)
        if node.attr("exclusive", 0):
            neutral = np.full((min(1, len(x)), *x.shape[1:]), function.identity, x.dtype)
            found = np.concatenate([neutral, found[:-1]])
        found = np.moveaxis(found[::-1] if back else found, 0, axis)
        return [found[(slice(None),) * axis + (out_region[axis].slice,)]]
