"""Winograd convolution F(m x m, 3 x 3), m = 2 or 4 (6: `winograd6`): fewer multiplications for 3x3 kernels of stride 1.

Tiles of m x m outputs come from (m + 2) x (m + 2) inputs: transform them, multiply (m + 2)^2 matrices (input channels by tiles), transform
back. Tiles are taken in blocks so that what is between the transforms stays in the caches. Rounding: about 1e-5 of the largest value.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...ops.conv_ways import LEAST_CHANNELS, TILES
from .activations import activate
from .build import Piece, Program
from .jit import flat, inlined, kernel, strides
from .packing import pack_filters
from .panels import NO_FLOATS, pack_bias, round_up
from .simd import (
    LANES,
    PANEL,
    ROWS,
    clamp,
    load,
    load_inside,
    load_from,
    multiply_tile,
    splat,
    store,
    store2,
    store4,
    store_first,
    store_sorted,
)

if TYPE_CHECKING:
    from .conv import Convolution

#: Weight transforms G: a 3x3 kernel g becomes G g G'.
G = {
    2: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    4: np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
                 [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]),
}
#: What transformed inputs and products of a block of tiles may take together (bytes), and how deep one product may be.
BLOCK_BYTES, MOST_DEPTH = 2 << 20, 256

NO_BIAS = np.zeros(ROWS, np.float32)


def winograd(piece: Piece, case: Convolution) -> Program | None:
    """3x3, stride and dilation 1, one group, and less to do than any other way."""
    oc, ic, kh, kw = case.w.shape
    if (kh, kw) != (3, 3) or case.strides != (1, 1) or case.dilations != (1, 1) or case.group != 1 or min(ic, oc) < LEAST_CHANNELS:
        return None
    (n, _, h, w), (oh, ow) = case.x.shape, case.y.shape[2:]
    m = piece.options.winograd_tile or next((m for m in TILES if case.way == f"winograd{m}"), 0)
    if m not in (*G, 6):
        return None
    if m == 6:
        from . import winograd6 as six

        run, transform, turned = six.winograd6, six.G, six.SCRATCH
    else:
        run, transform, turned = winograd4 if m == 4 else winograd2, G[m], 0
    points, padded = (m + 2) ** 2, round_up(oc, ROWS)

    def pack() -> tuple[np.ndarray, np.ndarray]:
        return (piece.packed.shared(case.weights, piece.regions[1], ("winograd", m, 1, ROWS), lambda: pack_filters(case.w, transform, ROWS)),
                pack_bias(case.bias, oc))

    u, bias = piece.packed.get(case.weights, ("winograd", m, case.cut), pack)
    tiles_across, tiles = -(-ow // m), -(-oh // m) * -(-ow // m)
    full = max(PANEL, BLOCK_BYTES // (4 * points * (ic + padded)) // PANEL * PANEL)
    blocks = max(1, round(tiles / full))
    block = round_up(-(-tiles // blocks), PANEL if blocks > 1 else LANES)
    line = tiles_across * m + 2 + (m + 1) * LANES
    strip_rows = (min(-(-oh // m), (block - 2) // tiles_across + 2) - 1) * m + m + 2
    strip = strip_rows * m * (tiles_across + 1 + LANES) + 2 * LANES  # a block that ends in the next row has all columns of both
    v_step, m_step = ic * block + LANES, padded * block + LANES  # the odd vector keeps the points out of one another's cache sets
    sizes = [points * v_step, points * m_step, *((8 * line, points * (block + LANES)) if m == 6 else (strip, 0)), m * (m * block + LANES), turned]
    starts = np.cumsum([0, *(round_up(s, LANES) for s in sizes)])
    res_strides = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    geometry = np.array([n, ic, h, w, *case.pads, oc, oh, ow, block, line, v_step, m_step, *starts[:5],
                         *strides(case.x)[:3], *strides(case.y)[:3], *res_strides, starts[5]], np.int64)
    arrays = flat(case.x), u, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual)

    def bind(scratch: np.ndarray):
        return partial(run, *arrays, scratch.view(np.float32), geometry, *case.tail)

    return Program(f"f32_conv_winograd{m}_{ROWS}x{PANEL}", bind, 4 * int(starts[6]))


@inlined
def input4(d0, d1, d2, d3, d4, d5):
    """B' d for m = 4."""
    f4, f5, f2 = np.float32(4), np.float32(5), np.float32(2)
    a, b = d4 - d2 * f4, d3 - d1 * f4
    c, d = d4 - d2, (d3 - d1) * f2
    return d0 * f4 - d2 * f5 + d4, a + b, a - b, c + d, c - d, d1 * f4 - d3 * f5 + d5


