"""Winograd convolution of larger kernels (5x5 to 8x8, stride 1): 4x4 blocks of the kernel, each by F(4 x 4, 4 x 4), added up before the
transform back.

Blocks are as far apart as tiles, so a tile as one block needs it is its neighbour's as the next one does: inputs are transformed once, and
the blocks only make the 49 products deeper. A 7x7 kernel takes 12.25 multiplications an output so, not 49. Rounding: as F(4 x 4, 3 x 3).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...ops.conv_ways import BLOCKS, POINTS
from .build import Piece, Program
from .jit import flat, inlined, kernel, strides
from .packing import pack_filters
from .panels import NO_FLOATS, pack_bias, round_up, strip_vectors
from .simd import LANES, PANEL, ROWS, load, load_strided, multiply_tile, store, store4
from .winograd import MOST_DEPTH, NO_BIAS, row_part, write_tiles

if TYPE_CHECKING:
    from .conv import Convolution

#: Sides of a block of the kernel and of a tile of outputs, which must be equal; and of a tile of inputs.
TILE = 4
SIDE = 2 * TILE - 1
#: The weight transform G at the points 0, 1, -1, 2, -2, 1/2 and infinity: a 4x4 block g becomes G g G'.
G = np.array([[-1 / 2, 0, 0, 0], [-1 / 3] * 4, [1 / 9, -1 / 9, 1 / 9, -1 / 9], [1 / 36, 1 / 18, 1 / 9, 2 / 9],
              [-1 / 60, 1 / 30, -1 / 15, 2 / 15], [32 / 45, 16 / 45, 8 / 45, 4 / 45], [0, 0, 0, 1]])
#: What transformed inputs and products of a band of tiles may take (bytes): the weights are read once a band.
BAND_BYTES = 6 << 20


def winograd_blocks(piece: Piece, case: Convolution) -> Program | None:
    """Stride and dilation 1, one group, and less to do than any other way."""
    oc, ic, side, _ = case.w.shape
    if case.way != "blocks":
        return None
    (n, _, h, w), (oh, ow) = case.x.shape, case.y.shape[2:]
    padded, depth = round_up(oc, ROWS), BLOCKS * ic

    def pack() -> tuple[np.ndarray, np.ndarray]:
        return piece.packed.later(pack_filters(case.w, G, ROWS, points_first=True, blocks=2)), pack_bias(case.bias, oc)

    u, bias = piece.packed.get(case.weights, ("winograd blocks", case.cut), pack)
    across, down = -(-ow // TILE), -(-oh // TILE)
    wide = across + 1
    bands = max(1, round(POINTS * 4 * (ic * wide + padded * across) * down / BAND_BYTES))
    band = -(-down // bands)
    count = round_up(band * across, LANES)
    v_row = (band + 1) * wide + LANES
    v_step, m_step = ic * v_row + LANES, padded * count + LANES  # the odd vector keeps the points out of one another's cache sets
    line = TILE * round_up(wide, LANES) + 2 * TILE * LANES
    sizes = [POINTS * v_step, POINTS * m_step, SIDE * line, depth * count + PANEL + LANES, TILE * (TILE * count + LANES)]
    starts = np.cumsum([0, *(round_up(s, LANES) for s in sizes)])
    res_strides = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    geometry = np.array([n, ic, h, w, *case.pads, oc, oh, ow, band, count, line, v_row, v_step, m_step, *starts[:5],
                         *strides(case.x)[:3], *strides(case.y)[:3], *res_strides], np.int64)
    arrays = flat(case.x), u, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual)

    def bind(scratch: np.ndarray):
        return partial(conv_blocks, *arrays, scratch.view(np.float32), geometry, *case.tail)

    return Program(f"f32_conv_winograd_blocks_{ROWS}x{PANEL}", bind, 4 * int(starts[5]))


@inlined
def input_blocks(d0, d1, d2, d3, d4, d5, d6):
    """B' d."""
    f2, f4, f5, h = np.float32(2), np.float32(4), np.float32(5), np.float32(0.5)
    f25, f15, f35, f45, f6 = np.float32(2.5), np.float32(1.5), np.float32(3.5), np.float32(4.5), np.float32(6)
    return (d5 - d4 * h - d3 * f5 + d2 * f25 + d1 * f4 - d0 * f2,
            d5 + d4 * h - d3 * f45 - d2 * f2 + d1 * f2,
            d5 - d4 * f15 - d3 * f35 + d2 * f6 - d1 * f2,
            d5 + d4 * f15 - d3 * f2 - d2 * f15 + d1,
            d5 - d4 * f25 + d2 * f25 - d1,
            d5 - d3 * f5 + d1 * f4,
            d6 - d5 * h - d4 * f5 + d3 * f25 + d2 * f4 - d1 * f2)


