"""Winograd convolution F(6 x 6, 3 x 3): 64 multiplications for 36 outputs, where F(4 x 4) takes 81.

Points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity (Lavin and Gray, arXiv:1509.09308; Barabasz et al., arXiv:1803.10986, on why these). Tiles of eight
points are turned by whole squares of LANES x LANES instead of strided loads and stores: their width is no power of two.
"""

from __future__ import annotations

import numpy as np

from .jit import inlined, kernel
from .simd import LANES, load, store, turn
from .winograd import products, row_part, to_panels, write_tiles

#: The weight transform G.
G = np.array([[1, 0, 0], [-2 / 9, -2 / 9, -2 / 9], [-2 / 9, 2 / 9, -2 / 9], [1 / 90, 1 / 45, 2 / 45], [1 / 90, -1 / 45, 2 / 45],
              [1 / 45, 1 / 90, 1 / 180], [1 / 45, -1 / 90, 1 / 180], [0, 0, 1]])
#: Elements of scratch memory for one group of LANES tiles: 8 x 8 vectors between the two halves of a transform, and two lots of turned rows.
TURNED = max(8, LANES)
SCRATCH = (64 + 2 * TURNED) * LANES


@inlined
def input6(d0, d1, d2, d3, d4, d5, d6, d7):
    """B' d for m = 6."""
    q, h, f, d, o = np.float32(0.25), np.float32(0.5), np.float32(4), np.float32(2), np.float32(2.5)
    big, most, some = np.float32(5.25), np.float32(4.25), np.float32(1.25)
    a, b = d2 + d6 - d4 * most, d1 + d5 - d3 * most
    c, e = d6 + d2 * q - d4 * some, d1 * h - d3 * o + d5 * d
    g, k = d6 + (d2 - d4 * some) * f, d1 * d - d3 * o + d5 * h
    return d0 - d6 + (d4 - d2) * big, a + b, a - b, c + e, c - e, g + k, g - k, d7 - d1 + (d3 - d5) * big


@inlined
def output6(m0, m1, m2, m3, m4, m5, m6, m7):
    """A' m for m = 6."""
    f2, f4, f8, f16, f32 = np.float32(2), np.float32(4), np.float32(8), np.float32(16), np.float32(32)
    a, b, c, d, e, f = m1 + m2, m1 - m2, m3 + m4, m3 - m4, m5 + m6, m5 - m6
    return m0 + a + c + e * f32, b + d * f2 + f * f16, a + c * f4 + e * f8, b + d * f8 + f * f4, a + c * f16 + e * f2, b + d * f32 + f + m7


@inlined
def eight(s, at, step):
    """Eight vectors that lie so far apart."""
    return (load(s, at), load(s, at + step), load(s, at + 2 * step), load(s, at + 3 * step),
            load(s, at + 4 * step), load(s, at + 5 * step), load(s, at + 6 * step), load(s, at + 7 * step))


@inlined
def store_six(s, at, step, o):
    store(s, at, o[0])
    store(s, at + step, o[1])
    store(s, at + 2 * step, o[2])
    store(s, at + 3 * step, o[3])
    store(s, at + 4 * step, o[4])
    store(s, at + 5 * step, o[5])


@inlined
def store_eight(s, at, step, t):
    store_six(s, at, step, t)
    store(s, at + 6 * step, t[6])
    store(s, at + 7 * step, t[7])


@kernel
def winograd6(x, u, bias, y, res, s, g, kind, alpha, beta, low, high):
    n, ic, h, w, top, left, oc = g[0], g[1], g[2], g[3], g[4], g[5], g[6]
    oh, ow, block, line, v_step, m_step = g[7], g[8], g[9], g[10], g[11], g[12]
    v_at, m_at, line_at, turn_at, rows_at = g[13], g[14], g[15], g[16], g[17]
    x_batch, x_channel, x_row, y_batch, y_channel = g[18], g[19], g[20], g[21], g[22]
    y_row, r_batch, r_channel, r_row, half_at = g[23], g[24], g[25], g[26], g[27]
    flat_at = half_at + 64 * LANES
    turned_at = flat_at + TURNED * LANES
    across = (ow + 5) // 6
    tiles = across * ((oh + 5) // 6)
    to_step, rows_step = block + LANES, 6 * block + LANES
    for batch in range(n):
        for first in range(0, tiles, block):
            number = min(block, tiles - first)
            count = (number + LANES - 1) // LANES * LANES
            for channel in range(ic):
                plane = batch * x_batch + channel * x_channel
                tile = first
                while tile < first + number:
                    ty, tx = tile // across, tile % across
                    run = min(across - tx, first + number - tile)
                    row, column = ty * 6 - top, tx * 6 - left
                    for j in range(0, run * 6 + 2, LANES):
                        c = column + j
                        store_eight(s, line_at + j, line, input6(
                            row_part(x, plane, row, c, x_row, h, w), row_part(x, plane, row + 1, c, x_row, h, w),
                            row_part(x, plane, row + 2, c, x_row, h, w), row_part(x, plane, row + 3, c, x_row, h, w),
                            row_part(x, plane, row + 4, c, x_row, h, w), row_part(x, plane, row + 5, c, x_row, h, w),
                            row_part(x, plane, row + 6, c, x_row, h, w), row_part(x, plane, row + 7, c, x_row, h, w)))
                    for i in range(8):
                        for j in range(0, run, LANES):
                            for k in range(0, 8, LANES):
                                turn(s, turned_at + k * LANES, s, line_at + i * line + 6 * j + k, 6)
                            d = eight(s, turned_at, LANES)
                            store_eight(s, turn_at + i * 8 * to_step + tile - first + j, to_step,
                                        input6(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]))
                    tile += run
                to_panels(s, turn_at, to_step, 64, count, v_at, v_step, ic, channel)
            products(64, u, s, v_at, v_step, m_at, m_step, ic, oc, count, block)
            for channel in range(oc):
                b = bias[channel]
                for j in range(0, count, LANES):
                    p = m_at + channel * block + j
                    for k in range(8):
                        c = eight(s, p + k * m_step, 8 * m_step)
                        store_six(s, half_at + k * LANES, 8 * LANES, output6(c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]))
                    for r in range(6):
                        c = eight(s, half_at + r * 8 * LANES, LANES)
                        o = output6(c[0] + b, c[1], c[2], c[3], c[4], c[5], c[6], c[7])
                        store_six(s, flat_at, LANES, (o[0], o[1] + b, o[2] + b, o[3] + b, o[4] + b, o[5] + b))
                        for k in range(0, 6, LANES):
                            turn(s, turned_at + k * LANES, s, flat_at + k * LANES, LANES)
                        q = rows_at + r * rows_step + 6 * j
                        for t in range(LANES):  # each writes over what the one before it wrote too much
                            for k in range(0, 6, LANES):
                                store(s, q + 6 * t + k, load(s, turned_at + (k + t) * LANES))
                write_tiles(6, s, rows_at, rows_step, first, number, across, y, batch * y_batch + channel * y_channel, y_row, oh, ow,
                            res, batch * r_batch + channel * r_channel, r_row, kind, alpha, beta, low, high)
