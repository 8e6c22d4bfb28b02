"""Slice, with steps of either sign: a copy whose source strides are the steps."""

from __future__ import annotations

from dataclasses import replace

from .builder import Compile, builds
from .nd import copy


@builds("Slice")
def build(c: Compile) -> None:
    x, y, rank = c.input(0), c.output(), len(c.region)
    c.implementation = f"b{8 * x.dtype.itemsize}_slice_copy"
    first, step = [0] * rank, [1] * rank
    starts = [int(v) for v in c.value(1).reshape(-1)]
    axes = [int(a) % rank for a in c.value(3).reshape(-1)] if c.has(3) else range(len(starts))
    steps = [int(v) for v in c.value(4).reshape(-1)] if c.has(4) else [1] * len(starts)
    for axis, start, by in zip(axes, starts, steps):
        extent = c.node.operands[0].shape[axis]
        start = start + extent if start < 0 else start
        first[axis], step[axis] = min(max(start, 0), extent - (by < 0)), by
    at = [f + s * r.start - given.start for f, s, r, given in zip(first, step, c.region, c.in_regions[0])]
    window = x.sub(at, y.shape)
    copy(c, replace(window, strides=tuple(a * s for a, s in zip(x.strides, step))), y)
