"""Operators of several tensors, element by element, with NumPy broadcasting."""

from __future__ import annotations

import numpy as np

from ...graph.ir import Node
from ..base import DeviceFacts
from .builder import Compile, builds, declines, short
from .nd import MAX_OPERANDS, as_bits, elementwise

PLAIN = {"Add": "a0 + a1", "Sub": "a0 - a1", "Mul": "a0 * a1", "PRelu": "a0 < (T)(0) ? a0 * a1 : a0"}
_BITWISE = {"BitwiseAnd": "a0 & a1", "BitwiseOr": "a0 | a1", "BitwiseXor": "a0 ^ a1"}
_PREDICATES = {
    "Equal": "a0 == a1", "Greater": "a0 > a1", "GreaterOrEqual": "a0 >= a1", "Less": "a0 < a1", "LessOrEqual": "a0 <= a1",
    "And": "(a0 != (T)(0)) & (a1 != (T)(0))", "Or": "(a0 != (T)(0)) | (a1 != (T)(0))", "Xor": "(a0 != (T)(0)) ^ (a1 != (T)(0))",
}


def _run(c: Compile, text: str, method: str = "elementwise", **options) -> None:
    c.implementation = f"{short(c.node.inputs[0].dtype)}_{c.node.op_type.lower()}_{method}"
    inputs = [c.input(i) for i in range(len(c.node.operands))]
    elementwise(c, text, c.output(), inputs, tail=not options.get("predicate"), **options)


@builds(*PLAIN, *_BITWISE, tail=True)
def build(c: Compile) -> None:
    _run(c, (PLAIN | _BITWISE)[c.node.op_type])


@builds(*_PREDICATES)
def build_predicate(c: Compile) -> None:
    _run(c, _PREDICATES[c.node.op_type], predicate=True)


@builds("Div", tail=True)
def build_div(c: Compile) -> None:
    if c.node.output.dtype.kind == "f":
        _run(c, "a0 / a1")
    else:
        _run(c, "divided(a0, a1)", "scalar", scalar_only=True, files=["arithmetic.clh"])


@builds("Mod", tail=True)
def build_mod(c: Compile) -> None:
    like_c = c.node.attr("fmod", 0)
    if c.node.output.dtype.kind != "f":
        _run(c, f"{'remainder_of' if like_c else 'modulo'}(a0, a1)", "scalar", scalar_only=True, files=["arithmetic.clh"])
    elif like_c:
        _run(c, "fmod(a0, a1)")
    else:
        _run(c, "fmod(a0, a1) != (T)(0) & ((fmod(a0, a1) < (T)(0)) ^ (a1 < (T)(0))) ? fmod(a0, a1) + a1 : fmod(a0, a1)")


@builds("Pow", tail=True)
def build_pow(c: Compile) -> None:
    """In the base's type; an integer base with a fractional exponent goes through the widest floating-point type there is."""
    base, exponent = (c.node.operands[i].dtype for i in (0, 1))
    if base.kind == "f":
        _run(c, "pow(a0, a1)")
    elif exponent.kind == "f":
        compute = np.dtype("float64" if "float64" in c.facts.dtypes else "float32")
        _run(c, f"SNAPPED(T, pow(a0, a1), {16 * np.finfo(compute).eps})", compute=compute, rounding="_rtz", files=["exact.clh"])
    else:
        _run(c, "power(a0, a1)", "scalar", scalar_only=True, files=["arithmetic.clh"], compute=np.promote_types(base, exponent))


@builds("BitShift")
def build_shift(c: Compile) -> None:
    """A count that is negative or at least the width shifts everything out; the hardware would take it modulo the width."""
    dtype, left = c.node.output.dtype, c.node.attr("direction") == "LEFT"
    signed = dtype.kind == "i"
    outside = f"a1 >= (T)({dtype.itemsize * 8})" + (" || a1 < (T)(0)" if signed else "")
    emptied = "a0 < (T)(0) ? (T)(-1) : (T)(0)" if signed and not left else "(T)(0)"
    _run(c, f"({outside}) ? ({emptied}) : (T)(a0 {'<<' if left else '>>'} a1)", scalar_only=True)


@builds("Where")
def build_where(c: Compile) -> None:
    """Moves elements as they are: half has no registers."""
    c.implementation = f"{short(c.node.output.dtype)}_where_elementwise"
    condition, x, y = (c.input(k) for k in range(3))
    elementwise(c, "a0 != (I)(0) ? a1 : a2", as_bits(c.output()), [condition, as_bits(x), as_bits(y)], kinds="itt",
                compute=as_bits(c.output()).dtype)


@builds("Sum", "Mean", "Min", "Max", tail=True)
def build_variadic(c: Compile) -> None:
    count = len(c.node.operands)
    names = [f"a{k}" for k in range(count)]
    if c.node.op_type in ("Sum", "Mean"):
        total = " + ".join(names)
        _run(c, total if c.node.op_type == "Sum" else f"({total}) / (T)({count})")
        return
    name, text = ("lower_" if c.node.op_type == "Min" else "upper_"), names[0]
    for other in names[1:]:
        text = f"CAT({name}, T)({text}, {other})"
    _run(c, text, files=["extremes.clh"])


@declines("Sum", "Mean", "Min", "Max")
def few_operands(node: Node, facts: DeviceFacts) -> str | None:
    count = len(node.inputs)
    return None if count <= MAX_OPERANDS else f"{count} operands are more than a kernel takes ({MAX_OPERANDS})"
