"""Softmax, LogSoftmax, Hardmax: along one axis, which is never cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .sliding import best_first, not_floats, widened


class _AlongAxis(Op):
    """X -> Y of the same shape, each line along `axis` (default: the last) on its own."""

    #: Floating-point operations per element.
    effort = 5.0

    def declines(self, node: Node) -> str | None:
        rank = len(node.output.shape)
        if not -rank <= node.attr("axis", -1) < rank:
            return f"{node.op_type} along axis {node.attr('axis', -1)} of a tensor of rank {rank}"
        return not_floats(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        rank = len(node.output.shape)
        return best_first(node, [d for d in range(rank) if d != node.attr("axis", -1) % rank])

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region,)

    def flops(self, node: Node, out_region: Region) -> float:
        return self.effort * out_region.size

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        if not out_region.size:
            return [np.empty(out_region.shape, node.output.dtype)]
        return [self._apply(widened(inputs[0]), node.attr("axis", -1)).astype(node.output.dtype, copy=False)]

    def _apply(self, x: np.ndarray, axis: int) -> np.ndarray:
        raise NotImplementedError


@register
class Softmax(_AlongAxis):
    """exp(x) / sum(exp(x))."""

    op_types = ("Softmax",)

    def _apply(self, x: np.ndarray, axis: int) -> np.ndarray:
        y = np.exp(x - x.max(axis=axis, keepdims=True))
        y /= y.sum(axis=axis, keepdims=True)
        return y


@register
class LogSoftmax(_AlongAxis):
    """x - log(sum(exp(x)))."""

    op_types = ("LogSoftmax",)

    def _apply(self, x: np.ndarray, axis: int) -> np.ndarray:
        y = x - x.max(axis=axis, keepdims=True)
        y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
        return y


@register
class Hardmax(_AlongAxis):
    """1 at the first largest element, 0 elsewhere."""

    op_types = ("Hardmax",)
    effort = 1.0

    def _apply(self, x: np.ndarray, axis: int) -> np.ndarray:
        y = np.zeros_like(x)
        np.put_along_axis(y, np.expand_dims(x.argmax(axis=axis), axis), 1, axis=axis)
        return y
