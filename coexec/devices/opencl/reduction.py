"""Reductions over any axes, ArgMax and ArgMin, running sums and products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph.ir import Node
from ..base import DeviceFacts
from .builder import ClOperand, Compile, builds, ctype, declines, int8, short
from .lines import arithmetic, group, spread, without
from .nd import collapse, vector_width

_SUM, _PRODUCT = ("(A)(0)", "((a) + (b))"), ("(A)(1)", "((a) * (b))")
_LARGER, _SMALLER = "(((a) > (b)) | ((a) != (a)) ? (a) : (b))", "(((a) < (b)) | ((a) != (a)) ? (a) : (b))"

# Operator -> (how elements are joined, each element v, the end of a total), expressions over scalars and vectors of type A.
_KINDS: dict[str, tuple[tuple[str, str], str, str]] = {
    "ReduceSum": (_SUM, "v", "t"), "ReduceMean": (_SUM, "v", "t / (A)(count)"), "ReduceProd": (_PRODUCT, "v", "t"),
    "ReduceL1": (_SUM, "(v) < (A)(0) ? -(v) : (v)", "t"), "ReduceL2": (_SUM, "(v) * (v)", "sqrt(t)"),
    "ReduceSumSquare": (_SUM, "(v) * (v)", "t"),
    "ReduceLogSum": (_SUM, "v", "log(t)"), "ReduceLogSumExp": (_SUM, "exp(v)", "log(t) + shift"),
    "ReduceMax": (("LOWEST", _LARGER), "v", "t"), "ReduceMin": (("HIGHEST", _SMALLER), "v", "t"),
}
_REAL = frozenset({"ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"})


def _inside(node: Node, dtype: np.dtype, facts: DeviceFacts) -> np.dtype:
    """The type of the arithmetic: integers stay integers unless the operator is about real numbers."""
    if dtype.kind == "f":
        return arithmetic(dtype)
    if node.op_type in _REAL:
        return np.dtype("float64" if "float64" in facts.dtypes else "float32")
    return np.dtype("uint64" if dtype == np.uint64 else "int64")


def _limits(dtype: np.dtype, inside: np.dtype) -> dict[str, Any]:
    if dtype.kind == "f":
        return {"LOWEST": "(-INFINITY)", "HIGHEST": "INFINITY"}
    if dtype == np.bool_:
        return {"LOWEST": 0, "HIGHEST": 1}
    name = {1: "CHAR", 2: "SHRT", 4: "INT", 8: "LONG"}[dtype.itemsize]
    return {"LOWEST": "0", "HIGHEST": f"U{name}_MAX"} if dtype.kind == "u" else {"LOWEST": f"{name}_MIN", "HIGHEST": f"{name}_MAX"}


def _box(x: ClOperand, axes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The reduced axes alone: shape and strides, innermost first."""
    shape, (strides,) = collapse([x.shape[d] for d in axes], [x.strides[d] for d in axes])
    return shape, strides


@builds(*_KINDS)
def build(c: Compile) -> None:
    """One line an output element. A line is shared by a work-group where the device is a real GPU and the line is long."""
    node, x, y = c.node, c.input(0), c.output()
    axes = c.op.reduced(node)
    (initial, join), each, last = _KINDS[node.op_type]
    inside = _inside(node, x.dtype, c.facts)
    flat = ClOperand(y.handle, y.dtype, *_kept(c, y, axes), y.offset, y.owner)
    kept = without(x, axes)
    shape, (x_strides, y_strides) = collapse(kept.shape, kept.strides, flat.strides)
    r_shape, r_strides = _box(x, axes)
    count = int(np.prod([x.shape[d] for d in axes], dtype=np.int64))
    rows = int(np.prod(r_shape[1:], dtype=np.int64)) if len(r_shape) > 1 else 1
    size = group(c, r_shape[0])
    width = vector_width(c, inside.itemsize) if r_strides[0] == 1 and size == 1 and r_shape[0] > 1 else 1
    defines = {
        **_limits(x.dtype, inside), "T": ctype(x.dtype), "TY": ctype(y.dtype), "A": ctype(inside), "V": width, "GROUP": size,
        "RANK": max(len(shape), len(r_shape) - 1), "INIT": f"(A)({initial})", "JOIN(a, b)": join, "MAP(A, v)": f"({each})",
        "LAST(t)": last, **({"SHIFT": None} if node.op_type == "ReduceLogSumExp" else {}),
    }
    c.implementation = f"{short(x.dtype)}_{node.op_type.lower()}_{'group' if size > 1 else 'line'}_v{width}"
    lines = int(np.prod(shape, dtype=np.int64))
    c.launch(["place.clh", "group.clh", "reduce.cl"], "reduce", defines, *spread(c, lines, size), x, int8(x_strides), y,
             int8(y_strides), int8(shape, 1), int8(r_shape, 1), int8(r_strides), np.int32(rows), np.int32(count), np.int32(lines))