@inlined
def output4(m0, m1, m2, m3, m4, m5):
    """A' m for m = 4."""
    f2, f4, f8 = np.float32(2), np.float32(4), np.float32(8)
    a, b, c, d = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + a + c, b + d * f2, a + c * f4, b + d * f8 + m5


@inlined
def input2(d0, d1, d2, d3):
    """B' d for m = 2."""
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


@inlined
def output2(m0, m1, m2, m3):
    """A' m for m = 2."""
    return m0 + m1 + m2, m1 - m2 - m3


@inlined
def row_part(x, plane, row, column, x_row, h, w):
    """LANES elements of a row from a column on, 0 where they lie outside the h x w plane."""
    if row < 0 or row >= h:
        return splat(np.float32(0))
    return load_inside(x, plane + row * x_row + column, 1, -column, w - column)


@inlined
def block_span(first, number, across):
    """The first and the last row of tiles of a block, its first column of tiles, and how many times a tile's outputs its columns of the input are."""
    o_first, o_last = first // across, (first + number - 1) // across
    if o_first == o_last:
        return o_first, o_last, first - o_first * across, number + 1
    return o_first, o_last, 0, across + 1


@inlined
def vector_place(m, tile, o_first, o_last, begin, across, line):
    """Of LANES tiles from one on: where in the strip their first column lies, how many rows of tiles more they reach into, and from which lane on."""
    o = tile // across
    beyond = (o + 1) * across - tile
    return (o - o_first) * m * line + across - beyond - begin, min(o_last, (tile + LANES - 1) // across) - o, beyond


@inlined
def fill_strip(m, s, at, phase, used, rows, x, plane, row, column, x_row, h, w):
    """Rows of a plane with their padding, m * used columns of each, sorted by index modulo m: `phase` elements apart."""
    for r in range(rows):
        for i in range(0, used, LANES // m):
            store_sorted(m, s, at + r * m * phase + i, phase, row_part(x, plane, row + r, column + m * i, x_row, h, w))


@inlined
def rows4(s, at, line, step, more, beyond, across):
    """B' d of one column of a vector of tiles, m = 4: lanes from `beyond` on are tiles of the next row of tiles, `across` further of one more."""
    d0, d1, d2 = load(s, at), load(s, at + line), load(s, at + 2 * line)
    d3, d4, d5 = load(s, at + 3 * line), load(s, at + 4 * line), load(s, at + 5 * line)
    for n in range(more):
        at += step
        first = beyond + n * across
        d0, d1, d2 = load_from(s, at, first, d0), load_from(s, at + line, first, d1), load_from(s, at + 2 * line, first, d2)
        d3, d4, d5 = load_from(s, at + 3 * line, first, d3), load_from(s, at + 4 * line, first, d4), load_from(s, at + 5 * line, first, d5)
    return input4(d0, d1, d2, d3, d4, d5)


@inlined
def rows2(s, at, line, step, more, beyond, across):
    """The same for m = 2."""
    d0, d1, d2, d3 = load(s, at), load(s, at + line), load(s, at + 2 * line), load(s, at + 3 * line)
    for n in range(more):
        at += step
        first = beyond + n * across
        d0, d1 = load_from(s, at, first, d0), load_from(s, at + line, first, d1)
        d2, d3 = load_from(s, at + 2 * line, first, d2), load_from(s, at + 3 * line, first, d3)
    return input2(d0, d1, d2, d3)


@inlined
def store_points4(s, at, step, t):
    store(s, at, t[0])
    store(s, at + step, t[1])
    store(s, at + 2 * step, t[2])
    store(s, at + 3 * step, t[3])
    store(s, at + 4 * step, t[4])
    store(s, at + 5 * step, t[5])


@inlined
def store_points2(s, at, step, t):
    store(s, at, t[0])
    store(s, at + step, t[1])
    store(s, at + 2 * step, t[2])
    store(s, at + 3 * step, t[3])


@inlined
def to_panels(s, from_at, from_step, points, count, to_at, to_step, ic, channel):
    """One channel's transformed tiles into the strips that the products read."""
    for point in range(points):
        for start in range(0, count, PANEL):
            width = min(PANEL, count - start)
            at = to_at + point * to_step + start * ic + channel * width
            for v in range(0, width, LANES):
                store(s, at + v, load(s, from_at + point * from_step + start + v))


@inlined
def products(points, u, s, v_at, v_step, m_at, m_step, ic, oc, count, block):
    """For every point, (output channels x input channels) @ (input channels x tiles)."""
    zero = np.float32(0)
    for point in range(points):
        for start in range(0, count, PANEL):
            width = min(PANEL, count - start)
            for k in range(0, ic, MOST_DEPTH):
                depth = min(MOST_DEPTH, ic - k)
                b = v_at + point * v_step + start * ic + k * width
                for row in range(0, oc, ROWS):
                    a = (row * points + point * ROWS) * ic + k * ROWS
                    c = m_at + point * m_step + row * block + start
                    soon = a + points * ic * ROWS  # the next rows of weights
                    if width == 3 * LANES:
                        multiply_tile(ROWS, 3, u, a, s, b, depth, s, c, block, NO_BIAS, 0, 0, 1 if k else 0, 0,
                                      NO_BIAS, 0, -1, zero, zero, ROWS, LANES, u, soon, 0)
                    elif width == 2 * LANES:
                        multiply_tile(ROWS, 2, u, a, s, b, depth, s, c, block, NO_BIAS, 0, 0, 1 if k else 0, 0,
                                      NO_BIAS, 0, -1, zero, zero, ROWS, LANES, u, soon, 0)
                    else:
                        multiply_tile(ROWS, 1, u, a, s, b, depth, s, c, block, NO_BIAS, 0, 0, 1 if k else 0, 0,
                                      NO_BIAS, 0, -1, zero, zero, ROWS, LANES, u, soon, 0)


@inlined
def write_tiles(m, s, rows_at, rows_step, first, count, across, y, y_at, y_row, oh, ow, res, r_at, r_row, kind, alpha, beta, low, high):
    """Tiles first ... first + count of one channel from rows of the block to where they belong; the tail applied."""
    tile = first
    while tile < first + count:
        ty, tx = tile // across, tile % across
        run = min(across - tx, first + count - tile)
        width = min(run * m, ow - tx * m)
        for r in range(min(m, oh - ty * m)):
            source = rows_at + r * rows_step + (tile - first) * m
            to, ra = y_at + (ty * m + r) * y_row + tx * m, r_at + (ty * m + r) * r_row + tx * m
            for j in range(0, width, LANES):
                value = load(s, source + j)
                left = width - j
                if r_row >= 0:
                    value = value + load_inside(res, ra + j, 1, 0, left)
                value = clamp(value, low, high)
                if left >= LANES:
                    store(y, to + j, value)
                else:
                    store_first(y, to + j, value, left)
            if kind != 0:
                activate(y, to, width, y, to, kind, alpha, beta)
        tile += run


@kernel
def winograd4(x, u, bias, y, res, s, g, kind, alpha, beta, low, high):
    n, ic, h, w, top, left, oc = g[0], g[1], g[2], g[3], g[4], g[5], g[6]
    oh, ow, block, v_step, m_step = g[7], g[8], g[9], g[11], g[12]
    v_at, m_at, strip_at, rows_at = g[13], g[14], g[15], g[17]
    x_batch, x_channel, x_row, y_batch, y_channel = g[18], g[19], g[20], g[21], g[22]
    y_row, r_batch, r_channel, r_row = g[23], g[24], g[25], g[26]
    across = (ow + 3) // 4
    tiles = across * ((oh + 3) // 4)
    rows_step = 4 * block + LANES
    for batch in range(n):
        for first in range(0, tiles, block):
            number = min(block, tiles - first)
            count = (number + LANES - 1) // LANES * LANES
            o_first, o_last, begin, used = block_span(first, number, across)
            phase = used + LANES
            line = 4 * phase
            for channel in range(ic):
                fill_strip(4, s, strip_at, phase, used, (o_last - o_first) * 4 + 6, x, batch * x_batch + channel * x_channel,
                           o_first * 4 - top, begin * 4 - left, x_row, h, w)
                for j in range(0, count, LANES):
                    place, more, beyond = vector_place(4, first + j, o_first, o_last, begin, across, line)
                    at, step = strip_at + place, 4 * line - across
                    t0, t1 = rows4(s, at, line, step, more, beyond, across), rows4(s, at + phase, line, step, more, beyond, across)
                    t2, t3 = rows4(s, at + 2 * phase, line, step, more, beyond, across), rows4(s, at + 3 * phase, line, step, more, beyond, across)
                    t4, t5 = rows4(s, at + 1, line, step, more, beyond, across), rows4(s, at + 1 + phase, line, step, more, beyond, across)
                    start = j // PANEL * PANEL
                    q, row = v_at + start * ic + channel * min(PANEL, count - start) + j - start, 6 * v_step
                    store_points4(s, q, v_step, input4(t0[0], t1[0], t2[0], t3[0], t4[0], t5[0]))
                    store_points4(s, q + row, v_step, input4(t0[1], t1[1], t2[1], t3[1], t4[1], t5[1]))
                    store_points4(s, q + 2 * row, v_step, input4(t0[2], t1[2], t2[2], t3[2], t4[2], t5[2]))
                    store_points4(s, q + 3 * row, v_step, input4(t0[3], t1[3], t2[3], t3[3], t4[3], t5[3]))
                    store_points4(s, q + 4 * row, v_step, input4(t0[4], t1[4], t2[4], t3[4], t4[4], t5[4]))
                    store_points4(s, q + 5 * row, v_step, input4(t0[5], t1[5], t2[5], t3[5], t4[5], t5[5]))
            products(36, u, s, v_at, v_step, m_at, m_step, ic, oc, count, block)
            for channel in range(oc):
                b = bias[channel]
                for j in range(0, count, LANES):
                    p = m_at + channel * block + j
                    c0 = output4(load(s, p), load(s, p + 6 * m_step), load(s, p + 12 * m_step), load(s, p + 18 * m_step),
                                 load(s, p + 24 * m_step), load(s, p + 30 * m_step))
                    p += m_step
                    c1 = output4(load(s, p), load(s, p + 6 * m_step), load(s, p + 12 * m_step), load(s, p + 18 * m_step),
                                 load(s, p + 24 * m_step), load(s, p + 30 * m_step))
                    p += m_step
                    c2 = output4(load(s, p), load(s, p + 6 * m_step), load(s, p + 12 * m_step), load(s, p + 18 * m_step),
                                 load(s, p + 24 * m_step), load(s, p + 30 * m_step))
                    p += m_step
                    c3 = output4(load(s, p), load(s, p + 6 * m_step), load(s, p + 12 * m_step), load(s, p + 18 * m_step),
                                 load(s, p + 24 * m_step), load(s, p + 30 * m_step))
                    p += m_step
                    c4 = output4(load(s, p), load(s, p + 6 * m_step), load(s, p + 12 * m_step), load(s, p + 18 * m_step),
                                 load(s, p + 24 * m_step), load(s, p + 30 * m_step))
                    p += m_step
                    c5 = output4(load(s, p), load(s, p + 6 * m_step), load(s, p + 12 * m_step), load(s, p + 18 * m_step),
                                 load(s, p + 24 * m_step), load(s, p + 30 * m_step))
                    q = rows_at + 4 * j
                    o0, o1, o2, o3 = output4(c0[0] + b, c1[0], c2[0], c3[0], c4[0], c5[0])
                    store4(s, q, o0, o1 + b, o2 + b, o3 + b)
                    o0, o1, o2, o3 = output4(c0[1] + b, c1[1], c2[1], c3[1], c4[1], c5[1])
                    store4(s, q + rows_step, o0, o1 + b, o2 + b, o3 + b)
                    o0, o1, o2, o3 = output4(c0[2] + b, c1[2], c2[2], c3[2], c4[2], c5[2])
                    store4(s, q + 2 * rows_step, o0, o1 + b, o2 + b, o3 + b)
                    o0, o1, o2, o3 = output4(c0[3] + b, c1[3], c2[3], c3[3], c4[3], c5[3])
                    store4(s, q + 3 * rows_step, o0, o1 + b, o2 + b, o3 + b)
                write_tiles(4, s, rows_at, rows_step, first, number, across, y, batch * y_batch + channel * y_channel, y_row, oh, ow,
                            res, batch * r_batch + channel * r_channel, r_row, kind, alpha, beta, low, high)


@kernel
def winograd2(x, u, bias, y, res, s, g, kind, alpha, beta, low, high):
    n, ic, h, w, top, left, oc = g[0], g[1], g[2], g[3], g[4], g[5], g[6]
    oh, ow, block, v_step, m_step = g[7], g[8], g[9], g[11], g[12]
    v_at, m_at, strip_at, rows_at = g[13], g[14], g[15], g[17]
    x_batch, x_channel, x_row, y_batch, y_channel = g[18], g[19], g[20], g[21], g[22]
    y_row, r_batch, r_channel, r_row = g[23], g[24], g[25], g[26]
    across = (ow + 1) // 2
    tiles = across * ((oh + 1) // 2)
    rows_step = 2 * block + LANES
    for batch in range(n):
        for first in range(0, tiles, block):
            number = min(block, tiles - first)
            count = (number + LANES - 1) // LANES * LANES
            o_first, o_last, begin, used = block_span(first, number, across)
            phase = used + LANES
            line = 2 * phase
            for channel in range(ic):
                fill_strip(2, s, strip_at, phase, used, (o_last - o_first) * 2 + 4, x, batch * x_batch + channel * x_channel,
                           o_first * 2 - top, begin * 2 - left, x_row, h, w)
                for j in range(0, count, LANES):
                    place, more, beyond = vector_place(2, first + j, o_first, o_last, begin, across, line)
                    at, step = strip_at + place, 2 * line - across
                    t0, t1 = rows2(s, at, line, step, more, beyond, across), rows2(s, at + phase, line, step, more, beyond, across)
                    t2, t3 = rows2(s, at + 1, line, step, more, beyond, across), rows2(s, at + 1 + phase, line, step, more, beyond, across)
                    start = j // PANEL * PANEL
                    q, row = v_at + start * ic + channel * min(PANEL, count - start) + j - start, 4 * v_step
                    store_points2(s, q, v_step, input2(t0[0], t1[0], t2[0], t3[0]))
                    store_points2(s, q + row, v_step, input2(t0[1], t1[1], t2[1], t3[1]))
                    store_points2(s, q + 2 * row, v_step, input2(t0[2], t1[2], t2[2], t3[2]))
                    store_points2(s, q + 3 * row, v_step, input2(t0[3], t1[3], t2[3], t3[3]))
            products(16, u, s, v_at, v_step, m_at, m_step, ic, oc, count, block)
            for channel in range(oc):
                b = bias[channel]
                for j in range(0, count, LANES):
                    p = m_at + channel * block + j
                    c0 = output2(load(s, p), load(s, p + 4 * m_step), load(s, p + 8 * m_step), load(s, p + 12 * m_step))
                    p += m_step
                    c1 = output2(load(s, p), load(s, p + 4 * m_step), load(s, p + 8 * m_step), load(s, p + 12 * m_step))
                    p += m_step
                    c2 = output2(load(s, p), load(s, p + 4 * m_step), load(s, p + 8 * m_step), load(s, p + 12 * m_step))
                    p += m_step
                    c3 = output2(load(s, p), load(s, p + 4 * m_step), load(s, p + 8 * m_step), load(s, p + 12 * m_step))
                    q = rows_at + 2 * j
                    o0, o1 = output2(c0[0] + b, c1[0], c2[0], c3[0])
                    store2(s, q, o0, o1 + b)
                    o0, o1 = output2(c0[1] + b, c1[1], c2[1], c3[1])
                    store2(s, q + rows_step, o0, o1 + b)
                write_tiles(2, s, rows_at, rows_step, first, number, across, y, batch * y_batch + channel * y_channel, y_row, oh, ow,
                            res, batch * r_batch + channel * r_channel, r_row, kind, alpha, beta, low, high)
