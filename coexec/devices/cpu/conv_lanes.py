"""Depthwise convolution on narrow maps, the tail fused in: a vector's lanes are channels, since a row of 7 pixels would fill half of one.

LANES channels at a time are turned so that each pixel is a vector; rows are padded left and right, rows outside add nothing. An output is one
chain over the kernel's elements in order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .activations import activate
from .build import Piece, Program
from .jit import flat, kernel, strides
from .panels import NO_FLOATS, round_up
from .simd import LANES, clamp, fma, load, load_inside, splat, store, store_first, turn

if TYPE_CHECKING:
    from .conv import Convolution

#: Outputs of a row that are summed at a time: as many running sums as hide the time of one.
WIDTH = 8


def suits(case: Convolution) -> bool:
    """One output channel for each input channel; rows that fill at most half a vector, and more than half of the sums."""
    oc, (h, w), (oh, ow) = case.w.shape[0], case.x.shape[2:], case.y.shape[2:]
    narrow = WIDTH // 2 < ow <= WIDTH and 2 * ow <= LANES
    whole = (strides(case.x)[2] == w or h == 1) and (strides(case.y)[2] == ow or oh == 1)  # rows lie side by side
    # The last lanes may be channels that were done before: then they are written twice, which a residual in the output's place forbids.
    full = oc >= LANES and (case.residual is None or oc % LANES == 0)
    return narrow and whole and full and case.group == oc and h * w >= LANES and case.dilations == (1, 1)


def lanes(piece: Piece, case: Convolution) -> Program:
    """Any kernel and stride."""
    oc, _, kh, kw = case.w.shape
    (n, _, h, w), (oh, ow), (sh, sw), (top, left) = case.x.shape, case.y.shape[2:], case.strides, case.pads
    # Columns that the sums of a row read, those that are no outputs too.
    pitch = max(w + left, (WIDTH - 1) * sw + kw)
    rows, columns = np.divmod(np.arange(h * w), w)
    places = np.where(columns + left < pitch, (rows * pitch + columns + left) * LANES, -1)
    places[columns + left < 0] = -1  # a negative pad crops
    plane, outputs = h * pitch * LANES, round_up(oh * ow + WIDTH, LANES) * LANES

    def pack() -> tuple[np.ndarray, np.ndarray]:
        w = np.array(case.w, np.float32).reshape(oc, kh * kw)
        factors = np.concatenate([w[c:c + LANES].T.reshape(-1) for c in (min(c, oc - LANES) for c in range(0, oc, LANES))])
        return factors, np.zeros(oc, np.float32) if case.bias is None else np.array(case.bias, np.float32)

    factors, bias = piece.packed.get(case.weights, ("lanes", case.cut), pack)
    res = (-1,) * 2 if case.residual is None else strides(case.residual)[:2]
    geometry = np.array([n, oc, h, w, kh, kw, sh, sw, top, left, oh, ow, pitch, plane, outputs, *strides(case.x)[:2], *strides(case.y)[:2], *res],
                        np.int64)
    arrays = flat(case.x), factors, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual), places

    def bind(scratch: np.ndarray):
        return partial(conv_lanes, *arrays, scratch.view(np.float32), geometry, *case.tail)

    return Program(f"f32_conv_depthwise_{kh}x{kw}s{sw}_lanes", bind, 4 * (LANES * LANES + plane + outputs))


@kernel
def conv_lanes(x, f, bias, y, res, places, s, g, kind, alpha, beta, low, high):
    n, oc, h, w, kh, kw, sh, sw, top, oh, ow = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[10], g[11]
    pitch, plane, outputs, x_batch, x_channel, y_batch, y_channel, r_batch, r_channel = g[12], g[13], g[14], g[15], g[16], g[17], g[18], g[19], g[20]
    p_at = LANES * LANES  # before it: pixels that were just turned
    o_at = p_at + plane
    taps, zero = kh * kw, splat(np.float32(0))
    for q in range(p_at, o_at + outputs, LANES):
        store(s, q, zero)
    groups = (oc + LANES - 1) // LANES
    for image in range(n * groups):
        batch, group = image // groups, image % groups
        channel = min(group * LANES, oc - LANES)
        x_at = batch * x_batch + channel * x_channel
        done = 0
        while done < h * w:
            start = min(done, h * w - LANES)  # what lies behind the last channel is not ours to read
            turn(s, 0, x, x_at + start, x_channel)
            for p in range(done, start + LANES):
                if places[p] >= 0:
                    store(s, p_at + places[p], load(s, (p - start) * LANES))
            done = start + LANES
        b = load(bias, channel)
        f_at = group * taps * LANES
        for o in range(oh):
            s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
            for i in range(max(0, top - o * sh), min(kh, h + top - o * sh)):
                at = p_at + (o * sh + i - top) * pitch * LANES
                for k in range(kw):
                    v = load(f, f_at + (i * kw + k) * LANES)
                    step = sw * LANES
                    s0 = fma(load(s, at), v, s0)
                    s1 = fma(load(s, at + step), v, s1)
                    s2 = fma(load(s, at + 2 * step), v, s2)
                    s3 = fma(load(s, at + 3 * step), v, s3)
                    s4 = fma(load(s, at + 4 * step), v, s4)
                    s5 = fma(load(s, at + 5 * step), v, s5)
                    s6 = fma(load(s, at + 6 * step), v, s6)
                    s7 = fma(load(s, at + 7 * step), v, s7)
                    at += LANES
            to = o_at + o * ow * LANES  # the next row overwrites what is no output
            store(s, to, s0 + b)
            store(s, to + LANES, s1 + b)
            store(s, to + 2 * LANES, s2 + b)
            store(s, to + 3 * LANES, s3 + b)
            store(s, to + 4 * LANES, s4 + b)
            store(s, to + 5 * LANES, s5 + b)
            store(s, to + 6 * LANES, s6 + b)
            store(s, to + 7 * LANES, s7 + b)
        y_at, r_at = batch * y_batch + channel * y_channel, batch * r_batch + channel * r_channel
        for p in range(0, oh * ow, LANES):
            turn(s, 0, s, o_at + p * LANES, LANES)
            left_over = oh * ow - p
            for c in range(LANES):
                value = load(s, c * LANES)
                if r_channel >= 0:
                    value = value + load_inside(res, r_at + c * r_channel + p, 1, 0, left_over)
                value = clamp(value, low, high)
                if left_over >= LANES:
                    store(y, y_at + c * y_channel + p, value)
                else:
                    store_first(y, y_at + c * y_channel + p, value, left_over)
        if kind != 0:
            for c in range(LANES):
                activate(y, y_at + c * y_channel, oh * ow, y, y_at + c * y_channel, kind, alpha, beta)