@inlined
def output_blocks(m0, m1, m2, m3, m4, m5, m6):
    """A' m."""
    f2, f4, f8, h, q, e = np.float32(2), np.float32(4), np.float32(8), np.float32(0.5), np.float32(0.25), np.float32(0.125)
    a, b, c, d = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + a + c + m5, b + d * f2 + m5 * h, a + c * f4 + m5 * q, b + d * f8 + m5 * e + m6


@inlined
def output_column(s, p, step):
    """A' m of a column of points, SIDE points apart."""
    return output_blocks(load(s, p), load(s, p + SIDE * step), load(s, p + 2 * SIDE * step), load(s, p + 3 * SIDE * step),
                         load(s, p + 4 * SIDE * step), load(s, p + 5 * SIDE * step), load(s, p + 6 * SIDE * step))


@inlined
def store_point_row(s, q, step, t):
    """SIDE vectors, `step` apart."""
    store(s, q, t[0])
    store(s, q + step, t[1])
    store(s, q + 2 * step, t[2])
    store(s, q + 3 * step, t[3])
    store(s, q + 4 * step, t[4])
    store(s, q + 5 * step, t[5])
    store(s, q + 6 * step, t[6])


@inlined
def transform_row(x, plane, row, left, x_row, h, w, s, line_at, line, to, v_step, wide):
    """One row of tiles of a channel: SIDE rows of the input, down and then across, to a row of each point's plane."""
    for j in range(0, TILE * wide + TILE - 1, LANES):
        c = j - left
        t = input_blocks(row_part(x, plane, row, c, x_row, h, w), row_part(x, plane, row + 1, c, x_row, h, w),
                         row_part(x, plane, row + 2, c, x_row, h, w), row_part(x, plane, row + 3, c, x_row, h, w),
                         row_part(x, plane, row + 4, c, x_row, h, w), row_part(x, plane, row + 5, c, x_row, h, w),
                         row_part(x, plane, row + 6, c, x_row, h, w))
        store_point_row(s, line_at + j, line, t)
    for i in range(SIDE):
        for j in range(0, wide, LANES):  # what is written beyond the row is the next one's, which comes later
            p = line_at + i * line + TILE * j
            t = input_blocks(load_strided(s, p, 4, 0), load_strided(s, p, 4, 1), load_strided(s, p, 4, 2), load_strided(s, p, 4, 3),
                             load_strided(s, p + 4, 4, 0), load_strided(s, p + 4, 4, 1), load_strided(s, p + 4, 4, 2))
            store_point_row(s, to + i * SIDE * v_step + j, v_step, t)


