"""Convolution of few input channels (a network's first): every element of the kernel is a shift of a padded plane, nothing is gathered.

A band of input rows is copied once into planes, one for each phase of the stride along the width; the matrix tiles then read their
rows straight from there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .build import Piece, Program
from .conv_depthwise import copy_row
from .jit import flat, kernel, strides
from .panels import NO_FLOATS, multiply_rows, pack_bias, round_up, strip_vectors
from .simd import LANES, PANEL, ROWS, splat, store

if TYPE_CHECKING:
    from .conv import Convolution

#: At most so many input channels and elements of one output's sum; what a band may take (bytes).
MOST_CHANNELS, MOST_DEPTH, BAND_BYTES = 4, 512, 256 * 1024


def shallow(piece: Piece, case: Convolution) -> Program | None:
    """One group and more than one tap."""
    oc, ic, kh, kw = case.w.shape
    (n, _, h, w), (oh, ow), (sh, sw), (dh, dw) = case.x.shape, case.y.shape[2:], case.strides, case.dilations
    k = ic * kh * kw
    if case.group != 1 or ic > MOST_CHANNELS or kh * kw == 1 or k > MOST_DEPTH or ow < LANES:
        return None
    pitch = round_up(ow, LANES) + (kw - 1) * dw // sw + LANES
    reach = (kh - 1) * dh + 1
    band = max(1, min(oh, (BAND_BYTES // (4 * ic * sw * pitch) - reach) // sh + 1))
    rows = (band - 1) * sh + reach
    shifts = np.array([((c * sw + j * dw % sw) * rows + i * dh) * pitch + j * dw // sw
                       for c in range(ic) for i in range(kh) for j in range(kw)], np.int64)

    def pack() -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((round_up(oc, ROWS), k), np.float32)
        padded[:oc] = case.w.reshape(oc, k)
        return np.ascontiguousarray(padded.reshape(-1, ROWS, k).transpose(0, 2, 1)).reshape(-1), pack_bias(case.bias, oc)

    a, bias = piece.packed.get(case.weights, ("shallow", case.cut), pack)
    res = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    floats = round_up(ic * sw * rows * pitch + LANES, LANES)
    geometry = np.array([n, ic, h, w, sh, sw, *case.pads, oc, oh, ow, band, rows, pitch, floats, *strides(case.x)[:3], *strides(case.y)[:3],
                         *res], np.int64)
    arrays = flat(case.x), a, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual), shifts

    def bind(scratch: np.ndarray):
        return partial(conv_shallow, *arrays, scratch.view(np.float32), geometry, *case.tail)

    return Program(f"f32_conv_shallow_{ROWS}x{PANEL}", bind, 4 * floats)


@kernel
def conv_shallow(x, a, bias, y, res, shifts, s, g, kind, alpha, beta, low, high):
    n, ic, h, w, sh, sw, top, left, oc, oh, ow, band = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11]
    rows, pitch, floats, x_batch, x_channel, x_row = g[12], g[13], g[14], g[15], g[16], g[17]
    y_batch, y_channel, y_row, r_batch, r_channel, r_row = g[18], g[19], g[20], g[21], g[22], g[23]
    for q in range(0, floats, LANES):
        store(s, q, splat(np.float32(0)))
    for batch in range(n):
        for first in range(0, oh, band):
            for c in range(ic):
                for r in range(rows):
                    row = first * sh - top + r
                    for phase in range(sw):
                        to = ((c * sw + phase) * rows + r) * pitch
                        if 0 <= row < h:
                            copy_row(s, to, x, batch * x_batch + c * x_channel + row * x_row, phase, sw, left, w, pitch)
                        else:
                            for q in range(pitch):
                                s[to + q] = np.float32(0)
            for o in range(first, min(oh, first + band)):
                start = 0
                while start < ow:
                    vectors = strip_vectors(ow - start)
                    width = vectors * LANES
                    multiply_rows(vectors, a, 0, shifts.size, shifts.size, s, (o - first) * sh * pitch + start, oc,
                                  y, batch * y_batch + o * y_row + start, y_channel, min(width, ow - start), bias, 0, 0, 0, 1,
                                  res, batch * r_batch + o * r_row + start, r_channel, kind, alpha, beta, low, high, shifts)
                    start += width
