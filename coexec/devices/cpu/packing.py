"""Weights rearranged for the kernels that read them: strips of a matrix, and filters transformed for Winograd. Both devices use these.

A packer returns the memory and the tasks that fill it; tasks write disjoint parts and may run on any threads (see `threads.run_all`).
Weights are read as bytes: those of a mapped file lie wherever the file has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from .jit import flat, inlined, kernel, strides
from .simd import element
from .threads import Task

#: A task fills about so many bytes: enough to be worth a thread's while, few enough to leave every thread something.
TASK_BYTES = 2 << 20
#: Filters are transformed so many output channels at a time, at most.
MOST_ROWS = 64


def _empty(count: int) -> np.ndarray:
    """So many float32, aligned as OpenCL wants the memory of its widest vectors (128 bytes)."""
    raw = np.empty(4 * count + 128, np.uint8)
    start = -raw.ctypes.data % 128
    return raw[start:start + 4 * count].view(np.float32)


class Packing(NamedTuple):
    """Flat float32 memory, and what fills it."""

    data: np.ndarray
    tasks: Sequence[Task]


class Strips(NamedTuple):
    """Strips of a matrix (depth x columns), a row of `table` each: where it goes, its first element, depth, width, columns that exist.

    Strip s holds matrix[k, j] at s.to + k * width + j; columns that do not exist are 0. All in elements, int64 (strips, 5).
    """

    table: np.ndarray
    size: int


def strips_of(depth: int, columns: int, width: int, depth_step: int, column_step: int, block: int = 0) -> Strips:
    """A matrix as blocks of at most `block` of its depth (0: all of it), each as strips of `width` columns, one after another."""
    block = block or max(1, depth)
    first, many = np.arange(0, columns, width, dtype=np.int64), -(-columns // width)
    parts, at = [], 0
    for k in range(0, depth, block):
        deep = min(block, depth - k)
        table = np.empty((many, 5), np.int64)
        table[:, 0] = at + np.arange(many) * (deep * width)
        table[:, 1] = k * depth_step + first * column_step
        table[:, 2], table[:, 3] = deep, width
        table[:, 4] = np.minimum(width, columns - first)
        parts.append(table)
        at += many * deep * width
    return Strips(np.concatenate(parts) if parts else np.empty((0, 5), np.int64), at)


def side_by_side(each: Strips, count: int, source_step: int) -> Strips:
    """The same strips of `count` matrices, `source_step` apart, one after another."""
    table = np.tile(each.table, (count, 1))
    number = np.repeat(np.arange(count, dtype=np.int64), len(each.table))
    table[:, 0] += number * each.size
    table[:, 1] += number * source_step
    return Strips(table, each.size * count)


def pack(matrix: np.ndarray, what: Strips, depth_step: int, column_step: int, factor: float = 1.0, to: np.ndarray | None = None) -> Packing:
    """Strips of a float32 array whose first element is the table's element 0, times a factor; into `to`, or memory of their own."""
    data = _empty(what.size) if to is None else to
    source, table = flat(matrix, np.uint8), what.table.reshape(-1)
    ends = np.cumsum(what.table[:, 2] * what.table[:, 3] * 4)
    cuts = [0, *(np.flatnonzero(np.diff(ends // TASK_BYTES)) + 1).tolist(), len(ends)] if len(ends) else []
    tasks = [partial(fill_strips, data, source, table, a, b, depth_step, column_step, np.float32(factor)) for a, b in zip(cuts, cuts[1:])]
    return Packing(data, tasks)


@kernel
def fill_strips(to, a, table, first, last, depth_step, column_step, factor):
    for strip in range(first, last):
        at, source, depth, width, count = table[5 * strip], table[5 * strip + 1], table[5 * strip + 2], table[5 * strip + 3], table[5 * strip + 4]
        if column_step == 1:
            for k in range(depth):
                for j in range(count):
                    to[at + k * width + j] = element(a, source + k * depth_step + j) * factor
        else:  # a cache line of each column at a time: its rows may all fall into one set of the cache
            for k0 in range(0, depth, 16):
                deep = min(16, depth - k0)
                for j in range(count):
                    for k in range(deep):
                        to[at + (k0 + k) * width + j] = element(a, source + (k0 + k) * depth_step + j * column_step) * factor
        if count < width:
            for k in range(depth):
                for j in range(count, width):
                    to[at + k * width + j] = np.float32(0)


def pack_filters(w: np.ndarray, transform: np.ndarray, rows: int, groups: int = 1, points_first: bool = False, blocks: int = 1) -> Packing:
    """Filters (groups * out, in, side, side) g as G g G' (Lavin and Gray, arXiv:1509.09308), `transform` G being float64 (n, r).

    With `blocks`, filters are blocks x blocks of r x r elements, 0 beyond their side, each block packed as further input channels, row by
    row; else side is r. The layout is [group][tile][n * n][in][rows], or [n * n][group * tile][in][rows] with `points_first`, output
    channel tile * rows + row; 0 beyond a group's last one. Computed in float64, rounded once.
    """
    out, channels, (side, taps) = w.shape[0] // groups, w.shape[1], transform.shape
    deep, tiles, points = channels * blocks ** 2, -(-out // rows), side ** 2
    assert rows <= MOST_ROWS and (blocks - 1) * taps < w.shape[2] <= blocks * taps
    data = _empty(groups * tiles * points * deep * rows)
    tile_step, point_step = (deep * rows, groups * tiles * deep * rows) if points_first else (points * deep * rows, deep * rows)
    each = max(1, TASK_BYTES // (4 * points * deep * rows))
    geometry = np.array([out, channels, rows, side, tiles, tile_step, point_step, *strides(w), taps, blocks, w.shape[2]], np.int64)
    source, g = flat(w, np.uint8), np.ascontiguousarray(transform, np.float64).reshape(-1)
    tasks = [partial(fill_filters, data, source, g, np.empty((taps + 1) * taps * MOST_ROWS), geometry, first,
                     min(first + each, groups * tiles)) for first in range(0, groups * tiles, each)]
    return Packing(data, tasks)


@inlined
def weighted(s, to, at, step, factors, first, taps, rows):
    """s[to + r] = the sum of factors[first + i] * s[at + i * step + r] over i < taps, for r < rows."""
    for r in range(rows):
        s[to + r] = factors[first] * s[at + r]
    for i in range(1, taps):
        f = factors[first + i]
        for r in range(rows):
            s[to + r] += f * s[at + i * step + r]


@kernel
def fill_filters(to, w, transform, s, g, first, last):
    out, channels, rows, side, tiles, tile_step, point_step = g[0], g[1], g[2], g[3], g[4], g[5], g[6]
    w_out, w_in, w_row, w_column, taps, blocks, size = g[7], g[8], g[9], g[10], g[11], g[12], g[13]
    half = taps * taps * MOST_ROWS
    for number in range(first, last):
        group, tile = number // tiles, number % tiles
        count = min(rows, out - tile * rows)
        for block in range(blocks * blocks):
            top, left = block // blocks * taps, block % blocks * taps
            for q in range((taps + 1) * taps * MOST_ROWS):
                s[q] = 0.0
            for channel in range(channels):
                at = (group * out + tile * rows) * w_out + channel * w_in + top * w_row + left * w_column
                for r in range(count):
                    for i in range(min(taps, size - top)):
                        for j in range(min(taps, size - left)):
                            s[(taps * i + j) * MOST_ROWS + r] = element(w, at + r * w_out + i * w_row + j * w_column)
                to_at = number * tile_step + (block * channels + channel) * rows
                for a in range(side):
                    for q in range(0, taps * MOST_ROWS, MOST_ROWS):
                        weighted(s, half + q, q, taps * MOST_ROWS, transform, taps * a, taps, rows)
                    for e in range(side):
                        p = to_at + (a * side + e) * point_step
                        for r in range(rows):
                            total = 0.0
                            for i in range(taps):
                                total += transform[taps * e + i] * s[half + i * MOST_ROWS + r]
                            to[p + r] = np.float32(total)
