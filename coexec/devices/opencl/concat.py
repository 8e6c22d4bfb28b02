"""Concat: each input's part of the piece is copied to its place."""

from __future__ import annotations

from .builder import Compile, builds
from .nd import copy


@builds("Concat", narrow=True)
def build(c: Compile) -> None:
    axis = c.node.attr("axis", 0) % len(c.region)
    y, start, cut = c.output(), 0, c.region[axis]
    c.implementation = f"b{8 * y.dtype.itemsize}_concat_copy"
    for index, value in enumerate(c.node.operands):
        begin, end = max(cut.start, start), min(cut.stop, start + value.shape[axis])
        if begin < end:
            x, shape = c.input(index), tuple(end - begin if d == axis else e for d, e in enumerate(y.shape))
            given = c.in_regions[index][axis].start  # the operator may name more of the input than lies in the piece
            skip = [begin - start - given if d == axis else 0 for d in range(len(shape))]
            at = [begin - cut.start if d == axis else 0 for d in range(len(shape))]
            copy(c, x.sub(skip, shape), y.sub(at, shape))
        start += value.shape[axis]


