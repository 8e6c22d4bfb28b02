"""Depthwise convolution: a channel at a time, vectors along the width, nothing gathered; the tail fused in."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .activations import activate
from .build import Piece, Program
from .jit import flat, inlined, kernel, strides
from .panels import NO_FLOATS
from .simd import LANES, clamp, load, load_inside, load_strided, splat, store, store_first

if TYPE_CHECKING:
    from .conv import Convolution


def depthwise(piece: Piece, case: Convolution) -> Program | None:
    """One input channel per group, strides along the width of 1 or 2; any kernel, dilation and padding."""
    oc, per_group, kh, kw = case.w.shape
    if per_group != 1 or case.group < 2 or case.strides[1] > 2 or not case.w.size:
        return None
    n, _, h, w = case.x.shape
    _, _, oh, ow = case.y.shape
    factors = piece.packed.get(case.weights, ("depthwise", case.cut), lambda: np.ascontiguousarray(case.w, np.float32).copy().reshape(-1))
    bias = np.zeros(oc, np.float32) if case.bias is None else np.array(case.bias, np.float32)
    res_strides = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    geometry = np.array([n, oc, oc // case.group, h, w, kh, kw, *case.strides, *case.dilations, *case.pads, oh, ow,
                         *strides(case.x)[:3], *strides(case.y)[:3], *res_strides], np.int64)
    arrays = flat(case.x), factors, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual)
    run = partial(conv_depthwise, *arrays, geometry, *case.tail)
    return Program(f"f32_conv_depthwise_{kh}x{kw}s{case.strides[1]}", lambda scratch: run)


@inlined
def row_sum(total, x, at, step, f, f_at, kw, dw):
    """total + the taps of one kernel row on LANES neighbouring outputs, all inside the input."""
    if step == 1:
        if kw == 3:
            total = total + load(x, at) * f[f_at]
            total = total + load(x, at + dw) * f[f_at + 1]
            total = total + load(x, at + 2 * dw) * f[f_at + 2]
        elif kw == 5:
            total = total + load(x, at) * f[f_at]
            total = total + load(x, at + dw) * f[f_at + 1]
            total = total + load(x, at + 2 * dw) * f[f_at + 2]
            total = total + load(x, at + 3 * dw) * f[f_at + 3]
            total = total + load(x, at + 4 * dw) * f[f_at + 4]
        else:
            for k in range(kw):
                total = total + load(x, at + k * dw) * f[f_at + k]
    elif kw == 3:
        total = total + load_strided(x, at, 2, 0) * f[f_at]
        total = total + load_strided(x, at + dw, 2, 0) * f[f_at + 1]
        total = total + load_strided(x, at + 2 * dw, 2, 0) * f[f_at + 2]
    else:
        for k in range(kw):
            total = total + load_strided(x, at + k * dw, 2, 0) * f[f_at + k]
    return total


@inlined
def row_sum_inside(total, x, row_at, column, w, step, f, f_at, kw, dw):
    """The same where some taps may lie outside the row of w elements at row_at; those count as 0."""
    for k in range(kw):
        first = column + k * dw
        if step == 1:
            total = total + load_inside(x, row_at + first, 1, -first, w - first) * f[f_at + k]
        else:
            total = total + load_inside(x, row_at + first, 2, -first, w - first) * f[f_at + k]
    return total


@kernel
def conv_depthwise(x, f, bias, y, res, g, kind, alpha, beta, low, high):
    n, oc, multiplier, h, w, kh, kw, sh, sw, dh, dw, top, left = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11], g[12]
    oh, ow, x_batch, x_channel, x_row, y_batch, y_channel, y_row = g[13], g[14], g[15], g[16], g[17], g[18], g[19], g[20]
    r_batch, r_channel, r_row = g[21], g[22], g[23]
    taps = kh * kw
    reach = (kw - 1) * dw + sw * LANES  # elements that a vector of outputs may read, the strided load's last one included
    for plane in range(n * oc):
        batch, channel = plane // oc, plane % oc
        x_plane = batch * x_batch + channel // multiplier * x_channel
        for row in range(oh):
            first_row = row * sh - top
            y_at = batch * y_batch + channel * y_channel + row * y_row
            r_at = batch * r_batch + channel * r_channel + row * r_row
            start = 0
            while start < ow:
                if start + LANES > ow and ow >= LANES:
                    start = ow - LANES  # overlaps what is written already: cheaper than a partial vector
                column = start * sw - left
                inside = column >= 0 and column + reach <= w
                total = splat(bias[channel])
                for i in range(kh):
                    r = first_row + i * dh
                    if 0 <= r < h:
                        f_at = channel * taps + i * kw
                        if inside:
                            total = row_sum(total, x, x_plane + r * x_row + column, sw, f, f_at, kw, dw)
                        else:
                            total = row_sum_inside(total, x, x_plane + r * x_row, column, w, sw, f, f_at, kw, dw)
                count = min(LANES, ow - start)
                if r_row >= 0:
                    total = total + load_inside(res, r_at + start, 1, 0, count)
                total = clamp(total, low, high)
                if count == LANES:
                    store(y, y_at + start, total)
                else:
                    store_first(y, y_at + start, total, count)
                start += LANES
            if kind != 0:
                activate(y, y_at, ow, y, y_at, kind, alpha, beta)
