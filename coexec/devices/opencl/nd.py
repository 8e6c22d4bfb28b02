"""Elementwise work over strided windows of any rank: what most light operators, and every copy, are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DeviceError
from ...ops.narrow import computed_in
from .builder import ClOperand, Compile, ctype, int8
from .storage import load, load_vector, narrow_parts, store

MAX_RANK = 8
MAX_OPERANDS = 16
_SIGNED = {1: "char", 2: "short", 4: "int", 8: "long"}
_BITS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


def collapse(shape: Sequence[int], *strides: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Fewest dimensions, innermost first, that walk all the windows alike: extents of 1 dropped, neighbours merged. At least one."""
    dims: list[tuple[int, list[int]]] = []
    for d in reversed(range(len(shape))):
        extent, steps = shape[d], [s[d] for s in strides]
        if extent == 1:
            continue
        if dims and all(s == inner * dims[-1][0] for s, inner in zip(steps, dims[-1][1])):
            dims[-1] = dims[-1][0] * extent, dims[-1][1]
        else:
            dims.append((extent, steps))
    dims = dims or [(1, [1] * len(strides))]
    return tuple(e for e, _ in dims), [tuple(s[k] for _, s in dims) for k in range(len(strides))]


def broadcast(operand: ClOperand, shape: Sequence[int]) -> ClOperand:
    """The window read as if it had that shape (NumPy's rules), by strides of 0."""
    lead = len(shape) - len(operand.shape)
    strides = [0] * lead + [0 if e == 1 and n != 1 else s for e, s, n in zip(operand.shape, operand.strides, shape[lead:])]
    return ClOperand(operand.handle, operand.dtype, tuple(shape), tuple(strides), operand.offset, operand.owner)


