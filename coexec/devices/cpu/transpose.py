"""Transpose of float32: rows copied where the last axis stays side by side; else matrices turned, by squares of LANES x LANES where they are wide."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...ops.transpose import permutation
from .build import Piece, Program, builds
from .elementwise import part, put
from .jit import flat, kernel
from .matmul import matrix_offsets
from .rows import as_rows
from .simd import LANES, load, store, turn

#: Rows shorter than this are left to NumPy.
SHORTEST = 8
#: Long matrices of few rows with more elements are left to NumPy, too: it begins late, but is quicker by the element.
LARGEST = 1 << 14


@builds("Transpose")
def transpose(piece: Piece) -> Program | None:
    """Any permutation of what lies side by side in its last axis before and after."""
    y = piece.outputs[0]
    if not piece.is_float32 or piece.node.residual or piece.node.activation or y.ndim < 2:
        return None
    x = np.transpose(piece.inputs[0], permutation(piece.node))
    rows = as_rows(x, y)
    if rows is not None and rows.steps == (1, 1) and rows.length >= SHORTEST:
        run = partial(copy_rows, flat(x), flat(y), rows.offsets, rows.length)
        return Program("f32_transpose_rows", lambda scratch: run)
    if any(s < 0 for v in (x, y) for s in v.strides):
        return None
    across, along = joined(x, y)
    side = next((axis for axis, s in enumerate(across.strides[:-1]) if s == 4), None)  # the input's last axis
    if side is None or along.strides[-1] != 4:
        return None
    across, along = (np.moveaxis(v, side, -2) for v in (across, along))
    height, width = along.shape[-2:]
    offsets = np.stack([matrix_offsets(v, along.shape[:-2]) for v in (across, along)], axis=1).reshape(-1)
    geometry = np.array([height, width, across.strides[-1] // 4, along.strides[-2] // 4], np.int64)
    arrays = flat(x), flat(y), offsets, geometry
    if height < min(LANES, width) and along.size > LARGEST:
        return None
    if min(height, width) < LANES:
        return Program("f32_transpose_narrow", lambda scratch: partial(turn_narrow, *arrays))
    return Program("f32_transpose_squares", lambda scratch: partial(turn_squares, *arrays, scratch.view(np.float32)), 4 * LANES * LANES)


def joined(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of two arrays of one shape: neighbouring axes that each of them holds as if they were one become one, those of extent 1 go."""
    shape: list[int] = []
    steps: list[tuple[int, int]] = []
    for extent, step in zip(x.shape, zip(x.strides, y.strides)):
        if extent == 1:
            continue
        if shape and steps[-1] == (extent * step[0], extent * step[1]):
            shape[-1], steps[-1] = shape[-1] * extent, step
        else:
            shape.append(extent)
            steps.append(step)
    made = (np.lib.stride_tricks.as_strided(v, shape or (1,), [s[i] for s in steps] or (v.itemsize,)) for i, v in enumerate((x, y)))
    return next(made), next(made)


@kernel
def copy_rows(x, y, offsets, length):
    for i in range(0, offsets.size, 2):
        for j in range(0, length, LANES):
            put(y, offsets[i + 1] + j, part(x, offsets[i] + j, 1, length - j), length - j)


@kernel
def turn_squares(x, y, offsets, g, square):
    height, width, x_column, y_row = g[0], g[1], g[2], g[3]
    last_row, last_column = height - LANES, width - LANES
    for i in range(0, offsets.size, 2):
        # The last square of a row or column lies over the one before it where the extent is no multiple.
        for wanted_column in range(0, width, LANES):
            column = min(wanted_column, last_column)
            for wanted_row in range(0, height, LANES):
                row = min(wanted_row, last_row)
                turn(square, 0, x, offsets[i] + column * x_column + row, x_column)
                for r in range(LANES):
                    store(y, offsets[i + 1] + (row + r) * y_row + column, load(square, r * LANES))


@kernel
def turn_narrow(x, y, offsets, g):
    """Matrices of few rows or few columns: the longer side is the inner loop."""
    height, width, x_column, y_row = g[0], g[1], g[2], g[3]
    for i in range(0, offsets.size, 2):
        if height < width:
            for row in range(height):
                source, target = offsets[i] + row, offsets[i + 1] + row * y_row
                for column in range(width):
                    y[target + column] = x[source]
                    source += x_column
        else:
            for column in range(width):
                source, target = offsets[i] + column * x_column, offsets[i + 1] + column
                for row in range(height):
                    y[target] = x[source + row]
                    target += y_row
