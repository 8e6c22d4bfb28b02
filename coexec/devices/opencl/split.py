"""Split: every output is copied from its slice of the input."""

from __future__ import annotations

from .builder import Compile, builds
from .nd import copy


@builds("Split", narrow=True)
def build(c: Compile) -> None:
    axis = c.node.attr("axis", 0) % len(c.region)
    x, start = c.input(0), 0
    c.implementation = f"b{8 * x.dtype.itemsize}_split_copy"
    for index, value in enumerate(c.node.outputs):
        y, region = c.output(index), c.out_regions[index]
        if y is not None and y.size:
            at = [region[d].start + (start if d == axis else 0) - c.in_regions[0][d].start for d in range(len(region))]
            copy(c, x.sub(at, y.shape), y)
        start += value.shape[axis]