def vector_width(c: Compile, *itemsizes: int) -> int:
    """Elements a vector: a cache line on the CPU's own vector units, 16 bytes elsewhere."""
    wide = c.facts.emulated and c.facts.extra.get("vector_width_float", 1) >= 4
    return max(1, min(16, (64 if wide else 16) // max(itemsizes)))


#: Elements a work-item of a CPU walks: enough to hide what starting one costs, few enough to share the work.
_CPU_ITEM = 16384


def ndrange(c: Compile, shape: Sequence[int], width: int) -> tuple[tuple[int, int, int], tuple[int, int, int], tuple[np.int32, np.int32]]:
    """Global size, local size, and (elements, rows) a work-item, for dimensions `shape` (innermost first) walked `width` at a time.

    The local size is given, never left to the driver: some compile a kernel again for every local size they come to choose.
    """
    rest = int(np.prod(shape[2:], dtype=np.int64)) if len(shape) > 2 else 1
    second = shape[1] if len(shape) > 1 else 1
    if c.facts.emulated:
        chunk = min(-(-shape[0] // width) * width, max(width, _CPU_ITEM // width * width))
        span = max(1, min(second, _CPU_ITEM // max(1, shape[0])))
        return (-(-shape[0] // chunk), -(-second // span), rest), (1, 1, 1), (np.int32(chunk), np.int32(span))
    first = -(-shape[0] // width)
    return (first, second, rest), local_along(c, first), (np.int32(width), np.int32(1))


def local_along(c: Compile, first: int) -> tuple[int, int, int]:
    """Local size for `first` work-items along the innermost axis, any number along the others; kernels guard against those beyond.

    A GPU wastes less than half of them. A CPU does them one after the other: one size for all is one kernel to compile.
    """
    local = 64
    while not c.facts.emulated and local > 1 and local > first:
        local //= 2
    return local, 1, 1


def elementwise(c: Compile, expression: str, y: ClOperand, inputs: Sequence[ClOperand], *, compute: np.dtype | None = None,
                kinds: str = "", predicate: bool = False, rounding: str = "", scalars: Sequence[Any] = (), scalar_only: bool = False,
                tail: bool = False, files: Sequence[str] = (), saturate: bool = True, round_mode: str = "up") -> None:
    """Enqueues y = expression(a0, a1, ...) over broadcast inputs.

    The expression is OpenCL C over a0, a1, ... and the type names T and I (float and int, or vectors of them); it must hold for
    scalars and vectors. `compute` is the element type operands are converted to (default: what the first input's elements are in a
    register). `kinds` has one
    letter an input: t (converted to T, the default), i (to I, for conditions), r (raw: not loaded; the expression
    indexes r<k> itself, at i * x<k>_s.s0). `predicate`: the expression is a condition, y a bool. `rounding`: a suffix of convert.
    `scalars`: NumPy scalars that the expression knows as p0, p1, ... `tail`: the node's fused residual and activation follow.
    `saturate` and `round_mode`: of Cast, where y's type is a narrow one.
    """
    inputs = [broadcast(x, y.shape) if kind != "r" else x for x, kind in zip(inputs, kinds.ljust(len(inputs), "t"))]
    kinds = kinds.ljust(len(inputs), "t")
    if tail and c.node.residual:
        inputs, kinds, expression = [*inputs, c.residual], kinds + "t", f"({expression}) + a{len(inputs)}"
    shape, (y_strides, *strides) = collapse(y.shape, y.strides, *(x.strides for x in inputs))
    if len(shape) > MAX_RANK or len(inputs) > MAX_OPERANDS:
        raise DeviceError("too many dimensions or operands", where=c.where, found=f"{len(shape)} and {len(inputs)}",
                          expected=f"at most {MAX_RANK} and {MAX_OPERANDS}")
    compute = np.dtype(compute or computed_in(inputs[0].dtype))
    simple = y_strides[0] == 1 and all(s[0] in (0, 1) for s in strides) and not scalar_only and "r" not in kinds
    width = vector_width(c, y.dtype.itemsize, compute.itemsize, *(x.dtype.itemsize for x in inputs)) if simple else 1
    text = {"POINTERS": "", "OPERANDS(V)": "", "SETUP": "", "LOAD_SCALAR": "", "LOAD_VECTOR": ""}
    arguments: list[Any] = []
    for k, (x, s, kind) in enumerate(zip(inputs, strides, kinds)):
        arguments += [x, int8(s)]
        text["POINTERS"] += f"global const {ctype(x.dtype)} *restrict x{k}, "
        text["OPERANDS(V)"] += f"V(int, x{k}_off) V(int8, x{k}_s) "
        text["SETUP"] += f"global const {ctype(x.dtype)} *r{k} = x{k} + x{k}_off + ND_OFFSET(x{k}_s); "
        if kind == "r":
            continue
        to = _SIGNED[compute.itemsize] if kind == "i" else ctype(compute)
        text["LOAD_SCALAR"] += f"const {to} a{k} = {load(x.dtype, to, f'r{k}', f'i * x{k}_s.s0')}; "
        loaded = load_vector(x.dtype, to, f"r{k}", "i", width) if s[0] else f"({to}{width})({load(x.dtype, to, f'r{k}', '0')})"
        text["LOAD_VECTOR"] += f"const {to}{width} a{k} = {loaded}; "
    for k, value in enumerate(scalars):
        arguments.append(value)
        text["OPERANDS(V)"] += f"V({ctype(value.dtype)}, p{k}) "
    tail_defines = c.tail_defines() if tail else {}
    result = np.dtype(f"int{8 * compute.itemsize}") if predicate else compute
    narrow, more = narrow_parts([y.dtype, *(x.dtype for x, kind in zip(inputs, kinds) if kind != "r")], saturate, round_mode)
    program = {
        **text, **tail_defines, **narrow, "T": ctype(compute), "I": _SIGNED[compute.itemsize], "TY": ctype(y.dtype), "V": width,
        "RANK": len(shape), "STORE_SCALAR(v)": store(y.dtype, result, "row", "i * y_s.s0", "v", rounding),
        "STORE_VECTOR(v)": store(y.dtype, result, "row", "i", "v", rounding, width), "EXPR(T, I)": f"({expression})",
        "RESULT(T, I)": "I" if predicate else "T",
        "FINISH(T, I, v)": "((v) & (I)(1))" if predicate else "ACTIVATE(T, v)" if "ACT_ALPHA" in tail_defines else "(v)",
    }
    size, local, steps = ndrange(c, shape, width)
    c.launch(["nd.clh", *more, *files, "elementwise.cl"], "elementwise", program, size, local, *arguments, y, int8(y_strides),
             int8(shape, 1), *steps, numbers_last=True)


def as_bits(operand: ClOperand) -> ClOperand:
    """The same window, its elements taken as unsigned integers of their size: what a copy needs to know."""
    return ClOperand(operand.handle, np.dtype(_BITS[operand.dtype.itemsize]), operand.shape, operand.strides, operand.offset, operand.owner)


def copy(c: Compile, x: ClOperand, y: ClOperand, tail: bool = False) -> None:
    """Enqueues y = x for windows of one shape (x may have strides of 0, or negative ones)."""
    if tail and (c.node.residual or c.node.activation):
        elementwise(c, "a0", y, [x], tail=True)
    else:
        elementwise(c, "a0", as_bits(y), [as_bits(x)])
