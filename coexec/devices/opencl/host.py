"""Packing weights on the host for OpenCL kernels: many threads at once, by the packers that the CPU's kernels use too."""

from __future__ import annotations

import numpy as np

from ... import settings

#: How packed weights are aligned (bytes): as the widest vectors of OpenCL C.
ALIGNMENT = 128


def rows(stack: np.ndarray, width: int) -> np.ndarray:
    """A float32 stack of matrices (count, rows, depth) as [matrix][tile of rows][depth][width], flat, zeros beyond the last row."""
    from ..cpu.packing import pack, side_by_side, strips_of

    each, row, column = (s // 4 for s in stack.strides)
    what = side_by_side(strips_of(stack.shape[2], stack.shape[1], width, column, row), len(stack), each)
    return _filled(pack(stack, what, column, row))


def columns(matrix: np.ndarray, width: int) -> np.ndarray:
    """A float32 matrix (depth, columns) as [panel][depth][width], flat, zeros beyond the last column."""
    from ..cpu.packing import pack, strips_of

    row, column = (s // 4 for s in matrix.strides)
    return _filled(pack(matrix, strips_of(*matrix.shape, width, row, column), row, column))


def filters(w: np.ndarray, transform: np.ndarray, width: int, groups: int) -> np.ndarray:
    """3x3 float32 filters transformed, as [group][tile of channels][point][in channel][width], flat."""
    from ..cpu.packing import pack_filters

    return _filled(pack_filters(w, transform, width, groups))


def _filled(packing) -> np.ndarray:
    from ..cpu.device import usable_cores
    from ..cpu.threads import run_all

    run_all(packing.tasks, settings.get("threads") or usable_cores())
    return packing.data