@inlined
def gather_strip(s, to, from_at, v_row, ic, across, start, stop, width):
    """Tiles start ... stop of one point as the blocks need them, block after block, channel after channel: a strip of the product."""
    first_row, first_column = start // across, start % across
    for block in range(BLOCKS):
        shift = (first_row + block // 2) * (across + 1) + first_column + block % 2
        for channel in range(ic):
            source = from_at + channel * v_row + shift
            tile, run = start, min(across - first_column, stop - start)
            skip = first_column
            while tile < stop:
                for j in range(0, run, LANES):  # what is written beyond the run is overwritten by what belongs there
                    store(s, to + tile - start + j, load(s, source + j))
                tile += run
                source += across + 1 - skip
                skip = 0
                run = min(across, stop - tile)
            to += width


@inlined
def multiply_strip(vectors, u, a, s, b, depth, m, c, c_row):
    """Every panel of rows of one point against a strip."""
    zero = np.float32(0)
    width = vectors * LANES
    for k in range(0, depth, MOST_DEPTH):
        deep = min(MOST_DEPTH, depth - k)
        more = 1 if k else 0
        for row in range(0, m, ROWS):
            at, to = a + row * depth + k * ROWS, c + row * c_row
            soon = at + depth * ROWS
            if vectors == 3:
                multiply_tile(ROWS, 3, u, at, s, b + k * width, deep, s, to, c_row, NO_BIAS, 0, 0, more, 0, NO_BIAS, 0, -1, zero, zero,
                              ROWS, LANES, u, soon, 0)
            elif vectors == 2:
                multiply_tile(ROWS, 2, u, at, s, b + k * width, deep, s, to, c_row, NO_BIAS, 0, 0, more, 0, NO_BIAS, 0, -1, zero, zero,
                              ROWS, LANES, u, soon, 0)
            else:
                multiply_tile(ROWS, 1, u, at, s, b + k * width, deep, s, to, c_row, NO_BIAS, 0, 0, more, 0, NO_BIAS, 0, -1, zero, zero,
                              ROWS, LANES, u, soon, 0)


@kernel
def conv_blocks(x, u, bias, y, res, s, g, kind, alpha, beta, low, high):
    n, ic, h, w, top, left, oc, oh, ow = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8]
    band, count, line, v_row, v_step, m_step = g[9], g[10], g[11], g[12], g[13], g[14]
    v_at, m_at, line_at, b_at, rows_at = g[15], g[16], g[17], g[18], g[19]
    x_batch, x_channel, x_row, y_batch, y_channel = g[20], g[21], g[22], g[23], g[24]
    y_row, r_batch, r_channel, r_row = g[25], g[26], g[27], g[28]
    across, down = (ow + TILE - 1) // TILE, (oh + TILE - 1) // TILE
    padded, depth = (oc + ROWS - 1) // ROWS * ROWS, BLOCKS * ic
    rows_step = TILE * count + LANES
    for batch in range(n):
        for first in range(0, down, band):
            rows = min(band, down - first)
            tiles = rows * across
            for channel in range(ic):
                for row in range(rows + 1):
                    transform_row(x, batch * x_batch + channel * x_channel, (first + row) * TILE - top, left, x_row, h, w, s, line_at, line,
                                  v_at + channel * v_row + row * (across + 1), v_step, across + 1)
            for point in range(POINTS):
                start = 0
                while start < tiles:
                    vectors = strip_vectors(tiles - start)
                    width = vectors * LANES
                    gather_strip(s, b_at, v_at + point * v_step, v_row, ic, across, start, min(tiles, start + width), width)
                    multiply_strip(vectors, u, point * padded * depth, s, b_at, depth, padded, m_at + point * m_step + start, count)
                    start += width
            for channel in range(oc):
                b = bias[channel]
                for j in range(0, tiles, LANES):
                    p = m_at + channel * count + j
                    c0, c1 = output_column(s, p, m_step), output_column(s, p + m_step, m_step)
                    c2, c3 = output_column(s, p + 2 * m_step, m_step), output_column(s, p + 3 * m_step, m_step)
                    c4, c5 = output_column(s, p + 4 * m_step, m_step), output_column(s, p + 5 * m_step, m_step)
                    c6 = output_column(s, p + 6 * m_step, m_step)
                    q = rows_at + TILE * j
                    o = output_blocks(c0[0], c1[0], c2[0], c3[0], c4[0], c5[0], c6[0])
                    store4(s, q, o[0] + b, o[1] + b, o[2] + b, o[3] + b)
                    o = output_blocks(c0[1], c1[1], c2[1], c3[1], c4[1], c5[1], c6[1])
                    store4(s, q + rows_step, o[0] + b, o[1] + b, o[2] + b, o[3] + b)
                    o = output_blocks(c0[2], c1[2], c2[2], c3[2], c4[2], c5[2], c6[2])
                    store4(s, q + 2 * rows_step, o[0] + b, o[1] + b, o[2] + b, o[3] + b)
                    o = output_blocks(c0[3], c1[3], c2[3], c3[3], c4[3], c5[3], c6[3])
                    store4(s, q + 3 * rows_step, o[0] + b, o[1] + b, o[2] + b, o[3] + b)
                write_tiles(TILE, s, rows_at, rows_step, first * across, tiles, across, y, batch * y_batch + channel * y_channel, y_row, oh, ow,
                            res, batch * r_batch + channel * r_channel, r_row, kind, alpha, beta, low, high)
