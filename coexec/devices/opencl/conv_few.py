"""Convolutions of few output channels, where a work-item owns a core: rows are shifted, no panels gathered (conv_few.cl)."""

from __future__ import annotations

from math import prod

import numpy as np
import pyopencl as cl

from .builder import Compile
from .conv_shape import Shape, late_operands, strides
from .tail import i32
from .tiles import Tiles

#: Output channels that are made without gathering panels, and vectors of columns that a work-item makes of each at most.
MOST_FEW, FEW_VECTORS = 4, 6


def can_few(s: Shape, tiles: Tiles) -> bool:
    """True for one group of few output channels, more than one element of the kernel, a stride of 1 across, and rows of at least a vector."""
    return s.groups == 1 and s.out_channels <= MOST_FEW and prod(s.kernel) > 1 and s.strides[2] == 1 and s.y.shape[4] >= tiles.width


def build_few(c: Compile, s: Shape, tiles: Tiles) -> None:
    vectors = min(FEW_VECTORS, s.y.shape[4] // tiles.width, (tiles.registers - 1) // (s.out_channels + 1))
    columns = vectors * tiles.width
    w = c.packed(1, ("few",), lambda w: np.moveaxis(w.reshape(s.out_channels, -1), 0, 1))
    defines, tail = late_operands(c, s)
    defines |= {"MR": s.out_channels, "NV": vectors, "VW": tiles.width, **tiles.fma_define()}
    strip = cl.LocalMemory(4 * (columns + (s.kernel[2] - 1) * s.dilations[2] + 2 * tiles.width))
    c.implementation = f"f32_conv_few_{s.out_channels}x{columns}"
    c.launch(["vectors.clh", "strip.clh", "conv_few.cl"], "conv_few", defines, (-(-s.y.shape[4] // columns), s.y.shape[3], s.y.shape[0]), (1, 1, 1),
             s.x, strides(s.x), w, s.y, strides(s.y), *i32(s.in_channels), *s.args(), strip, *tail, in_step=True)
