"""Slice: every step-th element of some axes, forwards or backwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type, integers, touch, variable_among


def slice_steps(node: Node) -> list[tuple[int, int]]:
    """For each axis (start, step): output element o is input element start + o * step."""
    shape = node.operands[0].shape
    starts, ends = integers(node.operands[1]), integers(node.operands[2])
    axes = axes_of(len(shape), integers(node.operand(3)) or range(len(starts)))
    steps = integers(node.operand(4)) or (1,) * len(starts)
    found = [(0, 1)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps):
        first, _, _ = slice(start, end, step).indices(shape[axis])
        found[axis] = (first, step)
    return found


@register
class Slice(Op):
    """May be cut on every axis; starts, ends, axes and steps are constant."""

    op_types = ("Slice",)

    def declines(self, node: Node) -> str | None:
        return foreign_type(node) or variable_among(node, {1: "starts", 2: "ends", 3: "axes", 4: "steps"})

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        data = touch(node.operands[0].shape)
        for dim, (out, (start, step)) in enumerate(zip(out_region, slice_steps(node))):
            if out.size:
                ends = start + out.start * step, start + (out.stop - 1) * step
                data = data.replace(dim, (min(ends), max(ends) + 1))
        return (data, *(None if v is None else Region.whole(v.shape) for v in node.operands[1:]))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        # A piece begins and ends with elements that are wanted, so that the step alone finds them, in both directions.
        steps = (slice(None, None, step) if out.size else slice(0, 0) for out, (_, step) in zip(out_region, slice_steps(node)))
        return [inputs[0][tuple(steps)]]

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0
