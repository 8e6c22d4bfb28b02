"""Convolution on small maps: a tile's rows are pixels and its vectors run across output channels, so that no lane waits for a pixel.

A 7 x 7 map has 49 pixels, which would fill four vectors of 16 by three quarters; as 7 tiles of 7 rows it leaves nothing over.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...ops.conv_ways import tile_rows
from .activations import activate
from .build import Piece, Program
from .jit import flat, helper, inlined, kernel, strides
from .matmul import pack_strips
from .panels import DEPTH, NO_FLOATS, group_end, round_up, strip_vectors
from .simd import LANES, PANEL, ROWS, clamp, load, load_inside, multiply_tile, splat, store, store_first, turn

if TYPE_CHECKING:
    from .conv import Convolution

#: What the sums of a group of strips may take (bytes).
SUMS_BYTES = 256 * 1024
SHORT = ROWS - 1


def small(piece: Piece, case: Convolution) -> Program | None:
    """One group, and less to do than the other way round."""
    oc, ic, kh, kw = case.w.shape
    (n, _, h, w), (oh, ow) = case.x.shape, case.y.shape[2:]
    pixels, taps = oh * ow, kh * kw
    if case.way != "rows" or case.y.strides[2] != 4 * ow and oh > 1:
        return None
    if case.residual is not None and case.residual.strides[2] != 4 * ow and oh > 1:
        return None
    rows = int(tile_rows(pixels, ROWS))
    (sh, sw), (dh, dw), (top, left) = case.strides, case.dilations, case.pads
    _, x_channel, x_row, x_column = strides(case.x)
    tiles, k = -(-pixels // rows), ic * taps
    at = np.full((taps, tiles * rows), -1, np.int64)
    for tap in range(taps):
        r, c = np.arange(oh) * sh - top + tap // kw * dh, np.arange(ow) * sw - left + tap % kw * dw
        inside = ((r >= 0) & (r < h))[:, None] & ((c >= 0) & (c < w))
        at[tap, :pixels] = np.where(inside, r[:, None] * x_row + c * (x_column if w > 1 else 1), -1).reshape(-1)
    side_by_side = taps == 1 and pixels and np.array_equal(at[0, :pixels], np.arange(pixels))

    def pack() -> tuple[np.ndarray, np.ndarray]:
        bias = np.zeros(round_up(oc, LANES), np.float32)
        if case.bias is not None:
            bias[:oc] = case.bias
        return piece.packed.shared(case.weights, piece.regions[1], ("strips",), lambda: pack_strips(case.w.reshape(oc, k).T)), bias

    b, bias = piece.packed.get(case.weights, ("small", case.cut), pack)
    strips = max(1, SUMS_BYTES // (tiles * rows * PANEL * 4))
    sums = min(strips * PANEL, round_up(oc, LANES)) * (tiles * rows + LANES)
    starts = np.cumsum([0, LANES * LANES, round_up(tiles * k * ROWS + 2 * LANES, LANES), sums])
    res = (-1,) * 2 if case.residual is None else strides(case.residual)[:2]
    geometry = np.array([n, ic, taps, oc, pixels, tiles, strips, side_by_side, *starts[:3], strides(case.x)[0], x_channel,
                         *strides(case.y)[:2], *res, rows,
                         not side_by_side and ow % rows == 0 and sw <= 2, x_row, h, w, kw, ow, sh, sw, dh, dw, top, left], np.int64)
    arrays = (flat(case.x), b, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual), at.reshape(-1))

    def bind(scratch: np.ndarray):
        return partial(conv_pixels, *arrays, scratch.view(np.float32), geometry, *case.tail)

    return Program(f"f32_conv_small_{rows}x{PANEL}", bind, 4 * int(starts[3]))


@inlined
def pack_pixels(s, to, x, x_at, x_channel, at, rows, tiles, ic, taps, side_by_side):
    """Panels of `rows` pixels, ROWS apart, tile after tile, all of k: from tables of where each pixel's element lies."""
    size = x.size
    pixels = tiles * rows
    for tile in range(tiles):
        if side_by_side:
            for c in range(ic):
                source = x_at + c * x_channel + tile * rows
                for v in range(0, ROWS, LANES):
                    if source + v + LANES <= size:
                        store(s, to + v, load(x, source + v))
                    else:
                        store(s, to + v, load_inside(x, source + v, 1, 0, size - source - v))
                to += ROWS
        else:
            for c in range(ic):
                source = x_at + c * x_channel
                for tap in range(taps):
                    for r in range(rows):
                        q = at[tap * pixels + tile * rows + r]
                        s[to + r] = x[source + q] if q >= 0 else np.float32(0)
                    to += ROWS


