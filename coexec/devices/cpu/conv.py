"""Conv on the CPU: which algorithm a piece takes, and the implicit matrix product (columns are gathered a strip at a time)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from ...graph.ir import Node, Value
from ...ops.base import Op
from ...ops.conv import conv_input, conv_params
from ...ops.conv_ways import Window, best, least
from ...regions import Region
from .build import Piece, Program, along_channels, builds, cut_evenly, shares_out
from .conv_depthwise import depthwise
from .conv_few import few
from .conv_shallow import shallow
from .conv_small import small
from .jit import flat, inlined, kernel, rows_contiguous, strides
from .panels import NO_FLOATS, Tail, block_depth, group_end, multiply_rows, pack_bias, pack_rows, round_up, strip_vectors, tail_of
from .simd import LANES, PANEL, ROWS, ask_for, keep, load, load_strided, splat, store
from .winograd import winograd
from .winograd_blocks import winograd_blocks

#: What the partial sums of a group of strips may take, between two blocks of k (bytes): a part of the second-level cache.
SUMS_BYTES = 256 * 1024
#: A share of the channels reads and packs all of the input, a part of which another thread has just written and holds in its cache. What that makes
#: of its arithmetic where taps overlap, and, of a kernel of one tap that makes less than it reads, what each element costs it. One that makes more
#: than it reads is followed by what reads those channels.
ALL_INPUT_COST, ELEMENT_COST = 1.13, 32


class Convolution(NamedTuple):
    """A piece of a convolution as every algorithm here takes it: two spatial axes, arrays cut to the piece, pads of this piece.

    x (n, c, h, w), w (oc, c / group, kh, kw), y and residual (n, oc, oh, ow). pads: of the piece's top and left; negative crops. way: the best of
    `ops.conv_ways`, where it has no kernel of its own.
    """

    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    y: np.ndarray
    residual: np.ndarray | None
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    group: int
    tail: Tail
    weights: Value
    cut: tuple[int, int]
    way: str


def convolution(piece: Piece) -> Convolution | None:
    """The piece in those terms; None where it is not float32, its weights are no constants, or its rows do not lie side by side."""
    rank = piece.outputs[0].ndim
    if rank not in (3, 4) or not piece.is_float32 or piece.constant(1) is None:
        return None
    if not piece.absent(2) and piece.constant(2) is None:
        return None
    params, (_, spans) = conv_params(piece.node), conv_input(piece.node, piece.region)
    extra = (1,) * (4 - rank)
    deep = (lambda a: a) if rank == 4 else (lambda a: None if a is None else a[:, :, None, :])
    x, y, residual = deep(piece.inputs[0]), deep(piece.outputs[0]), deep(piece.residual)
    if not rows_contiguous(x, y, residual) or any(s < 0 for a in (x, y) for s in a.strides):
        return None
    group = 1 if params.group == 1 else piece.inputs[1].shape[0] * params.group // piece.constant(1).shape[0]
    w, strides, dilations = deep(piece.inputs[1]), (*extra, *params.strides), (*extra, *params.dilations)
    (oc, ic, kh, kw), (oh, ow) = w.shape, y.shape[2:]
    window = Window.of((kh, kw), strides, dilations, group == 1)
    way = best(ic, oc, oh, ow, window if piece.options.winograd else window._replace(is_plain=False), LANES, ROWS)
    return Convolution(x, w, None if piece.absent(2) else piece.inputs[2], y, residual, strides, dilations,
                       (*(0,) * len(extra), *(s.pad_begin for s in spans)), group, tail_of(piece.node.activation),
                       piece.values[1], tuple(piece.region[1]), way)


@builds("Conv")
def conv(piece: Piece) -> Program | None:
    """Depthwise, Winograd, few or shallow channels, a small map, or an implicit matrix product: whichever the piece allows first."""
    case = convolution(piece)
    if case is None:
        return None
    fewer = (winograd, winograd_blocks) if piece.options.winograd else ()
    return next(filter(None, (build(piece, case) for build in (depthwise, *fewer, few, shallow, small, implicit))))


@shares_out("Conv")
def share(op: Op, node: Node, out_region: Region, threads: int) -> list[Region] | None:
    """Along height or channel, whichever leaves the slowest thread less to do: whole tiles, weights read by one thread only, and input that others
    read too, count. Depthwise ones by channels, whole vectors of them where that is fair.
    """
    w = node.inputs[1].shape
    if len(w) != 4 or node.output.dtype != np.float32:
        return None
    params = conv_params(node)
    if w[1] == 1:
        return along_channels(op, node, out_region, threads, (LANES, 1)) if params.group > 1 else None
    window = Window.of((w[2], w[3]), params.strides, params.dilations, params.group == 1)

    def cost(region: Region) -> float:
        n, oc, oh, ow = region.shape
        return n * float(least(w[1], oc, oh, ow, window, LANES, ROWS))

    options, read, taps = [], op.input_regions(node, out_region)[0].size, w[2] * w[3]  # type: ignore[union-attr]
    each_read = ELEMENT_COST * read if taps == 1 and read > out_region.size else 0
    for axis in (a for a in op.split_axes(node) if a.name != "width"):  # rows that lie apart are slower to read
        for align in {"height": (1, 2, 4), "channel": (1, ROWS)}.get(axis.name, (1,)):
            pieces = cut_evenly(axis, out_region, threads, align)
            slowest = max(map(cost, pieces))
            if axis.name == "channel":
                slowest = slowest * (1 if taps == 1 else ALL_INPUT_COST) + each_read
            else:
                slowest += each_read / len(pieces)
            options.append((slowest, len(options), pieces))
    return min(options)[2] if options else None


def implicit(piece: Piece, case: Convolution) -> Program | None:
    """The matrix product of weights and gathered columns, group by group."""
    oc, per_group, kh, kw = case.w.shape
    rows, taps = oc // case.group, kh * kw

    def pack() -> tuple[np.ndarray, np.ndarray]:
        bias = None if case.bias is None else case.bias.reshape(case.group, rows)
        return (piece.packed.shared(case.weights, piece.regions[1], ("rows", case.group, ROWS),
                                    lambda: pack_rows(case.w.reshape(case.group, rows, -1))),
                np.concatenate([pack_bias(None if bias is None else bias[g], rows) for g in range(case.group)]))

    a, bias = piece.packed.get(case.weights, ("panels", case.cut), pack)
    depth = block_depth(taps)
    strips = 1 if per_group * taps <= depth else max(1, min(16, SUMS_BYTES // (round_up(rows, ROWS) * PANEL * 4)))
    columns = depth * PANEL + PANEL + 2 * LANES
    n, _, h, w = case.x.shape
    _, _, oh, ow = case.y.shape
    res_strides = (-1,) * 3 if case.residual is None else strides(case.residual)[:3]
    geometry = np.array([n, case.group, per_group, h, w, kh, kw, *case.strides, *case.dilations, *case.pads, rows, oh, ow, strips,
                         depth // taps,
                         *strides(case.x)[:3], *strides(case.y)[:3], *res_strides], np.int64)
    arrays = flat(case.x), a, bias, flat(case.y), NO_FLOATS if case.residual is None else flat(case.residual)

    def bind(scratch: np.ndarray):
        return partial(conv_panels, *arrays, scratch.view(np.float32), np.zeros((4 + 2 * kw) * PANEL, np.int64), geometry, *case.tail)

    method = "pointwise" if taps == 1 else "columns"
    return Program(f"f32_conv_{method}_{ROWS}x{PANEL}", bind, 4 * columns)


@inlined
def copy_columns(b, at, count, x, x_at, channel, depth, width):
    """`depth` rows of `count` elements, `channel` apart in x, into b, `width` apart."""
    if count == width:
        for k in range(depth):
            for v in range(0, width, LANES):
                store(b, at + k * width + v, load(x, x_at + k * channel + v))
                ask_for(x, x_at + k * channel + v + width)
    else:
        for k in range(depth):
            for j in range(count):
                b[at + k * width + j] = x[x_at + k * channel + j]


@inlined
def gather_row(b, at, count, x, start, size, step, before, after):
    """b[at + j] = x[start + j * step] where before <= j < after, else 0, for j < count.

    May write up to LANES - 1 elements beyond: what belongs there is written afterwards.
    """
    if step == 1 and before <= 0 and after >= count and start + count + LANES <= size:
        for j in range(0, count, LANES):
            store(b, at + j, load(x, start + j))
    elif step == 1 and start >= 0 and start + count + LANES <= size:
        for j in range(0, count, LANES):
            store(b, at + j, keep(load(x, start + j), before - j, after - j))
    elif step == 2 and before <= 0 and after >= count and start + 2 * (count + LANES) <= size:
        for j in range(0, count, LANES):
            store(b, at + j, load_strided(x, start + 2 * j, 2, 0))
    elif step == 2 and start >= 0 and start + 2 * (count + LANES) <= size:
        for j in range(0, count, LANES):
            store(b, at + j, keep(load_strided(x, start + 2 * j, 2, 0), before - j, after - j))
    else:
        for j in range(count):
            b[at + j] = x[start + j * step] if before <= j < after else np.float32(0)


@inlined
def plan_runs(runs, start, columns, ow, sh, sw, dw, kw, top, left, w):
    """Cuts output pixels start ... start + columns at the ends of rows; returns how many runs that makes.

    Per run: column, length, first input row, first input column, and for each kernel column where the row's padding ends and begins.
    """
    stride = 4 + 2 * kw
    count = 0
    j = 0
    while j < columns:
        o_row, o_col = (start + j) // ow, (start + j) % ow
        length = min(columns - j, ow - o_col)
        at = count * stride
        runs[at], runs[at + 1], runs[at + 2], runs[at + 3] = j, length, o_row * sh - top, o_col * sw - left
        for k in range(kw):
            first = o_col * sw - left + k * dw
            before = min(length, (sw - 1 - first) // sw if first < 0 else 0)
            runs[at + 4 + 2 * k] = before
            runs[at + 5 + 2 * k] = min(length, max(before, (w - first + sw - 1) // sw))
        count += 1
        j += length
    return count


@kernel
def conv_panels(x, a, bias, y, res, scratch, runs, g, kind, alpha, beta, low, high):
    n, groups, ic, h, w, kh, kw, sh, sw, dh, dw, top, left = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11], g[12]
    rows, oh, ow, strips, unit = g[13], g[14], g[15], g[16], g[17]
    x_batch, x_channel, x_row, y_batch, y_channel, y_row = g[18], g[19], g[20], g[21], g[22], g[23]
    r_batch, r_channel, r_row = g[24], g[25], g[26]
    taps = kh * kw
    padded = (rows + ROWS - 1) // ROWS * ROWS
    has_res = r_channel >= 0
    one_run = (y_row == ow or oh == 1) and (not has_res or r_row == ow or oh == 1)
    pixels, runs_of = (oh * ow, 1) if one_run else (ow, oh)
    straight = taps == 1 and sh == 1 and sw == 1 and top == 0 and left == 0 and h >= oh and w >= ow
    straight = straight and (x_row == ow or not one_run or oh == 1)
    size = x.size
    for batch_group in range(n * groups):
        batch, group = batch_group // groups, batch_group % groups
        x_at = batch * x_batch + group * ic * x_channel
        a_group = group * padded * ic * taps
        for line in range(runs_of):
            y_at = batch * y_batch + group * rows * y_channel + line * y_row
            r_at = batch * r_batch + group * rows * r_channel + line * r_row
            group_start = 0
            while group_start < pixels:
                group_stop = group_end(group_start, pixels, strips)
                for c0 in range(0, ic, unit):
                    channels = min(unit, ic - c0)
                    depth = channels * taps
                    start = group_start
                    while start < group_stop:
                        vectors = strip_vectors(pixels - start)
                        width = vectors * LANES
                        columns = min(width, pixels - start)
                        b_at = 0
                        if straight:
                            copy_columns(scratch, b_at, columns, x, x_at + c0 * x_channel + line * x_row + start, x_channel, depth, width)
                        else:
                            count = plan_runs(runs, start + line * ow, columns, ow, sh, sw, dw, kw, top, left, w)
                            to = b_at
                            for c in range(c0, c0 + channels):
                                for i in range(kh):
                                    for k in range(kw):
                                        for r in range(0, count * (4 + 2 * kw), 4 + 2 * kw):
                                            row = runs[r + 2] + i * dh
                                            if row < 0 or row >= h:
                                                for q in range(0, runs[r + 1], LANES):
                                                    store(scratch, to + runs[r] + q, splat(np.float32(0)))
                                            else:
                                                gather_row(scratch, to + runs[r], runs[r + 1], x, x_at + c * x_channel + row * x_row
                                                           + runs[r + 3] + k * dw, size, sw, runs[r + 4 + 2 * k], runs[r + 5 + 2 * k])
                                        to += width
                        multiply_rows(vectors, a, a_group + c0 * taps * ROWS, ic * taps, depth, scratch, b_at, rows, y, y_at + start, y_channel,
                                      columns, bias, group * padded, 0, 1 if c0 else 0, 1 if c0 + channels == ic else 0,
                                      res, r_at + start, r_channel, kind, alpha, beta, low, high, 0)
                        start += width
                group_start = group_stop
