"""Resize of planes on float32: rows blended by vectors, then columns gathered, both by the operator's own tables."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...ops.resize import resize_tables
from .build import Piece, Program, builds
from .elementwise import part, put
from .jit import flat, kernel, rows_contiguous, strides
from .panels import round_up
from .simd import LANES


@builds("Resize")
def resize(piece: Piece) -> Program | None:
    """(batch, channel, height, width) with the first two left alone; any mode."""
    x, y = piece.inputs[0], piece.outputs[0]
    if x.ndim != 4 or not piece.is_float32_operand(0) or piece.node.residual or piece.node.activation or not rows_contiguous(x, y):
        return None
    tables = resize_tables(piece.node)
    if not (tables[0].is_identity and tables[1].is_identity) or any(t.outside is not None for t in tables):
        return None
    at, by = [], []
    for dim in (2, 3):
        out, mine = piece.region[dim], piece.regions[0][dim]
        at.append(np.array(tables[dim].indices[out.slice] - mine.start, np.int64))
        by.append(np.array(tables[dim].weights[out.slice], np.float32))
    geometry = np.array([x.shape[0], x.shape[1], x.shape[3], *y.shape[2:], at[0].shape[1], at[1].shape[1], *strides(x)[:3], *strides(y)[:3],
                         tables[3].is_copy], np.int64)
    arrays = flat(x), flat(y), *(a.reshape(-1) for a in (*at, *by))

    def bind(scratch: np.ndarray):
        return partial(resize_planes, *arrays, scratch.view(np.float32), geometry)

    return Program(f"f32_resize_{at[0].shape[1]}x{at[1].shape[1]}", bind, 4 * round_up(x.shape[3], LANES))


@kernel
def resize_planes(x, y, row_at, column_at, row_by, column_by, line, g):
    n, channels, w, oh, ow, row_taps, column_taps = g[0], g[1], g[2], g[3], g[4], g[5], g[6]
    for image in range(n * channels):
        x_plane = image // channels * g[7] + image % channels * g[8]
        y_plane = image // channels * g[10] + image % channels * g[11]
        for row in range(oh):
            first = row * row_taps
            for j in range(0, w, LANES):
                total = part(x, x_plane + row_at[first] * g[9] + j, 1, w - j) * row_by[first]
                for t in range(1, row_taps):
                    total = total + part(x, x_plane + row_at[first + t] * g[9] + j, 1, w - j) * row_by[first + t]
                put(line, j, total, w - j)
            to = y_plane + row * g[12]
            if g[13]:
                for o in range(ow):
                    y[to + o] = line[column_at[o]]
            elif column_taps == 2:
                for o in range(ow):
                    y[to + o] = line[column_at[2 * o]] * column_by[2 * o] + line[column_at[2 * o + 1]] * column_by[2 * o + 1]
            else:
                for o in range(ow):
                    total_of = np.float32(0)
                    for t in range(o * column_taps, (o + 1) * column_taps):
                        total_of += line[column_at[t]] * column_by[t]
                    y[to + o] = total_of
