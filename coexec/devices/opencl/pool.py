"""Pools on OpenCL: sliding windows one output a work-item, global ones a reduction of each plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ops.pool import average_divisors, pool_input, pool_params
from ...ops.sliding import taps_inside
from .builder import ClOperand, Compile, builds, int8, short
from .conv_shape import strides
from .nd import local_along
from .statistics import line_pool
from .strips import Strip
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
    pixels = y.shape[2] * y.shape[3] * y.shape[4]
    c.launch("pool.cl", kernel, {**type_defines(c), **defines}, (pixels, y.shape[1], y.shape[0]), local_along(c, pixels),
             x, strides(x), y, strides(y), *args, *extra, *([r, strides(five(r))] if r is not None else []))


def _strip(c: Compile, largest: bool) -> bool:
    """Enqueues the strip kernel where it suits: one or two spatial axes of float32, dense rows, caches, no window of padding only."""
    p, tiles = pool_params(c.node), c.tiles
    x, y, args = _windows(c)
    r = five(c.residual) if c.node.residual else None
    if not tiles.panels or len(p.kernel) > 2 or y.dtype != np.float32 or c.output(1) is not None or c.node.attr("method") == "direct":
        return False
    if any(w.strides[4] != 1 and w.shape[4] > 1 for w in (x, y, r) if w is not None):
        return False
    spatial, sizes = c.region[2:], c.node.inputs[0].shape[2:]
    if largest and not all(taps_inside(p, k, out, 0, n).all() for k, (out, n) in enumerate(zip(spatial, sizes))):
        return False
    lead = (1,) * (3 - len(p.kernel))
    strip = Strip.of(y.shape, (*lead, *p.kernel), (*lead, *p.strides), (*lead, *p.dilations), tiles)
    if strip.nbytes > tiles.local_bytes:
        return False
    divisors = []
    if not largest:
        counts = [np.maximum(n, 1).astype(np.float32) for n in average_divisors(c.node, spatial)]
        counts = counts if len(counts) == 2 else [np.ones(1, np.float32), *counts]
        counts[1] = np.concatenate([counts[1], np.ones(tiles.width, np.float32)])  # vectors run over the end
        divisors = [c.constant(n, ("divisors", n.tobytes())) for n in counts]
    c.implementation = f"f32_{c.node.op_type.lower()}_strip"
    c.launch(["vectors.clh", "strip.clh", "pool_strip.cl"], "pool_strip",
             {**type_defines(c), **strip.defines(), **({"LARGEST": 1} if largest else {})},
             strip.groups, (1, 1, 1), x, strides(x), y, strides(y), *args, *strip.args(), *divisors,
             *([r, strides(r)] if r is not None else []), in_step=True)
    return True


@builds("MaxPool", tail=True)
def build_max(c: Compile) -> None:
    if _strip(c, True):
        return
    x, y, args = _windows(c)
    indices, extra, defines = c.output(1), [], {"MAXPOOL": 1, "LOWEST": _LOWEST[y.dtype.name]}
    if indices is not None:
        defines["INDICES"] = 1
        region, full = c.in_regions[0], c.node.inputs[0].shape
        missing = 5 - len(full)
        first = (*(i.start for i in region[:2]), *(0,) * missing, *(i.start for i in region[2:]))
        extra = [indices, strides(five(indices)), int8(first), int8((*full[:2], *(1,) * missing, *full[2:])),
                 *i32(int(c.node.attr("storage_order", 0)))]
    _launch(c, "max_pool", defines, x, y, args, extra)


@builds("AveragePool", tail=True)
def build_average(c: Compile) -> None:
    if _strip(c, False):
        return
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
