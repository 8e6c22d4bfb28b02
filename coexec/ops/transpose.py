"""Transpose: the axes of a tensor in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type


def permutation(node: Node) -> tuple[int, ...]:
    """For each output axis the input axis it is; reversed where the node does not say."""
    rank = len(node.operands[0].shape)
    perm = node.attr("perm")
    return tuple(reversed(range(rank))) if perm is None else axes_of(rank, perm)


@register
class Transpose(Op):
    """May be cut on every axis."""

    op_types = ("Transpose",)

    def declines(self, node: Node) -> str | None:
        return foreign_type(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        came_from = dict(zip(permutation(node), out_region))
        return (Region([came_from[d] for d in range(len(out_region))]),)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        return [np.transpose(inputs[0], permutation(node))]

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0
