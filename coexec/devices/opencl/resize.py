"""Resize in every mode, by the tables of taps that say which elements an output element weighs, axis by axis."""

from __future__ import annotations

import numpy as np

from ...graph.ir import Node
from ...ops.resize import resize_tables
from ..base import DeviceFacts
from .builder import Compile, builds, ctype, declines, int8, short
from .lines import arithmetic
from .nd import MAX_RANK, ndrange


@builds("Resize")
def build(c: Compile) -> None:
    """Axes that keep their elements are walked straight; the others loop over their taps, the weights multiplied."""
    x, y = c.input(0), c.output()
    tables = resize_tables(c.node)
    copied = all(t.is_copy and bool((t.weights == 1).all()) for t in tables)
    inside = arithmetic(x.dtype) if copied or x.dtype.itemsize == 8 and x.dtype.kind == "f" else np.dtype(_wide(x.dtype, c.facts))
    dims: list[tuple[int, int, int, int]] = []  # innermost first: extent, x stride, y stride, taps (0: straight)
    indices, weights, starts = [], [], []
    for d in reversed(range(len(y.shape))):
        out, table, held = c.region[d], tables[d], c.in_regions[0][d]
        at = table.indices[out.slice] - held.start
        straight = table.is_copy and table.outside is None and bool((at[:, 0] == np.arange(out.size)).all() and (table.weights == 1).all())
        if straight and out.size == 1:
            continue
        inner = dims[-1] if dims else (0, 0, 0, 1)
        if straight and not inner[3] and (x.strides[d], y.strides[d]) == (inner[0] * inner[1], inner[0] * inner[2]):
            dims[-1] = (inner[0] * out.size, *inner[1:])
            continue
        dims.append((out.size, x.strides[d], y.strides[d], 0 if straight else table.taps))
        starts.append(sum(len(i) for i in indices))
        if not straight:
            marked = at.copy()
            if table.outside is not None:
                marked[table.outside[out.slice]] = -1
            indices.append(marked.reshape(-1))
            weights.append(table.weights[out.slice].reshape(-1))
    dims = dims or [(1, 1, 1, 0)]
    shape, x_strides, y_strides, taps = zip(*dims)
    key = (c.node, tuple(c.region))
    index = c.constant(np.concatenate([*indices, [0]]).astype(np.int32), (*key, "index"))
    weight = c.constant(np.concatenate([*weights, [0]]).astype(inside), (*key, "weight"))
    size, local, steps = ndrange(c, shape, 1)
    defines = {"T": ctype(x.dtype), "A": ctype(inside), "RANK": len(dims), "LOOPS": _loops(taps, not copied),
               **{f"TAPS{k}": t for k, t in enumerate(taps) if t}, **({"LIMITED": None} if x.dtype.kind in "iu" and not copied else {})}
    other = inside.type(c.node.attr("extrapolation_value", 0.0))
    tile = "x".join(str(t) for t in reversed(taps) if t) or "1"
    c.implementation = f"{short(x.dtype)}_resize_{c.node.attr('mode', 'nearest')}_taps{tile}"
    c.launch(["nd.clh", "resize.cl"], "resize", defines, size, local, x, int8(x_strides), y, int8(y_strides), int8(shape, 1), *steps,
             index, weight, int8(starts), other)


def _wide(dtype: np.dtype, facts: DeviceFacts) -> str:
    return "float32" if dtype in (np.float16, np.float32) or "float64" not in facts.dtypes else "float64"


def _loops(taps: tuple[int, ...], weighted: bool) -> str:
    """Nested loops over the taps of every axis that has a table, around one multiply-add."""
    names = ["i", *(f"i{k}" for k in range(1, len(taps)))]
    place = " + ".join(f"{f'from{k}' if t else names[k]} * x_s.s{k}" for k, t in enumerate(taps))
    product = " * ".join(f"w{k}" for k, t in enumerate(taps) if t and weighted)
    guard = " && ".join(f"from{k} >= 0" for k, t in enumerate(taps) if t)
    body = f"const A v = CAT(convert_, A)(LOAD(T, x, {place})); total += v{' * ' + product if product else ''};"
    body = f"if ({guard}) {{ {body} }}" if guard else f"{{ {body} }}"
    for k, t in enumerate(taps):
        if t:
            body = f"AXIS_({k}, {names[k]}, {body})"
    return body


@declines("Resize")
def refuse(node: Node, facts: DeviceFacts) -> str | None:
    kind = node.operands[0].dtype
    if kind.kind in "iu" and kind.itemsize > 2 and "float64" not in facts.dtypes and node.attr("mode", "nearest") != "nearest":
        return f"resizing {kind} needs double precision"
    return f"more than {MAX_RANK} dimensions" if len(node.output.shape) > MAX_RANK else None