def _kept(c: Compile, y: ClOperand, axes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of the output without the axes that were reduced and kept at extent 1."""
    if not c.op.keeps_dims(c.node):
        return y.shape, y.strides
    keep = [d for d in range(len(y.shape)) if d not in axes]
    return tuple(y.shape[d] for d in keep), tuple(y.strides[d] for d in keep)


@declines(*_KINDS)
def refuse(node: Node, facts: DeviceFacts) -> str | None:
    dtype = node.operands[0].dtype
    if dtype.kind != "f" and node.op_type in _REAL and "float64" not in facts.dtypes:
        return f"{node.op_type} of {dtype} needs double precision"
    return None


@builds("ArgMax", "ArgMin")
def build_argument(c: Compile) -> None:
    node, x, y = c.node, c.input(0), c.output()
    axes = c.op.reduced(node)
    kept, (_, out_strides) = without(x, axes), _kept(c, y, axes)
    shape, (x_strides, y_strides) = collapse(kept.shape, kept.strides, out_strides)
    n = x.shape[axes[0]]
    size = group(c, n)
    defines = {"T": ctype(x.dtype), "A": ctype(arithmetic(x.dtype)), "TY": "long", "V": 1, "GROUP": size, "RANK": len(shape),
               **_limits(x.dtype, x.dtype), "INIT": 0, "JOIN(a, b)": "(a)", "MAP(A, v)": "v", "LAST(t)": "t",
               **({"LESS": None} if node.op_type == "ArgMin" else {}),
               **({"FROM_END": None} if node.attr("select_last_index", 0) else {})}
    c.implementation = f"{short(x.dtype)}_{node.op_type.lower()}_{'group' if size > 1 else 'line'}"
    lines = int(np.prod(shape, dtype=np.int64))
    c.launch(["place.clh", "group.clh", "reduce.cl"], "argument", defines, *spread(c, lines, size), x, int8(x_strides),
             np.int32(x.strides[axes[0]]), y, int8(y_strides), int8(shape, 1), np.int32(n), np.int32(lines))


@builds("CumSum", "CumProd")
def build_running(c: Compile) -> None:
    node, x, y = c.node, c.input(0), c.output()
    axis = int(c.value(1).reshape(-1)[0]) % len(x.shape)
    n, x_step, y_step = x.shape[axis], x.strides[axis], y.strides[axis]
    others, targets = without(x, [axis]), without(y, [axis])
    if node.attr("reverse", 0):
        others = without(x.sub([n - 1 if d == axis else 0 for d in range(len(x.shape))], x.shape), [axis])
        targets = without(y.sub([n - 1 if d == axis else 0 for d in range(len(y.shape))], y.shape), [axis])
        x_step, y_step = -x_step, -y_step
    shape, (x_strides, y_strides) = collapse(others.shape, others.strides, targets.strides)
    initial, join = _SUM if node.op_type == "CumSum" else _PRODUCT
    inside = _inside(node, x.dtype, c.facts)
    defines = {"T": ctype(x.dtype), "A": ctype(inside), "TY": ctype(x.dtype), "V": 1, "GROUP": 1, "RANK": len(shape), "INIT": initial,
               "JOIN(a, b)": join, "MAP(A, v)": "v", "LAST(t)": "t", **({"EXCLUSIVE": None} if node.attr("exclusive", 0) else {})}
    c.implementation = f"{short(x.dtype)}_{node.op_type.lower()}_line"
    lines = int(np.prod(shape, dtype=np.int64))
    c.launch(["place.clh", "group.clh", "reduce.cl"], "running", defines, *spread(c, lines, 1), others, int8(x_strides), np.int32(x_step),
             targets, int8(y_strides), np.int32(y_step), int8(shape, 1), np.int32(n), np.int32(lines))
