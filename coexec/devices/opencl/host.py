"""Packing weights on the host for OpenCL kernels: many threads at once, by the packers that the CPU's kernels use too."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import numpy as np

from ...ops.conv_ways import Window, best

if TYPE_CHECKING:
    from ..cpu.packing import Packing
    from ..cpu.shared import Packed

#: How packed weights are aligned (bytes): as the widest vectors of OpenCL C.
ALIGNMENT = 128


def once(owner: np.ndarray, part: Hashable, layout: Hashable, make: Callable[[], Packing]) -> Packed:
    """That part of a constant in that layout, filled: the CPU's own copy where it has one."""
    from ..cpu.shared import fill, packed_once

    found = packed_once(owner, part, layout, make)
    fill([found], threads=_threads())
    return found


def rows(stack: np.ndarray, width: int) -> Packing:
    """A float32 stack of matrices (count, rows, depth) as [matrix][tile of rows][depth][width], flat, zeros beyond the last row."""
    from ..cpu.panels import pack_rows

    return pack_rows(stack, rows=width)


def columns(matrix: np.ndarray, width: int) -> np.ndarray:
    """A float32 matrix (depth, columns) as [panel][depth][width], flat, zeros beyond the last column."""
    from ..cpu.packing import pack, strips_of

    row, column = (s // 4 for s in matrix.strides)
    return _filled(pack(matrix, strips_of(*matrix.shape, width, row, column), row, column))


def filters(w: np.ndarray, m: int, width: int, groups: int) -> Packing:
    """Float32 filters as the CPU transforms them: of 3x3 elements for F(m x m, 3 x 3), or the two by two blocks of larger ones for F(4 x 4, 4 x 4);
    [group][tile of channels][point][block][in channel][width], flat.
    """
    from ..cpu import winograd, winograd_blocks
    from ..cpu.packing import pack_filters

    if w.shape[2] == 3:
        return pack_filters(w, winograd.G[m], width, groups)
    return pack_filters(w, winograd_blocks.G, width, groups, blocks=2)


def strips(w: np.ndarray) -> Packing:
    """Filters (out, in, *kernel), float32, as the CPU packs those of small maps (`strip_widths`)."""
    from ..cpu.matmul import pack_strips

    return pack_strips(w.reshape(w.shape[0], -1).T)


def strip_widths(channels: int) -> tuple[int, int, int]:
    """How `strips` cuts channels: the width of those that begin before a channel, that channel, and the width of what is left."""
    from ..cpu.simd import LANES, PANEL

    vectors = -(-channels // LANES)
    left = vectors % (PANEL // LANES)
    if left == 1 and vectors > 1:
        left = 4  # two strips of two
    return PANEL, (vectors - left) * LANES, (2 if left == 4 else left or 1) * LANES


def packs_strips(channels: tuple[int, int], window: Window, height: int, width: int) -> bool:
    """Whether the CPU packs strips for a piece of height x width pixels of a convolution of (in, out) channels."""
    from ..cpu.simd import LANES, ROWS

    return best(*channels, height, width, window, LANES, ROWS) == "rows"


def common_rows() -> int:
    """Rows of the tiles that the CPU's kernels are made of."""
    from ..cpu.simd import ROWS

    return ROWS


def _filled(packing: Packing) -> np.ndarray:
    from ..cpu.threads import run_all

    run_all(packing.tasks, _threads())
    return packing.data


def _threads() -> int:
    from ..cpu.device import packing_threads

    return packing_threads()
