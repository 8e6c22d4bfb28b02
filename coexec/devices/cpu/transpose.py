"""Transpose of float32: rows copied where the last axis stays side by side, squares of LANES x LANES turned where two axes change places."""

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


@builds("Transpose")
def transpose(piece: Piece) -> Program | None:
    """Any permutation whose last two axes hold the input's last one."""
    y = piece.outputs[0]
    if not piece.is_float32 or piece.node.residual or piece.node.activation or y.ndim < 2:
        return None
    x = np.transpose(piece.inputs[0], permutation(piece.node))
    rows = as_rows(x, y)
    if rows is not None and rows.steps == (1, 1) and rows.length >= SHORTEST:
        run = partial(copy_rows, flat(x), flat(y), rows.offsets, rows.length)
        return Program("f32_transpose_rows", lambda scratch: run)
    height, width = y.shape[-2:]
    if x.strides[-2] != 4 or y.strides[-1] != 4 or min(height, width) < LANES or any(s < 0 for v in (x, y) for s in v.strides):
        return None
    offsets = np.stack([matrix_offsets(v, y.shape[:-2]) for v in (x, y)], axis=1).reshape(-1)
    geometry = np.array([height, width, x.strides[-1] // 4, y.strides[-2] // 4], np.int64)
    arrays = flat(x), flat(y), offsets, geometry
    return Program("f32_transpose_squares", lambda scratch: partial(turn_squares, *arrays, scratch.view(np.float32)), 4 * LANES * LANES)


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
