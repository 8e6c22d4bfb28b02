"""Poolings on float32: windows over padded planes as depthwise convolution has them; whole planes as rows."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...ops.pool import average_divisors, pool_input, pool_params
from ...ops.sliding import spatial, taps_inside
from .build import Piece, Program, along_channels, builds, shares_out
from .conv_depthwise import copy_row
from .elementwise import put
from .jit import flat, inlined, kernel, rows_contiguous, strides
from .panels import round_up
from .rows import as_rows
from .simd import LANES, keep, load, load_inside, load_strided, pick_less, pick_number, splat, store

shares_out("MaxPool", "AveragePool")(along_channels)


@builds("MaxPool", "AveragePool")
def pool(piece: Piece) -> Program | None:
    """One or two spatial axes; no indices, no fused tail."""
    node, x, y = piece.node, piece.inputs[0], piece.outputs[0]
    if y.ndim not in (3, 4) or not piece.is_float32 or any(v is not None for v in node.outputs[1:]) or node.residual or node.activation:
        return None
    windows, spans, out = pool_params(node), pool_input(node, piece.region)[1], spatial(piece.region)
    sizes = node.inputs[0].shape[2:]
    if any((taps_inside(windows, d, rows, 0, n) == 0).any() for d, (rows, n) in enumerate(zip(out, sizes))):
        return None  # a window of nothing but padding: the reference knows what it holds
    if not rows_contiguous(x, y) or any(s < 0 for a in (x, y) for s in a.strides):
        return None
    extra = (1,) * (4 - y.ndim)
    if y.ndim == 3:
        x, y = x[:, :, None], y[:, :, None]
    (kh, kw), (sh, sw), (dh, dw) = ((*extra, *v) for v in (windows.kernel, windows.strides, windows.dilations))
    top, left = (*(0,) * len(extra), *(s.pad_begin for s in spans))
    (n, c, h, w), (oh, ow) = x.shape, y.shape[2:]
    pitch, rows = round_up(ow, LANES) + (kw - 1) * dw // sw + LANES, (oh - 1) * sh + (kh - 1) * dh + 1
    offsets = np.array([(k * dw) % sw * rows * pitch + i * dh * pitch + k * dw // sw for i in range(kh) for k in range(kw)], np.int64)
    average = node.op_type == "AveragePool"
    by_row, by_column = np.ones(oh, np.float32), np.ones(round_up(ow, LANES), np.float32)
    if average:
        counts = [np.maximum(d, 1) for d in average_divisors(node, out)]
        by_column[:ow] = 1 / counts[-1]
        by_row[:] = 1 / counts[0] if y.ndim == len(counts) + 2 else 1
    geometry = np.array([n, c, h, w, sh, sw, top, left, oh, ow, rows, pitch, *strides(x)[:3], *strides(y)[:3], kh], np.int64)
    if not average and (kh, sh) in ((3, 1), (3, 2), (2, 2)) and (kw, sw, dh, dw) == (kh, sh, 1, 1):
        run = partial(max_strips, flat(x), flat(y), geometry)
        return Program(f"f32_maxpool_{kh}x{kw}s{sw}", lambda scratch: run)
    arrays = flat(x), flat(y), by_row, by_column, offsets

    def bind(scratch: np.ndarray):
        return partial(pool_planes, *arrays, scratch.view(np.float32), geometry, average)

    return Program(f"f32_{node.op_type.lower()}_{kh}x{kw}s{sw}", bind, 4 * (rows * sw * pitch + LANES))


@kernel
def pool_planes(x, y, by_row, by_column, offsets, plane, g, average):
    n, channels, h, w, sh, sw, top, left, oh, ow, rows, pitch = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11]
    x_batch, x_channel, x_row, y_batch, y_channel, y_row = g[12], g[13], g[14], g[15], g[16], g[17]
    fill = np.float32(0) if average else np.float32(-np.inf)
    for q in range(0, sw * rows * pitch, LANES):
        store(plane, q, splat(fill))
    for image in range(n * channels):
        x_plane = image // channels * x_batch + image % channels * x_channel
        y_plane = image // channels * y_batch + image % channels * y_channel
        for r in range(max(0, top), min(rows, h + top)):
            for phase in range(sw):
                copy_row(plane, (phase * rows + r) * pitch, x, x_plane + (r - top) * x_row, phase, sw, left, w, pitch)
        for row in range(oh):
            for j in range(0, ow, LANES):
                at = row * sh * pitch + j
                value = load(plane, at + offsets[0])
                if average:
                    for t in range(1, offsets.size):
                        value = value + load(plane, at + offsets[t])
                    value = value * load(by_column, j) * by_row[row]
                else:
                    for t in range(1, offsets.size):
                        other = load(plane, at + offsets[t])
                        value = pick_number(other, pick_less(value, other, other, value))
                put(y, y_plane + row * y_row + j, value, ow - j)


@inlined
def greater(a, b):
    """The greater of each pair; NaN where there is one."""
    return pick_number(b, pick_less(a, b, b, a))


@inlined
def outside(first, stop, step, phase):
    """0 for lanes whose element phase + lane * step lies from `first` up to `stop`, -infinity for the others."""
    low, high = (first - phase + step - 1) // step, (stop - phase + step - 1) // step
    below = splat(np.float32(-np.inf))
    return keep(below, 0, low) + keep(below, high, LANES)


@inlined
def row_maximum(x, at, column, w, size, stride, edge, m0, m1, m2):
    """The largest of `size` neighbours of a row, from `column` on, `stride` apart."""
    at += column
    if edge:
        if stride == 1:
            return greater(greater(load_inside(x, at, 1, -column, w - column) + m0, load_inside(x, at + 1, 1, -column - 1, w - column - 1)
                                   + m1), load_inside(x, at + 2, 1, -column - 2, w - column - 2) + m2)
        found = greater(load_inside(x, at, 2, -column, w - column) + m0, load_inside(x, at + 1, 2, -column - 1, w - column - 1) + m1)
        return found if size == 2 else greater(found, load_inside(x, at + 2, 2, -column - 2, w - column - 2) + m2)
    if stride == 1:
        return greater(greater(load(x, at), load(x, at + 1)), load(x, at + 2))
    found = greater(load_strided(x, at, 2, 0), load_strided(x, at, 2, 1))
    return found if size == 2 else greater(found, load_strided(x, at + 2, 2, 0))


@kernel
def max_strips(x, y, g):
    n, channels, h, w, stride, top, left, oh, ow = g[0], g[1], g[2], g[3], g[4], g[6], g[7], g[8], g[9]
    x_batch, x_channel, x_row, y_batch, y_channel, y_row, size = g[12], g[13], g[14], g[15], g[16], g[17], g[18]
    least = splat(np.float32(-np.inf))
    for image in range(n * channels):
        x_plane = image // channels * x_batch + image % channels * x_channel
        y_plane = image // channels * y_batch + image % channels * y_channel
        for j in range(0, ow, LANES):
            start = ow - LANES if j + LANES > ow and ow >= LANES else j  # overlapping beats a partial vector
            c = start * stride - left
            edge = c < 0 or c + stride * LANES + size > w
            m0, m1, m2 = outside(-c, w - c, stride, 0), outside(-c, w - c, stride, 1), outside(-c, w - c, stride, 2)
            for row in range(oh):
                found = least
                for r in range(row * stride - top, row * stride - top + size):
                    if 0 <= r < h:
                        found = greater(found, row_maximum(x, x_plane + r * x_row, c, w, size, stride, edge, m0, m1, m2))
                put(y, y_plane + row * y_row + start, found, ow - start)


#: Partial sums of a row.
SUMS = 16


@builds("GlobalAveragePool", "ReduceMean", "ReduceSum")
def reduce_rows(piece: Piece) -> Program | None:
    """Sums and means over the last axes of a tensor whose elements there lie side by side."""
    node, x = piece.node, piece.inputs[0]
    if not piece.is_float32_operand(0) or node.residual or node.activation or not x.size:
        return None
    reduced = tuple(range(2, x.ndim)) if node.op_type == "GlobalAveragePool" else tuple(sorted(piece.op.reduced(node)))
    first = x.ndim - len(reduced)
    if not reduced or reduced != tuple(range(first, x.ndim)):
        return None
    rows = as_rows(x, keep=first)
    y = piece.outputs[0].reshape(-1) if piece.outputs[0].flags.c_contiguous else None
    count = int(np.prod(x.shape[first:]))
    if rows is None or y is None or rows.length != count or rows.count != y.size or (rows.steps[0] != 1 and count > 1):
        return None
    run = partial(rows_sum, flat(x), flat(y), rows.offsets, count, np.float32(1 if node.op_type == "ReduceSum" else 1 / count),
                  np.zeros(SUMS, np.float32))
    return Program(f"f32_{node.op_type.lower()}", lambda scratch: run)


@inlined
def sum_in_order(x, at, length, sums):
    """The sum of a row, in the order that the OpenCL kernels use (normalize.cl): the same answer from either device.

    Element j goes to partial sum j % SUMS; what is left over is summed first, then the partial sums are added one by one.
    """
    whole = length - length % SUMS
    for v in range(0, SUMS, LANES):
        lanes = splat(np.float32(0))
        for j in range(v, whole, SUMS):
            lanes = lanes + load(x, at + j)
        store(sums, v, lanes)
    result = np.float32(0)
    for j in range(whole, length):
        result += x[at + j]
    for v in range(SUMS):
        result += sums[v]
    return result


@kernel
def rows_sum(x, y, offsets, length, factor, sums):
    for i in range(offsets.size):
        y[i] = sum_in_order(x, offsets[i], length, sums) * factor
