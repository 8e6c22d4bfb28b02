"""Operators of one tensor, element by element, with Clip: every one an expression for the same kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...graph.ir import Node
from ...ops.narrow import computed_in
from ..base import DeviceFacts
from .builder import Compile, builds, declines, short
from .error_function import erf
from .nd import elementwise
from .program import literal

_SOFTPLUS = "(fmax(a0, (T)(0)) + log1p(exp(-fabs(a0))))"

_SILU = "a0 / ((T)(1) + exp(-a0))"

# What works on integers too.
_ANY = {
    "Relu": "a0 < (T)(0) ? (T)(0) : a0",
    "Abs": "a0 < (T)(0) ? -a0 : a0",
    "Neg": "-a0",
    "Sign": "a0 > (T)(0) ? (T)(1) : (a0 < (T)(0) ? (T)(-1) : a0)",
}
_FLOAT = {
    "Sigmoid": "(T)(1) / ((T)(1) + exp(-a0))",
    "Softplus": _SOFTPLUS,
    "Mish": f"a0 * tanh({_SOFTPLUS})",
    "Softsign": "a0 / ((T)(1) + fabs(a0))",
    "Reciprocal": "(T)(1) / a0",
    "Ceil": "ceil(a0)", "Floor": "floor(a0)", "Round": "rint(a0)",
    **{name.capitalize(): f"{name}(a0)" for name in (
        "tanh", "sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf")},
}
_HARD = "fmin(fmax(a0 * (T)({alpha}) + (T)({beta}), (T)(0)), (T)(1))"
# Expressions with attributes: their ONNX defaults, and the text they go into.
_WITH: dict[str, tuple[dict[str, float], str]] = {
    "LeakyRelu": ({"alpha": 0.01}, "a0 < (T)(0) ? a0 * (T)({alpha}) : a0"),
    "Elu": ({"alpha": 1.0}, "a0 < (T)(0) ? (T)({alpha}) * expm1(a0) : a0"),
    "Selu": ({"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
             "(T)({gamma}) * (a0 > (T)(0) ? a0 : (T)({alpha}) * expm1(a0))"),
    "Celu": ({"alpha": 1.0}, "a0 > (T)(0) ? a0 : (T)({alpha}) * expm1(a0 / (T)({alpha}))"),
    "ThresholdedRelu": ({"alpha": 1.0}, "a0 > (T)({alpha}) ? a0 : (T)(0)"),
    "HardSigmoid": ({"alpha": 0.2, "beta": 0.5}, _HARD),
    "HardSwish": ({}, "a0 * " + _HARD.format(alpha="(T)(1) / (T)(6)", beta="0.5f")),
    "Swish": ({"alpha": 1.0}, "a0 / ((T)(1) + exp(-a0 * (T)({alpha})))"),
    "Shrink": ({"lambd": 0.5, "bias": 0.0}, "a0 < -(T)({lambd}) ? a0 + (T)({bias}) : (a0 > (T)({lambd}) ? a0 - (T)({bias}) : (T)(0))"),
}


def number(value: float, dtype: np.dtype) -> str:
    """A literal that suits arithmetic in `dtype`."""
    return literal(np.float64(value) if dtype == np.float64 else np.float32(value) if dtype.kind == "f" else np.int64(value))


def expression(node: Node) -> str:
    """The operator of a float32 tensor, over a0 of type T; the bounds of a Clip are constants."""
    op, dtype = node.op_type, np.dtype(np.float32)
    if op == "Clip":
        text = "a0"
        for bound, sign in zip(node.operands[1:], "<>"):
            if bound is not None:
                limit = f"(T)({number(bound.data.reshape(()), dtype)})"
                text = f"({text} {sign} {limit} ? {limit} : {text})"
        return text
    if op == "Silu":
        return _SILU
    if op in _WITH:
        defaults, form = _WITH[op]
        return form.format(**{k: number(node.attr(k, d), dtype) for k, d in defaults.items()})
    return _ANY.get(op) or _FLOAT[op]


@builds(*_ANY, *_FLOAT, *_WITH, tail=True, narrow=True)
def build(c: Compile) -> None:
    op, dtype = c.node.op_type, computed_in(c.node.inputs[0].dtype)
    text = _ANY.get(op) or _FLOAT.get(op)
    if op == "Sign" and dtype.kind != "f":  # the comparisons end llvmpipe's process for int8
        text = "clamp(a0, (T)(-1), (T)(1))" if dtype.kind == "i" else "min(a0, (T)(1))"
    if text is None:
        defaults, form = _WITH[op]
        if dtype.kind != "f":  # Shrink: compared and shifted as real numbers, then truncated
            dtype = np.dtype(np.float64)
        text = form.format(**{k: number(c.node.attr(k, d), dtype) for k, d in defaults.items()})
    if c.node.op_type == "Shrink" and computed_in(c.node.output.dtype).kind != "f":
        _named(c)
        elementwise(c, text, c.output(), [c.input(0)], compute=dtype, rounding="_rtz")
    else:
        _unary(c, text)


@builds("Silu", domain="coexec", tail=True, narrow=True)
def build_silu(c: Compile) -> None:
    _unary(c, _SILU)


@builds("Gelu", tail=True, narrow=True)
def build_gelu(c: Compile) -> None:
    dtype = computed_in(c.node.inputs[0].dtype)
    if c.node.attr("approximate", "none") == "tanh":
        inner = f"tanh((T)({number(np.sqrt(2 / np.pi), dtype)}) * (a0 + (T)({number(0.044715, dtype)}) * a0 * a0 * a0))"
    else:
        scaled = f"a0 * (T)({number(2**-0.5, dtype)})"
        inner = erf(scaled) if dtype == np.float32 else f"erf({scaled})"
    _unary(c, f"(T)(0.5f) * a0 * ((T)(1) + {inner})")


@builds("Clip", tail=True, narrow=True)
def build_clip(c: Compile) -> None:
    """Bounds are scalars of the input's type, constant or not; where they cross, the upper one wins."""
    text, inputs = "a0", [c.input(0)]
    for index, sign in ((1, "<"), (2, ">")):
        if c.has(index):
            k = len(inputs)
            inputs.append(c.input(index).reshape(()))
            text = f"({text} {sign} a{k} ? a{k} : {text})"
    _named(c)
    elementwise(c, text, c.output(), inputs, tail=True)


