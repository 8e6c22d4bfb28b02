"""Pools on OpenCL: sliding windows one output a work-item, global ones a reduction of each plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ops.pool import pool_input, pool_params
from .builder import ClOperand, Compile, builds, int8, short
from .conv import strides
from .statistics import line_pool
from .tail import five, i32, three, type_defines

_LOWEST = {"float16": "-65504.0f", "float32": "-FLT_MAX", "float64": "-DBL_MAX", "int8": "-128", "uint8": "0"}


def _windows(c: Compile) -> tuple[ClOperand, ClOperand, list]:
    """x, y, and the arguments in, out, size, stride, dilation, pad."""
    p, spans = pool_params(c.node), pool_input(c.node, c.region)[1]
    x, y = five(c.input(0)), five(c.output(0))
    return x, y, [three(x.shape[2:], 1), three(y.shape[2:], 1), three(p.kernel, 1), three(p.strides, 1), three(p.dilations, 1),
                  three([s.pad_begin for s in spans], 0)]


def _launch(c: Compile, kernel: str, defines: dict, x: ClOperand, y: ClOperand, args: Sequence, extra: Sequence = ()) -> None:
    r = c.residual
    c.implementation = f"{short(y.dtype)}_{kernel}_direct"
    c.launch("pool.cl", kernel, {**type_defines(c), **defines}, (y.shape[2] * y.shape[3] * y.shape[4], y.shape[1], y.shape[0]), None,
             x, strides(x), y, strides(y), *args, *extra, *([r, strides(five(r))] if r is not None else []))


@builds("MaxPool", tail=True)
def build_max(c: Compile) -> None:
    x, y, args = _windows(c)
    indices, extra, defines = c.output(1), [], {"MAXPOOL": 1, "LOWEST": _LOWEST[y.dtype.name]}
    if indices is not None:
        defines["INDICES"] = 1
        region, full = c.in_regions[0], c.node.inputs[0].shape
        missing = 5 - len(full)
        first = (*(i.start for i in region[:2]), *(0,) * missing, *(i.start for i in region[2:]))
        extra = [indices, strides(five(indices)), int8(first), int8((*full[:2], *(1,) * missing, *full[2:])), *i32(int(c.node.attr("storage_order", 0)))]
    _launch(c, "max_pool", defines, x, y, args, extra)


@builds("AveragePool", tail=True)
def build_average(c: Compile) -> None:
    x, y, args = _windows(c)
    p, padded = pool_params(c.node), bool(c.node.attr("count_include_pad", 0))
    low, high = [], []  # bounds of what counts, in coordinates of the piece's input
    for size, rows, before, after in zip(c.node.inputs[0].shape[2:], c.in_regions[0][2:], p.pads_begin, p.pads_end):
        low.append((-before if padded else 0) - rows.start)
        high.append(size + (after if padded else 0) - rows.start)
    _launch(c, "average_pool", {}, x, y, args, [three(low, 0), three(high, 1)])


@builds("LpPool", tail=True)
def build_lp(c: Compile) -> None:
    x, y, args = _windows(c)
    _launch(c, "lp_pool", {}, x, y, args, i32(int(c.node.attr("p", 2))))


def _plane(c: Compile, mode: str, power: int = 2) -> None:
    x = c.input(0)
    line_pool(c, mode, range(2, len(x.shape)), x, c.output(0), c.residual, power)


@builds("GlobalAveragePool", tail=True)
def build_global_average(c: Compile) -> None:
    _plane(c, "AVERAGE")


@builds("GlobalMaxPool", tail=True)
def build_global_max(c: Compile) -> None:
    _plane(c, "LARGEST")


@builds("GlobalLpPool", tail=True)
def build_global_lp(c: Compile) -> None:
    p = int(c.node.attr("p", 2))
    _plane(c, {1: "NORM1", 2: "NORM2"}.get(p, "NORMP"), p)
