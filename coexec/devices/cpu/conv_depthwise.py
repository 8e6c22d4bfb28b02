"""Depthwise convolution, the tail fused in: common kernels straight from the input, any other from padded planes.

3x3 and 5x5 kernels of stride 1 and 2, and 7x7 ones of stride 1, run down a strip of columns: each input row is read once and added to every output
row it reaches, so a strip keeps as many running sums as outputs overlap; rows outside add nothing. For the others each channel is copied once into a
padded plane, so that no vector ever meets an edge. Either way an output is one chain over the kernel's elements in order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from . import conv_lanes
from .activations import activate
from .build import Piece, Program
from .jit import flat, inlined, kernel, strides
from .panels import NO_FLOATS, round_up
from .simd import LANES, after, ask_for, before, clamp, fma, load, load_inside, load_strided, splat, store, store_first

if TYPE_CHECKING:
    from .conv import Convolution

#: Planes of so many elements do not stay in the first-level cache; strips down them ask for the next plane on their way, because
#: the hardware does not foresee a walk across rows.
FAR = 8192

#: Heights, widths and strides of the kernels that run down strips.
STRIPS = frozenset({(3, 3, 1, 1), (3, 3, 2, 2), (5, 5, 1, 1), (5, 5, 2, 2), (7, 7, 1, 1)})


def depthwise(piece: Piece, case: Convolution) -> Program | None:
    """One input channel per group; any kernel, stride, dilation and padding."""
    oc, per_group, kh, kw = case.w.shape
    if per_group != 1 or case.group < 2 or not case.w.size:
        return None
    if conv_lanes.suits(case):
        return conv_lanes.lanes(piece, case)
    if (kh, kw, *case.strides) in STRIPS and case.dilations == (1, 1):
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
        together = oh // 4 * 4
        for j in range(0, ow, LANES):
            start = ow - LANES if j + LANES > ow and ow >= LANES else j  # overlapping beats a partial vector
            to, ra, rest, down = y_plane + start, r_plane + start, ow - start, sh * pitch
            for row in range(0, together, 4):  # four sums that do not wait for one another
                p = row * down + start
                t0, t1, t2, t3 = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
                for t in range(taps):
                    at, factor = p + offsets[t], splat(f[f_at + t])
                    t0 = fma(load(plane, at), factor, t0)
                    t1 = fma(load(plane, at + down), factor, t1)
                    t2 = fma(load(plane, at + 2 * down), factor, t2)
                    t3 = fma(load(plane, at + 3 * down), factor, t3)
                finish_vector(y, to + row * y_row, t0 + b, res, ra + row * r_row, r_row, rest, low, high)
                finish_vector(y, to + (row + 1) * y_row, t1 + b, res, ra + (row + 1) * r_row, r_row, rest, low, high)
                finish_vector(y, to + (row + 2) * y_row, t2 + b, res, ra + (row + 2) * r_row, r_row, rest, low, high)
                finish_vector(y, to + (row + 3) * y_row, t3 + b, res, ra + (row + 3) * r_row, r_row, rest, low, high)
            for row in range(together, oh):
                p, total = row * down + start, splat(np.float32(0))
                for t in range(taps):
                    total = fma(load(plane, p + offsets[t]), f[f_at + t], total)
                finish_vector(y, to + row * y_row, total + b, res, ra + row * r_row, r_row, rest, low, high)
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
def row3(x, at, column, w, edge, ahead):
    """Three neighbouring taps of a row: LANES elements from `column`, column + 1, column + 2; 0 outside the row. What lies `ahead` is
    asked for, where that is not 0.
    """
    at += column
    if ahead != 0:
        ask_for(x, at + ahead)
    if edge:
        return (load_inside(x, at, 1, -column, w - column), load_inside(x, at + 1, 1, -column - 1, w - column - 1),
                load_inside(x, at + 2, 1, -column - 2, w - column - 2))
    return load(x, at), load(x, at + 1), load(x, at + 2)


@inlined
def row5(x, at, column, w, edge):
    """Five neighbouring taps of a row, as row3 has three."""
    v0, v1, v2 = row3(x, at, column, w, edge, 0)
    at += column + 3
    if edge:
        return v0, v1, v2, load_inside(x, at, 1, -column - 3, w - column - 3), load_inside(x, at + 1, 1, -column - 4, w - column - 4)
    return v0, v1, v2, load(x, at), load(x, at + 1)


@inlined
def row7(x, at, column, w, edge):
    """Seven neighbouring taps of a row, as row3 has three."""
    v0, v1, v2, v3, v4 = row5(x, at, column, w, edge)
    at += column + 5
    if edge:
        return v0, v1, v2, v3, v4, load_inside(x, at, 1, -column - 5, w - column - 5), load_inside(x, at + 1, 1, -column - 6, w - column - 6)
    return v0, v1, v2, v3, v4, load(x, at), load(x, at + 1)


@inlined
def pairs3(x, at, column, w, edge, ahead):
    """As row3, elements 2 apart. Whole vectors are loaded from the middle tap on, where they tend to begin with a cache line."""
    at += column
    if ahead != 0:
        ask_for(x, at + 1 + ahead)
        ask_for(x, at + 1 + ahead + LANES)
    if edge:
        return (load_inside(x, at, 2, -column, w - column), load_inside(x, at + 1, 2, -column - 1, w - column - 1),
                load_inside(x, at + 2, 2, -column - 2, w - column - 2))
    second, third = load_strided(x, at + 1, 2, 0), load_strided(x, at + 1, 2, 1)
    return after(x[at] if column >= 0 else np.float32(0), third), second, third


@inlined
def pairs5(x, at, column, w, edge):
    """Five neighbouring taps, as pairs3 has three."""
    nothing = np.float32(0)
    at += column
    if edge:
        return (load_inside(x, at, 2, -column, w - column), load_inside(x, at + 1, 2, -column - 1, w - column - 1),
                load_inside(x, at + 2, 2, -column - 2, w - column - 2), load_inside(x, at + 3, 2, -column - 3, w - column - 3),
                load_inside(x, at + 4, 2, -column - 4, w - column - 4))
    third, fourth = load_strided(x, at + 2, 2, 0), load_strided(x, at + 2, 2, 1)
    return (after(x[at] if column >= 0 else nothing, third), after(x[at + 1] if column >= -1 else nothing, fourth), third, fourth,
            before(third, x[at + 2 + 2 * LANES] if column + 2 + 2 * LANES < w else nothing))


@inlined
def add3(total, v0, v1, v2, f0, f1, f2):
    """The sum and one row of a 3x3 kernel."""
    return fma(v2, f2, fma(v1, f1, fma(v0, f0, total)))


@inlined
def add5(total, v0, v1, v2, v3, v4, f, at):
    """The sum and one row of a 5x5 kernel."""
    return fma(v4, f[at + 4], fma(v3, f[at + 3], fma(v2, f[at + 2], fma(v1, f[at + 1], fma(v0, f[at], total)))))


@inlined
def add7(total, v0, v1, v2, v3, v4, v5, v6, f, at):
    """The sum and one row of a 7x7 kernel."""
    return fma(v6, f[at + 6], fma(v5, f[at + 5], add5(total, v0, v1, v2, v3, v4, f, at)))


@kernel
def conv_depthwise_strips(x, f, bias, y, res, g, kind, alpha, beta, low, high):
    n, oc, multiplier, h, w, stride, top, left, oh, ow, size = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10]
    x_batch, x_channel, x_row, y_batch, y_channel, y_row = g[11], g[12], g[13], g[14], g[15], g[16]
    r_batch, r_channel, r_row = g[17], g[18], g[19]
    zero, ahead = splat(np.float32(0)), x_channel if h * w >= FAR else 0
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
            middle = c + size // 2  # with stride 2 whole vectors are loaded from here on, which most often lies inside where c does not
            edge = c < 0 or c + stride * LANES + size > w if stride == 1 else middle < 0 or middle + 2 * LANES > w
            to, ra, rest = y_plane + start, r_plane + start, ow - start
            s0, s1, s2, s3, s4, s5 = zero, zero, zero, zero, zero, zero
            if size == 3:  # it stays in registers: a store to y could change f, for all that the compiler knows
                f0, f1, f2 = splat(f[t]), splat(f[t + 1]), splat(f[t + 2])
                f3, f4, f5 = splat(f[t + 3]), splat(f[t + 4]), splat(f[t + 5])
                f6, f7, f8 = splat(f[t + 6]), splat(f[t + 7]), splat(f[t + 8])
                if stride == 1:
                    for o in range(min(0, max(-2, top - 2)), oh):
                        row = o + 2 - top
                        done, s1, s0 = s1, s0, zero
                        if row >= 0 and row < h:
                            v0, v1, v2 = row3(x, x_plane + row * x_row, c, w, edge, ahead)
                            done = add3(done, v0, v1, v2, f6, f7, f8)
                            s1 = add3(s1, v0, v1, v2, f3, f4, f5)
                            s0 = add3(zero, v0, v1, v2, f0, f1, f2)
                        if o >= 0:
                            finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
                else:
                    for o in range(min(0, max(-1, (top - 1) // 2)), oh):
                        row = 2 * o + 1 - top
                        if row >= 0 and row < h:
                            v0, v1, v2 = pairs3(x, x_plane + row * x_row, c, w, edge, ahead)
                            s0 = add3(s0, v0, v1, v2, f3, f4, f5)
                        row += 1
                        done, s0 = s0, zero
                        if row >= 0 and row < h:
                            v0, v1, v2 = pairs3(x, x_plane + row * x_row, c, w, edge, ahead)
                            done = add3(done, v0, v1, v2, f6, f7, f8)
                            s0 = add3(zero, v0, v1, v2, f0, f1, f2)
                        if o >= 0:
                            finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
            elif size == 7:
                for o in range(min(0, max(-6, top - 6)), oh):
                    row = o + 6 - top
                    done, s5, s4, s3, s2, s1, s0 = s5, s4, s3, s2, s1, s0, zero
                    if row >= 0 and row < h:
                        v0, v1, v2, v3, v4, v5, v6 = row7(x, x_plane + row * x_row, c, w, edge)
                        done = add7(done, v0, v1, v2, v3, v4, v5, v6, f, t + 42)
                        s5 = add7(s5, v0, v1, v2, v3, v4, v5, v6, f, t + 35)
                        s4 = add7(s4, v0, v1, v2, v3, v4, v5, v6, f, t + 28)
                        s3 = add7(s3, v0, v1, v2, v3, v4, v5, v6, f, t + 21)
                        s2 = add7(s2, v0, v1, v2, v3, v4, v5, v6, f, t + 14)
                        s1 = add7(s1, v0, v1, v2, v3, v4, v5, v6, f, t + 7)
                        s0 = add7(zero, v0, v1, v2, v3, v4, v5, v6, f, t)
                    if o >= 0:
                        finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
            elif stride == 1:
                for o in range(min(0, max(-4, top - 4)), oh):
                    row = o + 4 - top
                    done, s3, s2, s1, s0 = s3, s2, s1, s0, zero
                    if row >= 0 and row < h:
                        v0, v1, v2, v3, v4 = row5(x, x_plane + row * x_row, c, w, edge)
                        done = add5(done, v0, v1, v2, v3, v4, f, t + 20)
                        s3 = add5(s3, v0, v1, v2, v3, v4, f, t + 15)
                        s2 = add5(s2, v0, v1, v2, v3, v4, f, t + 10)
                        s1 = add5(s1, v0, v1, v2, v3, v4, f, t + 5)
                        s0 = add5(zero, v0, v1, v2, v3, v4, f, t)
                    if o >= 0:
                        finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
            else:
                for o in range(min(0, max(-2, (top - 3) // 2)), oh):
                    row = 2 * o + 3 - top
                    if row >= 0 and row < h:
                        v0, v1, v2, v3, v4 = pairs5(x, x_plane + row * x_row, c, w, edge)
                        s1 = add5(s1, v0, v1, v2, v3, v4, f, t + 15)
                        s0 = add5(s0, v0, v1, v2, v3, v4, f, t + 5)
                    row += 1
                    done, s1, s0 = s1, s0, zero
                    if row >= 0 and row < h:
                        v0, v1, v2, v3, v4 = pairs5(x, x_plane + row * x_row, c, w, edge)
                        done = add5(done, v0, v1, v2, v3, v4, f, t + 20)
                        s1 = add5(s1, v0, v1, v2, v3, v4, f, t + 10)
                        s0 = add5(zero, v0, v1, v2, v3, v4, f, t)
                    if o >= 0:
                        finish_vector(y, to + o * y_row, done + b, res, ra + o * r_row, r_row, rest, low, high)
        if kind != 0 and y_row == ow:
            activate(y, y_plane, oh * ow, y, y_plane, kind, alpha, beta)
        elif kind != 0:
            for row in range(oh):
                activate(y, y_plane + row * y_row, ow, y, y_plane + row * y_row, kind, alpha, beta)
