"""Depthwise convolution: each channel is copied once into a padded plane, so that no vector ever meets an edge; the tail fused in."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .activations import activate
from .build import Piece, Program
from .jit import flat, inlined, kernel, strides
from .panels import NO_FLOATS, round_up
from .simd import LANES, clamp, load, load_inside, load_strided, splat, store, store_first

if TYPE_CHECKING:
    from .conv import Convolution


def depthwise(piece: Piece, case: Convolution) -> Program | None:
    """One input channel per group; any kernel, stride, dilation and padding."""
    oc, per_group, kh, kw = case.w.shape
    if per_group != 1 or case.group < 2 or not case.w.size:
        return None
    (n, _, h, w), (oh, ow), (sh, sw), (dh, dw) = case.x.shape, case.y.shape[2:], case.strides, case.dilations
    # A plane per phase of the width: column q of phase p is padded column q * sw + p, so that every tap is a plain load.
    pitch = round_up(ow, LANES) + ((kw - 1) * dw) // sw + LANES
    rows = (oh - 1) * sh + (kh - 1) * dh + 1
    offsets = np.array([[(k * dw) % sw * rows * pitch + i * dh * pitch + k * dw // sw for k in range(kw)] for i in range(kh)], np.int64)
    factors = piece.packed.get(case.weights, ("depthwise", case.cut), lambda: np.array(case.w, np.float32).reshape(-1))
    bias = np.zeros(oc, np.float32) if case.bias is None else np.array(case.bias, np.float32)
    res_strides = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    geometry = np.array([n, oc, oc // case.group, h, w, sh, sw, *case.pads, oh, ow, rows, pitch,
                         *strides(case.x)[:3], *strides(case.y)[:3], *res_strides], np.int64)
    arrays = flat(case.x), factors, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual), offsets.reshape(-1)

    def bind(scratch: np.ndarray):
        return partial(conv_depthwise, *arrays, scratch.view(np.float32), geometry, *case.tail)

    return Program(f"f32_conv_depthwise_{kh}x{kw}s{sw}", bind, 4 * (rows * sw * pitch + LANES))


@inlined
def copy_row(plane, at, x, x_at, phase, step, left, w, pitch):
    """plane[at + q] = the row's element q * step + phase - left where there is one; the rest of the pitch is left alone."""
    first = max(0, (left - phase + step - 1) // step) if left > phase else 0
    stop = min(pitch, max(first, (w + left - phase + step - 1) // step))
    source = x_at + first * step + phase - left
    count = stop - first
    if step == 1:
        whole = count // LANES * LANES
        for q in range(0, whole, LANES):
            store(plane, at + first + q, load(x, source + q))
        if whole < count:
            store_first(plane, at + first + whole, load_inside(x, source + whole, 1, 0, count - whole), count - whole)
    elif step == 2:
        whole = max(0, (count - 1) // LANES * LANES)
        for q in range(0, whole, LANES):
            store(plane, at + first + q, load_strided(x, source + 2 * q, 2, 0))
        left_over = count - whole
        if left_over > 0:
            store_first(plane, at + first + whole, load_inside(x, source + 2 * whole, 2, 0, 2 * left_over - 1), left_over)
    else:
        for q in range(count):
            plane[at + first + q] = x[source + q * step]


@kernel
def conv_depthwise(x, f, bias, y, res, offsets, plane, g, kind, alpha, beta, low, high):
    n, oc, multiplier, h, w, sh, sw = g[0], g[1], g[2], g[3], g[4], g[5], g[6]
    top, left, oh, ow, rows, pitch = g[7], g[8], g[9], g[10], g[11], g[12]
    x_batch, x_channel, x_row, y_batch, y_channel, y_row = g[13], g[14], g[15], g[16], g[17], g[18]
    r_batch, r_channel, r_row = g[19], g[20], g[21]
    taps = offsets.size
    for q in range(0, sw * rows * pitch, LANES):
        store(plane, q, splat(np.float32(0)))
    for image in range(n * oc):
        batch, channel = image // oc, image % oc
        if channel % multiplier == 0:
            x_plane = batch * x_batch + channel // multiplier * x_channel
            for r in range(max(0, top), min(rows, h + top)):
                for phase in range(sw):
                    copy_row(plane, (phase * rows + r) * pitch, x, x_plane + (r - top) * x_row, phase, sw, left, w, pitch)
        y_plane = batch * y_batch + channel * y_channel
        r_plane = batch * r_batch + channel * r_channel
        f_at = channel * taps
        b = bias[channel]
        if taps == 9:
            o0, o1, o2, o3, o4 = offsets[0], offsets[1], offsets[2], offsets[3], offsets[4]
            o5, o6, o7, o8 = offsets[5], offsets[6], offsets[7], offsets[8]
            f0, f1, f2, f3, f4 = splat(f[f_at]), splat(f[f_at + 1]), splat(f[f_at + 2]), splat(f[f_at + 3]), splat(f[f_at + 4])
            f5, f6, f7, f8 = splat(f[f_at + 5]), splat(f[f_at + 6]), splat(f[f_at + 7]), splat(f[f_at + 8])
            for row in range(oh):
                p = row * sh * pitch
                for j in range(0, ow, LANES):
                    start = ow - LANES if j + LANES > ow and ow >= LANES else j  # overlapping beats a partial vector
                    q = p + start
                    total = splat(b) + load(plane, q + o0) * f0
                    more = load(plane, q + o1) * f1
                    total = total + load(plane, q + o2) * f2
                    more = more + load(plane, q + o3) * f3
                    total = total + load(plane, q + o4) * f4
                    more = more + load(plane, q + o5) * f5
                    total = total + load(plane, q + o6) * f6
                    more = more + load(plane, q + o7) * f7
                    total = total + load(plane, q + o8) * f8
                    finish_vector(y, y_plane + row * y_row + start, total + more, res, r_plane + row * r_row + start, r_row, ow - start,
                                  low, high)
        else:
            for row in range(oh):
                p = row * sh * pitch
                for j in range(0, ow, LANES):
                    start = ow - LANES if j + LANES > ow and ow >= LANES else j
                    total, more = splat(b), splat(np.float32(0))
                    for t in range(0, taps - 1, 2):
                        total = total + load(plane, p + start + offsets[t]) * f[f_at + t]
                        more = more + load(plane, p + start + offsets[t + 1]) * f[f_at + t + 1]
                    if taps % 2:
                        total = total + load(plane, p + start + offsets[taps - 1]) * f[f_at + taps - 1]
                    finish_vector(y, y_plane + row * y_row + start, total + more, res, r_plane + row * r_row + start, r_row, ow - start,
                                  low, high)
        if kind != 0 and y_row == ow:
            activate(y, y_plane, oh * ow, y, y_plane, kind, alpha, beta)
        elif kind != 0:
            for row in range(oh):
                activate(y, y_plane + row * y_row, ow, y, y_plane + row * y_row, kind, alpha, beta)


@inlined
def finish_vector(y, at, value, res, res_at, res_row, left, low, high):
    """Writes up to LANES outputs: residual added where res_row is not negative, clamped."""
    if left >= LANES:
        if res_row >= 0:
            value = value + load(res, res_at)
        store(y, at, clamp(value, low, high))
    else:
        if res_row >= 0:
            value = value + load_inside(res, res_at, 1, 0, left)
        store_first(y, at, clamp(value, low, high), left)
