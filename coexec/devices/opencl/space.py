"""DepthToSpace and SpaceToDepth: copies between six-dimensional views of both tensors."""

from __future__ import annotations

from dataclasses import replace

from .builder import ClOperand, Compile, builds
from .nd import copy


def _grid(x: ClOperand, block: int) -> ClOperand:
    """A window [batch, channel, height, width] of the large image as (batch, channel, height, row, width, column)."""
    b, ch, h, w = x.shape
    sb, sc, sh, sw = x.strides
    return replace(x, shape=(b, ch, h // block, block, w // block, block), strides=(sb, sc, sh * block, sh, sw * block, sw))


def _deep(x: ClOperand, block: int, column_row_depth: bool) -> ClOperand:
    """A window of the small, deep image as (batch, channel, height, row, width, column)."""
    b, depth, h, w = x.shape
    sb, sd, sh, sw = x.strides
    ch = depth // block**2
    channel, row, column = (block**2, block, 1) if column_row_depth else (1, block * ch, ch)
    return replace(x, shape=(b, ch, h, block, w, block), strides=(sb, sd * channel, sh, sd * row, sw, sd * column))


@builds("DepthToSpace", "SpaceToDepth", narrow=True)
def build(c: Compile) -> None:
    x, y, block = c.input(0), c.output(), c.node.attr("blocksize")
    together = c.node.attr("mode", "DCR") == "CRD"
    c.implementation = f"b{8 * x.dtype.itemsize}_{c.node.op_type.lower()}_copy"
    if c.node.op_type == "DepthToSpace":
        copy(c, _deep(x, block, together), _grid(y, block))
    else:
        copy(c, _grid(x, block), _deep(y, block, together))