@inlined
def pack_runs(s, to, x, x_at, x_channel, x_row, h, w, kw, rows, tiles, ic, taps, ow, stride_y, stride_x, gap_y, gap_x, top, left):
    """The same where every tile is a run of one output row: vectors at a time, stride_x 1 or 2."""
    for tile in range(tiles):
        first_row, first_column = tile * rows // ow * stride_y - top, tile * rows % ow * stride_x - left
        for c in range(ic):
            source = x_at + c * x_channel
            for tap in range(taps):
                row, column = first_row + tap // kw * gap_y, first_column + tap % kw * gap_x
                for v in range(0, ROWS, LANES):
                    here = column + v * stride_x
                    if row < 0 or row >= h:
                        store(s, to + v, splat(np.float32(0)))
                    elif stride_x == 1:
                        store(s, to + v, load_inside(x, source + row * x_row + here, 1, -here, w - here))
                    else:
                        store(s, to + v, load_inside(x, source + row * x_row + here, 2, -here, w - here))
                to += ROWS


@helper
def multiply_pixels(rows, vectors, a, a_at, a_step, b, b_at, depth, s, t_at, tiles, width, bias, bias_at, more, last, soon):
    """Every tile of pixels against one strip of one block of k; b[soon] begins the next one, which few tiles give little time to come."""
    free = np.float32(np.inf)
    for tile in range(tiles):
        at, to = a_at + tile * a_step, t_at + tile * rows * width
        near = soon + min(tile, vectors - 1) * depth * LANES
        if rows == 1:
            if vectors == 3:
                multiply_tile(1, 3, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1, -free, free, 1, LANES, b, 0, 0)
            elif vectors == 2:
                multiply_tile(1, 2, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1, -free, free, 1, LANES, b, 0, 0)
            else:
                multiply_tile(1, 1, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1, -free, free, 1, LANES, b, 0, 0)
        elif rows == ROWS:
            if vectors == 3:
                multiply_tile(ROWS, 3, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1,
                              -free, free, rows, LANES, b, near, 0)
            elif vectors == 2:
                multiply_tile(ROWS, 2, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1,
                              -free, free, rows, LANES, b, near, 0)
            else:
                multiply_tile(ROWS, 1, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1,
                              -free, free, rows, LANES, b, near, 0)
        elif vectors == 3:
            multiply_tile(SHORT, 3, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1,
                              -free, free, rows, LANES, b, near, 0)
        elif vectors == 2:
            multiply_tile(SHORT, 2, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1,
                              -free, free, rows, LANES, b, near, 0)
        else:
            multiply_tile(SHORT, 1, a, at, b, b_at, depth, s, to, width, bias, bias_at, 1, more, last, bias, 0, -1,
                              -free, free, rows, LANES, b, near, 0)


@inlined
def write_channels(s, t_at, width, turned, y, y_at, y_channel, res, r_at, r_channel, channels, pixels, kind, alpha, beta, low, high):
    """A strip of sums, pixel by pixel, to where its channels belong; the tail applied."""
    for g in range(0, channels, LANES):
        there = min(LANES, channels - g)
        for p in range(0, pixels, LANES):
            turn(s, turned, s, t_at + p * width + g, width)
            left = pixels - p
            for c in range(there):
                value = load(s, turned + c * LANES)
                to = y_at + (g + c) * y_channel + p
                if r_channel >= 0:
                    value = value + load_inside(res, r_at + (g + c) * r_channel + p, 1, 0, left)
                value = clamp(value, low, high)
                if left >= LANES:
                    store(y, to, value)
                else:
                    store_first(y, to, value, left)
        if kind != 0:
            for c in range(there):
                activate(y, y_at + (g + c) * y_channel, pixels, y, y_at + (g + c) * y_channel, kind, alpha, beta)


@kernel
def conv_pixels(x, b, bias, y, res, at, s, g, kind, alpha, beta, low, high):
    n, ic, taps, oc, pixels, tiles, strips, side_by_side = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]
    turned, a_at, t_at, x_batch, x_channel, y_batch, y_channel, r_batch, r_channel = (g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15],
                                                                                      g[16])
    rows = g[17]
    k = ic * taps
    block = k if rows == 1 else DEPTH  # one pixel's sums stay in registers: the weights are one stream
    for batch in range(n):
        if g[18]:
            pack_runs(s, a_at, x, batch * x_batch, x_channel, g[19], g[20], g[21], g[22], rows, tiles, ic, taps, g[23], g[24], g[25], g[26],
                      g[27], g[28], g[29])
        else:
            pack_pixels(s, a_at, x, batch * x_batch, x_channel, at, rows, tiles, ic, taps, side_by_side)
        group = 0
        while group < oc:
            stop = group_end(group, oc, strips)
            for k0 in range(0, k, block):
                depth = min(block, k - k0)
                more, last = 1 if k0 else 0, 1 if k0 + depth == k else 0
                start = group
                while start < stop:
                    vectors = strip_vectors(oc - start)
                    width = vectors * LANES
                    b_at, sums = start * k + k0 * width, t_at + (start - group) * (tiles * rows)
                    multiply_pixels(rows, vectors, s, a_at + k0 * ROWS, k * ROWS, b, b_at, depth, s, sums, tiles, width, bias, start,
                                    more, last, b_at + width * k if start + width < stop else group * k + (k0 + depth) * PANEL)
                    if last:
                        write_channels(s, sums, width, turned, y, batch * y_batch + start * y_channel, y_channel, res,
                                       batch * r_batch + start * r_channel, r_channel, min(width, oc - start), pixels, kind, alpha, beta,
                                       low, high)
                    start += width
            group = stop

