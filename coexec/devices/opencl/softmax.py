"""Softmax, LogSoftmax and Hardmax along any axis: a line a work-item on a CPU, a line a work-group elsewhere."""

from __future__ import annotations

import numpy as np

from .builder import Compile, builds, ctype, int8, short
from .lines import arithmetic, group, lines, spread
from .nd import vector_width


@builds("Softmax", "LogSoftmax", "Hardmax")
def build(c: Compile) -> None:
    x, y = c.input(0), c.output()
    axis = c.node.attr("axis", -1) % len(x.shape)
    count, shape, x_strides, y_strides = lines(x, y, axis)
    n, x_step, y_step = x.shape[axis], x.strides[axis], y.strides[axis]
    hard = c.node.op_type == "Hardmax"
    size = 1 if hard else group(c, n)
    kind = arithmetic(x.dtype)
    width = vector_width(c, kind.itemsize) if x_step == y_step == 1 and size == 1 and not hard else 1
    width = width if n >= width else 1
    defines = {"T": ctype(x.dtype), "A": ctype(kind), "V": width, "GROUP": size, "RANK": len(shape),
               **({"LOG": None} if c.node.op_type == "LogSoftmax" else {"KEEP": None} if x.dtype == kind else {})}
    c.implementation = f"{short(x.dtype)}_{c.node.op_type.lower()}_{'group' if size > 1 else 'line'}_v{width}"
    sizes = ((count,), (1,)) if c.facts.emulated else spread(c, count, size)  # a line is long enough for a work-group of its own
    c.launch(["place.clh", "group.clh", "softmax.cl"], "hardmax" if hard else "softmax", defines, *sizes, x, int8(x_strides), np.int32(x_step), y,
             int8(y_strides), np.int32(y_step), int8(shape, 1), np.int32(n), np.int32(count), numbers_last=True)