def _is_inf(positive: int, negative: int) -> str:
    if not positive and not negative:
        return "(I)(0)"
    return "isinf(a0)" + ("" if positive and negative else " & (a0 > (T)(0))" if positive else " & (a0 < (T)(0))")


_PREDICATES: dict[str, Callable[[Node], str]] = {
    "Not": lambda n: "a0 == (T)(0)",
    "IsNaN": lambda n: "isnan(a0)",
    "IsInf": lambda n: _is_inf(n.attr("detect_positive", 1), n.attr("detect_negative", 1)),
}


@builds(*_PREDICATES, narrow=True)
def build_predicate(c: Compile) -> None:
    _named(c)
    elementwise(c, _PREDICATES[c.node.op_type](c.node), c.output(), [c.input(0)], predicate=True)


@builds("BitwiseNot")
def build_bitwise_not(c: Compile) -> None:
    _unary(c, "~a0")


@declines(*_FLOAT, *_WITH, "Gelu", "IsNaN", "IsInf")
def only_floats(node: Node, facts: DeviceFacts) -> str | None:
    dtype = computed_in(node.inputs[0].dtype)
    if node.op_type == "Shrink" and "float64" in facts.dtypes:
        return None
    return None if dtype.kind == "f" else f"{node.op_type} of {dtype} is not a floating-point function"


def _named(c: Compile) -> None:
    c.implementation = f"{short(c.node.inputs[0].dtype)}_{c.node.op_type.lower()}_elementwise"


def _unary(c: Compile, text: str) -> None:
    _named(c)
    elementwise(c, text, c.output(), [c.input(0)], tail=True)
