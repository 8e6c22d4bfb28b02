"""DepthToSpace and SpaceToDepth: blocks of pixels into channels and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region
from .base import Op, SplitAxis, register
from .operands import every_axis, foreign_type


def _channels_first(node: Node) -> bool:
    """True for CRD: a channel's block lies side by side, so that a cut between channels is a box on both sides."""
    return node.attr("mode", "DCR") == "CRD"


class Blocks(Op):
    """What the two share: NCHW only, cut on batch, height and width, and on channels where they stay together."""

    def declines(self, node: Node) -> str | None:
        return foreign_type(node) or (None if len(node.output.shape) == 4 else "only tensors of rank 4")

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0


@register
class DepthToSpace(Blocks):
    """[N, C*b*b, H, W] -> [N, C, H*b, W*b]; height and width are cut between blocks."""

    op_types = ("DepthToSpace",)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        axes = every_axis(node, lambda dim: dim != 1 or _channels_first(node))
        block = node.attr("blocksize")
        # A single block cannot be cut.
        return tuple(a if a.dim < 2 else a._replace(multiple=block) for a in axes if a.dim < 2 or a.extent > block)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        block, (batch, channel, height, width) = node.attr("blocksize"), out_region
        area = block * block
        depth = Interval(0, node.operands[0].shape[1])
        if _channels_first(node):
            depth = Interval(channel.start * area, channel.stop * area)
        return (Region([batch, depth, *(Interval(i.start // block, -(-i.stop // block)) for i in (height, width))]),)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        block, x = node.attr("blocksize"), inputs[0]
        n, c, h, w = x.shape
        depth = c // (block * block)
        if _channels_first(node):
            blocks = x.reshape(n, depth, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        else:
            blocks = x.reshape(n, block, block, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
        found = blocks.reshape(n, depth, h * block, w * block)
        # Blocks at the edges of a piece, and DCR's other channels, are more than was asked for.
        first = [0 if _channels_first(node) else out_region[1].start, *(i.start % block for i in out_region[2:])]
        return [found[(slice(None), *(slice(f, f + i.size) for f, i in zip(first, out_region[1:])))]]


@register
class SpaceToDepth(Blocks):
    """[N, C, H*b, W*b] -> [N, C*b*b, H, W]; with CRD channels are cut between whole blocks."""

    op_types = ("SpaceToDepth",)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        area = node.attr("blocksize") ** 2
        axes = every_axis(node, lambda dim: dim != 1 or (_channels_first(node) and node.output.shape[1] > area))
        return tuple(a._replace(multiple=area) if a.dim == 1 else a for a in axes)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        block, (batch, channel, height, width) = node.attr("blocksize"), out_region
        area = block * block
        depth = Interval(0, node.operands[0].shape[1])
        if _channels_first(node):
            depth = Interval(channel.start // area, -(-channel.stop // area))
        return (Region([batch, depth, *(Interval(i.start * block, i.stop * block) for i in (height, width))]),)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        block, x = node.attr("blocksize"), inputs[0]
        n, c, h, w = x.shape[0], x.shape[1], x.shape[2] // block, x.shape[3] // block
        order = (0, 1, 3, 5, 2, 4) if _channels_first(node) else (0, 3, 5, 1, 2, 4)
        found = x.reshape(n, c, h, block, w, block).transpose(order).reshape(n, c * block * block, h, w)
        first = out_region[1].start % (block * block) if _channels_first(node) else out_region[1].start
        return [found[:, first:first + out_region[1].size]]
