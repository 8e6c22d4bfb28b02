"""Expand and Tile: a tensor repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region
from .base import Op, SplitAxis, register
from .operands import broadcast_region, every_axis, foreign_type, select, variable_among


class Repeating(Op):
    """What the two share: cut on every axis, the repeats constant."""

    def declines(self, node: Node) -> str | None:
        return foreign_type(node) or variable_among(node, {1: "shape" if node.op_type == "Expand" else "repeats"})

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0


@register
class Expand(Repeating):
    """Axes of one element repeated, as NumPy broadcasts."""

    op_types = ("Expand",)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        x, shape = node.operands
        return (broadcast_region(x.shape, node.output.shape, out_region), Region.whole(shape.shape))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        return [np.broadcast_to(inputs[0], out_region.shape)]


@register
class Tile(Repeating):
    """The whole tensor repeated along each axis; a piece within one repeat reads only its own part."""

    op_types = ("Tile",)

    def _data_region(self, node: Node, out_region: Region) -> Region:
        return Region([_period(out, n) for out, n in zip(out_region, node.operands[0].shape)])

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (self._data_region(node, out_region), Region.whole(node.operands[1].shape))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        found = inputs[0]
        for dim, (out, n, mine) in enumerate(zip(out_region, node.operands[0].shape, self._data_region(node, out_region))):
            found = select(found, dim, np.arange(out.start, out.stop) % max(n, 1) - mine.start)
        return [found]


def _period(out: Interval, extent: int) -> Interval:
    """The elements that repeat into `out`: all of them where it crosses from one repeat into the next."""
    if not out.size:
        return Interval(0, min(1, extent))
    start = out.start % extent
    return Interval(start, start + out.size) if start + out.size <= extent else Interval(0, extent)
