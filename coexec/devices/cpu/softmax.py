"""Softmax on float32: along the last axis a row at a time, along any other a vector of lines at a time."""

from __future__ import annotations

from functools import partial

import numpy as np

from .activations import exp
from .build import Piece, Program, builds
from .elementwise import part, put
from .jit import flat, kernel
from .rows import as_rows
from .simd import LANES, keep, largest, pick_less, pick_number, splat, total


@builds("Softmax")
def softmax(piece: Piece) -> Program | None:
    """Any axis, as long as what follows it lies side by side."""
    x, y = piece.inputs[0], piece.outputs[0]
    if not piece.is_float32 or piece.node.residual or piece.node.activation:
        return None
    axis = piece.node.attr("axis", -1) % x.ndim
    lines, inner = x.shape[axis], int(np.prod(x.shape[axis + 1:], dtype=np.int64))
    if inner == 1:
        x, y = x.reshape(x.shape[:axis + 1]) if x.ndim > axis + 1 else x, y.reshape(y.shape[:axis + 1]) if y.ndim > axis + 1 else y
        rows = as_rows(x, y, keep=axis)
        if rows is None or rows.length != lines or (lines > 1 and rows.steps != (1, 1)) or not np.shares_memory(y, piece.outputs[0]):
            return None
        run = partial(softmax_rows, flat(x), flat(y), rows.offsets, lines)
    else:
        rows = as_rows(x, y, keep=axis + 1)
        if rows is None or rows.length != inner or rows.steps != (1, 1):
            return None
        run = partial(softmax_lines, flat(x), flat(y), rows.offsets, lines, inner)
    return Program("f32_softmax_rows" if inner == 1 else "f32_softmax_lines", lambda scratch: run)


@kernel
def softmax_rows(x, y, offsets, length):
    for i in range(offsets.size // 2):
        x_at, y_at = offsets[2 * i], offsets[2 * i + 1]
        peaks = splat(np.float32(-np.inf))
        for j in range(0, length, LANES):
            v = part(x, x_at + j, 1, length - j)
            if length - j < LANES:
                v = v + keep(splat(np.float32(-np.inf)), length - j, LANES)
            peaks = pick_number(v, pick_less(peaks, v, v, peaks))
        peak = largest(peaks)
        sums = splat(np.float32(0))
        for j in range(0, length, LANES):
            v = exp(part(x, x_at + j, 1, length - j) - peak)
            put(y, y_at + j, v, length - j)
            sums = sums + keep(v, 0, length - j)
        factor = np.float32(1) / total(sums)
        for j in range(0, length, LANES):
            put(y, y_at + j, part(y, y_at + j, 1, length - j) * factor, length - j)


@kernel
def softmax_lines(x, y, offsets, lines, inner):
    for first in range(0, offsets.size, 2 * lines):
        for j in range(0, inner, LANES):
            left = inner - j
            peaks = splat(np.float32(-np.inf))
            for c in range(lines):
                v = part(x, offsets[first + 2 * c] + j, 1, left)
                peaks = pick_number(v, pick_less(peaks, v, v, peaks))
            sums = splat(np.float32(0))
            for c in range(lines):
                v = exp(part(x, offsets[first + 2 * c] + j, 1, left) - peaks)
                put(y, offsets[first + 2 * c + 1] + j, v, left)
                sums = sums + v
            factors = np.float32(1) / sums
            for c in range(lines):
                at = offsets[first + 2 * c + 1] + j
                put(y, at, part(y, at, 1, left) * factors, left)
