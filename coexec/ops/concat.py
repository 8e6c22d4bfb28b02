"""Concat: tensors side by side along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type


@register
class Concat(Op):
    """May be cut on every axis; along its own, a piece reads of each input the part that falls into it, perhaps nothing."""

    op_types = ("Concat",)

    def declines(self, node: Node) -> str | None:
        return foreign_type(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        axis = axes_of(len(node.output.shape), (node.attr("axis"),))[0]
        wanted, start, regions = out_region[axis], 0, []
        for value in node.operands:
            extent = value.shape[axis]
            begin, end = (min(max(edge - start, 0), extent) for edge in wanted)
            regions.append(out_region.replace(axis, (begin, end)))
            start += extent
        return tuple(regions)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        return [np.concatenate(inputs, axis=node.attr("axis"))]

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0
