"""Split: one tensor into several along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type, variable_among


@register
class Split(Op):
    """The first output's region decides what of each output is written; cut on the other axes only."""

    op_types = ("Split",)

    def declines(self, node: Node) -> str | None:
        if reason := foreign_type(node) or variable_among(node, {1: "split"}):
            return reason
        if any(v is None for v in node.outputs):
            return "an output is absent"
        # Pieces are pieces of the first output: where it has none, nothing would make the others.
        return "the first output is empty, others are not" if not node.output.type.size and node.operands[0].type.size else None

    def _axis(self, node: Node) -> int:
        return axes_of(len(node.output.shape), (node.attr("axis", 0),))[0]

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        axis = self._axis(node)
        return every_axis(node, lambda dim: dim != axis)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        axis = self._axis(node)
        data = out_region.replace(axis, (0, node.operands[0].shape[axis]))
        return (data, *(None if v is None else Region.whole(v.shape) for v in node.operands[1:]))

    def output_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        axis = self._axis(node)
        return (out_region, *(out_region.replace(axis, (0, v.shape[axis])) for v in node.outputs[1:]))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        axis, start, found = self._axis(node), 0, []
        for value, region in zip(node.outputs, self.output_regions(node, out_region)):
            wanted = slice(start + region[axis].start, start + region[axis].stop)
            found.append(inputs[0][(slice(None),) * axis + (wanted,)])
            start += value.shape[axis]
        return found

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0
