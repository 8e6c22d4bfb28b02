"""Depthwise convolution, the tail fused in: common kernels straight from the input, any other from padded planes.

3x3 and 5x5 kernels of stride 1 and 2 run down a strip of columns: each input row is read once and added to every output row it
reaches, so a strip keeps as many running sums as outputs overlap. For the others each channel is copied once into a padded plane, so
that no vector ever meets an edge. Either way an output is one chain over the kernel's elements in order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .activations import activate
from .build import Piece, Program
from .jit import flat, inlined, kernel, strides
from .panels import NO_FLOATS, round_up
from .simd import LANES, clamp, fma, load, load_inside, load_strided, splat, store, store_first

if TYPE_CHECKING:
    from .conv import Convolution


def depthwise(piece: Piece, case: Convolution) -> Program | None:
    """One input channel per group; any kernel, stride, dilation and padding."""
    oc, per_group, kh, kw = case.w.shape
    if per_group != 1 or case.group < 2 or not case.w.size:
        return None
    if (kh, kw) in ((3, 3), (5, 5)) and case.dilations == (1, 1) and case.strides in ((1, 1), (2, 2)):
        return _strips(piece, case)
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


def _strips(piece: Piece, case: Convolution) -> Program:
    oc, _, size, _ = case.w.shape
    (n, _, h, w), (oh, ow), stride = case.x.shape, case.y.shape[2:], case.strides[0]
    factors = piece.packed.get(case.weights, ("depthwise", case.cut), lambda: np.array(case.w, np.float32).reshape(-1))
    bias = np.zeros(oc, np.float32) if case.bias is None else np.array(case.bias, np.float32)
    res_strides = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    geometry = np.array([n, oc, oc // case.group, h, w, stride, *case.pads, oh, ow, size, *strides(case.x)[:3], *strides(case.y)[:3],
                         *res_strides], np.int64)
    run = partial(conv_depthwise_strips, flat(case.x), factors, bias, flat(case.y),
                  NO_FLOATS if case.residual is None else flat(case.residual), geometry, *case.tail)
    return Program(f"f32_conv_depthwise_{size}x{size}s{stride}", lambda scratch: run)


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
        for row in range(oh):
            p = row * sh * pitch
            for j in range(0, ow, LANES):
                start = ow - LANES if j + LANES > ow and ow >= LANES else j  # overlapping beats a partial vector
                total = splat(np.float32(0))
                for t in range(taps):
                    total = fma(load(plane, p + start + offsets[t]), f[f_at + t], total)
                finish_vector(y, y_plane + row * y_row + start, total + b, res, r_plane + row * r_row + start, r_row, ow - start, low, high)
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


@inlined
def row3(x, at, row, h, column, w, stride, edge):
    """Three neighbouring taps of a row: LANES elements `stride` apart from `column`, column + 1, column + 2; 0 outside the plane."""
    zero = splat(np.float32(0))
    if row < 0 or row >= h:
        return zero, zero, zero
    at += column
    if stride == 1:
        if edge:
            return (load_inside(x, at, 1, -column, w - column), load_inside(x, at + 1, 1, -column - 1, w - column - 1),
                    load_inside(x, at + 2, 1, -column - 2, w - column - 2))
        return load(x, at), load(x, at + 1), load(x, at + 2)
    if edge:
        return (load_inside(x, at, 2, -column, w - column), load_inside(x, at + 1, 2, -column - 1, w - column - 1),
                load_inside(x, at + 2, 2, -column - 2, w - column - 2))
    return load_strided(x, at, 2, 0), load_strided(x, at, 2, 1), load_strided(x, at + 2, 2, 0)


@inlined
def row2(x, at, row, h, column, w, stride, edge):
    """Two neighbouring taps of a row, as row3 has three."""
    zero = splat(np.float32(0))
    if row < 0 or row >= h:
        return zero, zero
    at += column
    if stride == 1:
        if edge:
            return load_inside(x, at, 1, -column, w - column), load_inside(x, at + 1, 1, -column - 1, w - column - 1)
        return load(x, at), load(x, at + 1)
    if edge:
        return load_inside(x, at, 2, -column, w - column), load_inside(x, at + 1, 2, -column - 1, w - column - 1)
    return load_strided(x, at, 2, 0), load_strided(x, at, 2, 1)


@inlined
def add3(total, v0, v1, v2, f, at):
    """The sum and one row of a 3x3 kernel."""
    return fma(v2, f[at + 2], fma(v1, f[at + 1], fma(v0, f[at], total)))


@inlined
def add5(total, v0, v1, v2, v3, v4, f, at):
    """The sum and one row of a 5x5 kernel."""
    return fma(v4, f[at + 4], fma(v3, f[at + 3], fma(v2, f[at + 2], fma(v1, f[at + 1], fma(v0, f[at], total)))))


@kernel
def conv_depthwise_strips(x, f, bias, y, res, g, kind, alpha, beta, low, high):
    n, oc, multiplier, h, w, stride, top, left, oh, ow, size = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10]
    x_batch, x_channel, x_row, y_batch, y_channel, y_row = g[11], g[12], g[13], g[14], g[15], g[16]
    r_batch, r_channel, r_row = g[17], g[18], g[19]
    zero = splat(np.float32(0))
    for image in range(n * oc):
        batch, channel = image // oc, image % oc
        x_plane = batch * x_batch + channel // multiplier * x_channel
        y_plane = batch * y_batch + channel * y_channel
        r_plane = batch * r_batch + channel * r_channel
        t = channel * size * size
        b = bias[channel]
        for j in range(0, ow, LANES):
            start = ow - LANES if j + LANES > ow and ow >= LANES else j  # overlapping beats a partial vector
            c = start * stride - left
            edge = c < 0 or c + stride * LANES + size > w
            to, ra, rest = y_plane + start, r_plane + start, ow - start
            s0, s1, s2, s3 = zero, zero, zero, zero
            if size == 3 and stride == 1:
                for o in range(-2, oh):
                    row = o + 2 - top
                    v0, v1, v2 = row3(x, x_plane + row * x_row, row, h, c, w, 1, edge)
                    done = add3(s1, v0, v1, v2, f, t + 6)
                    s1 = add3(s0, v0, v1, v2, f, t + 3)
                    s0 = add3(zero, v0, v1, v2, f, t)
                    if o >= 0:
                        finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
            elif size == 3:
                for o in range(-1, oh):
                    row = 2 * o + 1 - top
                    v0, v1, v2 = row3(x, x_plane + row * x_row, row, h, c, w, 2, edge)
                    s0 = add3(s0, v0, v1, v2, f, t + 3)
                    row += 1
                    v0, v1, v2 = row3(x, x_plane + row * x_row, row, h, c, w, 2, edge)
                    done = add3(s0, v0, v1, v2, f, t + 6)
                    s0 = add3(zero, v0, v1, v2, f, t)
                    if o >= 0:
                        finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
            elif stride == 1:
                for o in range(-4, oh):
                    row = o + 4 - top
                    v0, v1, v2 = row3(x, x_plane + row * x_row, row, h, c, w, 1, edge)
                    v3, v4 = row2(x, x_plane + row * x_row, row, h, c + 3, w, 1, edge)
                    done = add5(s3, v0, v1, v2, v3, v4, f, t + 20)
                    s3 = add5(s2, v0, v1, v2, v3, v4, f, t + 15)
                    s2 = add5(s1, v0, v1, v2, v3, v4, f, t + 10)
                    s1 = add5(s0, v0, v1, v2, v3, v4, f, t + 5)
                    s0 = add5(zero, v0, v1, v2, v3, v4, f, t)
                    if o >= 0:
                        finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
            else:
                for o in range(-2, oh):
                    row = 2 * o + 3 - top
                    v0, v1, v2 = row3(x, x_plane + row * x_row, row, h, c, w, 2, edge)
                    v3, v4 = row2(x, x_plane + row * x_row, row, h, c + 3, w, 2, edge)
                    s1 = add5(s1, v0, v1, v2, v3, v4, f, t + 15)
                    s0 = add5(s0, v0, v1, v2, v3, v4, f, t + 5)
                    row += 1
                    v0, v1, v2 = row3(x, x_plane + row * x_row, row, h, c, w, 2, edge)
                    v3, v4 = row2(x, x_plane + row * x_row, row, h, c + 3, w, 2, edge)
                    done = add5(s1, v0, v1, v2, v3, v4, f, t + 20)
                    s1 = add5(s0, v0, v1, v2, v3, v4, f, t + 10)
                    s0 = add5(zero, v0, v1, v2, v3, v4, f, t)
                    if o >= 0:
                        finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
        if kind != 0 and y_row == ow:
            activate(y, y_plane, oh * ow, y, y_plane, kind, alpha, beta)
        elif kind != 0:
            for row in range(oh):
                activate(y, y_plane + row * y_row, ow, y, y_plane + row * y_row, kind, alpha, beta)
