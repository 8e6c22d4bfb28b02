"""Expand and Tile: copies that read elements again, by strides of 0 or by indices that wrap around."""

from __future__ import annotations

from .builder import Compile, builds
from .nd import broadcast, copy
from .pad import mapped


@builds("Expand", narrow=True)
def build(c: Compile) -> None:
    x, y = c.input(0), c.output()
    c.implementation = f"b{8 * x.dtype.itemsize}_expand_copy"
    copy(c, broadcast(x, y.shape), y)


@builds("Tile", narrow=True)
def build_tile(c: Compile) -> None:
    c.implementation = f"b{8 * c.node.output.dtype.itemsize}_tile_copy"
    mapped(c, "wrap", [(0, 0)] * len(c.region))
