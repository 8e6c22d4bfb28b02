"""Slice, with steps of either sign: a copy whose source strides are the steps."""

from __future__ import annotations

from dataclasses import replace

from ...ops.slice import slice_steps
from .builder import Compile, builds
from .nd import copy


@builds("Slice", narrow=True)
def build(c: Compile) -> None:
    x, y = c.input(0), c.output()
    c.implementation = f"b{8 * x.dtype.itemsize}_slice_copy"
    steps = slice_steps(c.node)
    at = [start + step * r.start - given.start for (start, step), r, given in zip(steps, c.region, c.in_regions[0])]
    window = x.sub(at, y.shape)
    copy(c, replace(window, strides=tuple(s * step for s, (_, step) in zip(x.strides, steps))), y)
