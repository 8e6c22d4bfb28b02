"""Dropout: a copy, with its mask where that is wanted; in training with the random numbers of ops/dropout.py."""

from __future__ import annotations

import numpy as np

from ...ops.dropout import may_train
from .builder import Compile, builds, ctype, int8, short
from .lines import GROUP, arithmetic
from .nd import collapse, elementwise
from .views import relayout


@builds("Dropout")
def build(c: Compile) -> None:
    x, y, mask = c.input(0), c.output(0), c.output(1)
    if not may_train(c.node):
        c.implementation = f"b{8 * x.dtype.itemsize}_dropout_copy"
        relayout(c, x, y)
        if mask is not None:
            elementwise(c, "(I)(-1)", mask, [x], predicate=True)
        return
    ratio, training = c.input(1), c.input(2)
    windows = [w for w in (x, y, mask) if w is not None]
    shape, steps = collapse(x.shape, *(w.strides for w in windows))
    # The numbers come one after the other: a work-group makes 624 at a time; a CPU's core works alone.
    group = 1 if c.facts.emulated else GROUP
    defines = {"T": ctype(x.dtype), "A": ctype(arithmetic(x.dtype)), "RANK": len(shape), "GROUP": group}
    if ratio is not None:
        defines |= {"RATIO": ctype(ratio.dtype), "R": ctype(arithmetic(ratio.dtype))}
    if mask is not None:
        defines["MASK"] = 1
    c.implementation = f"{short(x.dtype)}_dropout_twister"
    c.launch(["place.clh", "dropout.cl"], "dropout", defines, (group,), (group,), *(v for w, s in zip(windows, steps) for v in (w, int8(s))),
             int8(shape, 1), np.int32(x.size), np.uint32(c.node.attr("seed")), training, ratio)
