"""Pad: more (or, where negative, fewer) elements around a tensor: constant, reflected, repeated from the edge, or wrapped around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type, hull, integers, select, variable_among


def pad_widths(node: Node) -> list[tuple[int, int]]:
    """For each axis the elements added before and after; negative where elements are cropped."""
    rank, pads = len(node.operands[0].shape), integers(node.operands[1])
    named = integers(node.operand(3))
    axes = tuple(range(rank)) if named is None else axes_of(rank, named)
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = pads[i], pads[i + len(axes)]
    return widths


def pad_indices(mode: str, extent: int, begin: int, end: int, out: Interval) -> np.ndarray:
    """Which input element each output element in `out` copies along one axis of `extent` elements: -1 for the constant.

    Negative widths crop first; reflecting and wrapping then see what is left.
    """
    low, high = max(-begin, 0), extent - max(-end, 0)
    left = high - low
    at = np.arange(out.start, out.stop) - max(begin, 0)
    if mode == "constant":
        return np.where((at >= 0) & (at < left), at + low, -1)
    if mode == "edge":
        at = np.clip(at, 0, left - 1)
    elif mode == "wrap":
        at = at % max(left, 1)
    else:
        at = at % max(2 * (left - 1), 1)
        at = np.where(at >= left, 2 * (left - 1) - at, at)
    return at + low


@register
class Pad(Op):
    """May be cut on every axis; a piece that holds nothing but the constant still reads one element."""

    op_types = ("Pad",)

    def declines(self, node: Node) -> str | None:
        if reason := foreign_type(node) or variable_among(node, {1: "pads", 3: "axes"}):
            return reason
        mode = node.attr("mode", "constant")
        if mode not in ("constant", "reflect", "edge", "wrap"):
            return f"mode '{mode}' is unknown"
        for n, (begin, end) in zip(node.operands[0].shape, pad_widths(node)):
            left = n - max(-begin, 0) - max(-end, 0)
            if left < 0 or (mode != "constant" and left == 0 and max(begin, end) > 0):
                return "there is nothing left to pad with"
        return None

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def _indices(self, node: Node, out_region: Region) -> list[np.ndarray]:
        mode, shape = node.attr("mode", "constant"), node.operands[0].shape
        return [pad_indices(mode, n, *width, out) for n, width, out in zip(shape, pad_widths(node), out_region)]

    def _data_region(self, node: Node, indices: list[np.ndarray]) -> Region:
        return Region([hull(at[at >= 0], n) for at, n in zip(indices, node.operands[0].shape)])

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        data = self._data_region(node, self._indices(node, out_region))
        return (data, *(None if v is None else Region.whole(v.shape) for v in node.operands[1:]))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x, indices = inputs[0], self._indices(node, out_region)
        data = self._data_region(node, indices)
        value = inputs[2].reshape(-1)[0] if len(inputs) > 2 and inputs[2] is not None and inputs[2].size else 0
        found = np.full(out_region.shape, value, node.output.dtype)
        real = [np.flatnonzero(at >= 0) for at in indices]
        if all(r.size for r in real):
            for dim, (at, inside, mine) in enumerate(zip(indices, real, data)):
                x = select(x, dim, at[inside] - mine.start)
            # Elements that are no constant lie side by side in every mode.
            found[tuple(slice(int(r[0]), int(r[-1]) + 1) for r in real)] = x
        return [found]

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0
