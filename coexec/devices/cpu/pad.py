"""Pad of four-byte elements: whole rows filled or copied, the few elements at either end of a row by index."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...ops.pad import pad_indices, pad_widths
from .build import Piece, Program, builds
from .elementwise import put
from .jit import flat, kernel, rows_contiguous
from .simd import LANES, load, load_inside, splat


@builds("Pad")
def pad(piece: Piece) -> Program | None:
    """Every mode; a constant that is no constant operand is left to NumPy."""
    node, x, y = piece.node, piece.inputs[0], piece.outputs[0]
    if y.ndim < 1 or y.dtype.itemsize != 4 or node.residual or node.activation or not x.size or not rows_contiguous(x, y):
        return None
    value = np.zeros(1, y.dtype)
    if not piece.absent(2):
        if piece.constant(2) is None:
            return None
        value = piece.constant(2).reshape(-1)[:1].astype(y.dtype)
    if any(s < 0 for v in (x, y) for s in v.strides):
        return None
    mode, shape = node.attr("mode", "constant"), node.inputs[0].shape
    indices = [pad_indices(mode, n, *width, out) for n, width, out in zip(shape, pad_widths(node), piece.region)]
    indices = [np.where(at < 0, -1, at - mine.start) for at, mine in zip(indices, piece.regions[0])]
    from_row, to_row = np.zeros((), np.int64), np.zeros((), np.int64)
    for at, xs, ys in zip(indices[:-1], x.strides, y.strides):
        here = from_row[..., None] + at * (xs // 4)
        from_row = np.where((at < 0) | (from_row[..., None] < 0), -1, here)
        to_row = to_row[..., None] + np.arange(at.size) * (ys // 4)
    at = np.ascontiguousarray(indices[-1])
    start = int(np.argmax(at >= 0))
    while start + 1 < at.size and at[start + 1] != at[start] + 1:
        start += 1
    stop = start + 1
    while stop < at.size and at[stop] == at[stop - 1] + 1:
        stop += 1
    if at[start] < 0:
        start = stop = 0
    run = partial(pad_rows, flat(x.view(np.float32)), flat(y.view(np.float32)), np.ascontiguousarray(from_row.reshape(-1)),
                  np.ascontiguousarray(to_row.reshape(-1)), at, start, stop, value.view(np.float32))
    return Program(f"{y.dtype.name}_pad_rows", lambda scratch: run)


@kernel
def pad_rows(x, y, from_row, to_row, at, start, stop, value):
    length = at.size
    for i in range(from_row.size):
        source, to = from_row[i], to_row[i]
        if source < 0:
            for j in range(0, length, LANES):
                put(y, to + j, splat(value[0]), length - j)
            continue
        for j in range(start):
            y[to + j] = value[0] if at[j] < 0 else x[source + at[j]]
        middle = source + at[start] - start
        for j in range(start, stop, LANES):
            left = stop - j
            put(y, to + j, load(x, middle + j) if left >= LANES else load_inside(x, middle + j, 1, 0, left), left)
        for j in range(stop, length):
            y[to + j] = value[0] if at[j] < 0 else x[source + at[j]]
