"""Convolution with few output channels and stride 1, straight from the input: gathering columns would cost more than multiplying them.

Rows of the input that stick out of it are padded once; then every element of the kernel is a shift of one flat plane.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .activations import activate
from .build import Piece, Program
from .conv_depthwise import copy_row
from .jit import flat, helper, kernel, strides
from .panels import NO_FLOATS, round_up
from .simd import LANES, clamp, load, splat, store, sum_of_shifts

if TYPE_CHECKING:
    from .conv import Convolution

#: At most so many output channels; vectors of a tile, chosen so that its sums fit the registers.
MOST_CHANNELS = 4
WIDE = 6 if LANES == 16 else 3
#: A padded copy of more bytes than this is not made.
MOST_COPIED = 64 << 20


def few(piece: Piece, case: Convolution) -> Program | None:
    """One group, more than one tap, rows of at least one whole tile."""
    oc, ic, kh, kw = case.w.shape
    (n, _, h, w), (oh, ow), (dh, dw) = case.x.shape, case.y.shape[2:], case.dilations
    tile = WIDE * LANES
    if case.group != 1 or oc > MOST_CHANNELS or kh * kw == 1 or case.strides != (1, 1) or ow < tile:
        return None
    top, left = case.pads
    x_batch, x_channel, x_row, _ = strides(case.x)
    rows, across = oh + (kh - 1) * dh, ow + (kw - 1) * dw
    copied = top != 0 or left != 0 or h < rows or w < across
    pitch, plane = (across + LANES, rows * (across + LANES)) if copied else (x_row, x_channel)
    floats = ic * plane + LANES if copied else 0
    if 4 * floats > MOST_COPIED:
        return None
    shifts = np.array([c * plane + i * dh * pitch + j * dw for c in range(ic) for i in range(kh) for j in range(kw)], np.int64)
    a = piece.packed.get(case.weights, ("few", case.cut), lambda: np.ascontiguousarray(case.w.reshape(oc, -1).T, np.float32).reshape(-1))
    bias = np.zeros(oc, np.float32) if case.bias is None else np.array(case.bias, np.float32)
    res = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    floats = round_up(floats, LANES)
    geometry = np.array([n, ic, oc, h, w, top, left, oh, ow, rows, pitch, plane, copied, floats, x_batch, x_channel, x_row,
                         *strides(case.y)[:3], *res], np.int64)
    arrays = flat(case.x), a, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual), shifts

    def bind(scratch: np.ndarray):
        return partial(conv_few, *arrays, scratch.view(np.float32), geometry, *case.tail)

    return Program(f"f32_conv_few_{oc}x{tile}", bind, 4 * (floats + MOST_CHANNELS * tile))


@helper
def sum_tile(rows, a, x, x_at, shifts, c, c_at):
    """A tile of sums for that many output channels."""
    if rows == 1:
        sum_of_shifts(1, WIDE, a, 0, x, x_at, shifts, shifts.size, c, c_at)
    elif rows == 2:
        sum_of_shifts(2, WIDE, a, 0, x, x_at, shifts, shifts.size, c, c_at)
    elif rows == 3:
        sum_of_shifts(3, WIDE, a, 0, x, x_at, shifts, shifts.size, c, c_at)
    else:
        sum_of_shifts(4, WIDE, a, 0, x, x_at, shifts, shifts.size, c, c_at)


@kernel
def conv_few(x, a, bias, y, res, shifts, s, g, kind, alpha, beta, low, high):
    n, ic, oc, h, w, top, left, oh, ow, rows, pitch, plane = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11]
    copied, tile_at, x_batch, x_channel, x_row = g[12], g[13], g[14], g[15], g[16]
    y_batch, y_channel, y_row, r_batch, r_channel, r_row = g[17], g[18], g[19], g[20], g[21], g[22]
    width = WIDE * LANES
    if copied:
        for q in range(0, tile_at, LANES):
            store(s, q, splat(np.float32(0)))
    for batch in range(n):
        if copied:
            for c in range(ic):
                for r in range(max(0, top), min(rows, h + top)):
                    copy_row(s, c * plane + r * pitch, x, batch * x_batch + c * x_channel + (r - top) * x_row, 0, 1, left, w, pitch)
        for row in range(oh):
            for j in range(0, ow, width):
                start = min(j, ow - width)  # overlapping beats a partial tile
                if copied:
                    sum_tile(oc, a, s, row * pitch + start, shifts, s, tile_at)
                else:
                    sum_tile(oc, a, x, batch * x_batch + row * pitch + start, shifts, s, tile_at)
                for c in range(oc):
                    to = batch * y_batch + c * y_channel + row * y_row + start
                    ra = batch * r_batch + c * r_channel + row * r_row + start
                    for v in range(0, width, LANES):
                        value = load(s, tile_at + c * width + v) + bias[c]
                        if r_row >= 0:
                            value = value + load(res, ra + v)
                        store(y, to + v, clamp(value, low, high))
            if kind != 0:
                for c in range(oc):
                    to = batch * y_batch + c * y_channel + row * y_row
                    activate(y, to, ow, y, to, kind, alpha, beta)
