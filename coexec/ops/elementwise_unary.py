"""Functions of one tensor, element by element: activations, arithmetic, trigonometry, tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .epilogue import erf, sigmoid
from .narrow import is_bfloat16
from .operands import every_axis, foreign_type

Function = Callable[[Node, np.ndarray], np.ndarray]


def _attribute(node: Node, x: np.ndarray, name: str, default: float) -> np.generic:
    """An attribute in the type of x, so that half stays half."""
    return x.dtype.type(node.attr(name, default))


def _leaky_relu(node: Node, x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x * _attribute(node, x, "alpha", 0.01), x)


def _elu(node: Node, x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, _attribute(node, x, "alpha", 1.0) * np.expm1(np.minimum(x, 0)), x)


def _selu(node: Node, x: np.ndarray) -> np.ndarray:
    alpha = _attribute(node, x, "alpha", 1.67326319217681884765625)
    return _attribute(node, x, "gamma", 1.05070102214813232421875) * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _celu(node: Node, x: np.ndarray) -> np.ndarray:
    alpha = _attribute(node, x, "alpha", 1.0)
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def _thresholded_relu(node: Node, x: np.ndarray) -> np.ndarray:
    return np.where(x > _attribute(node, x, "alpha", 1.0), x, x.dtype.type(0))


def _hard_sigmoid(node: Node, x: np.ndarray) -> np.ndarray:
    return np.clip(x * _attribute(node, x, "alpha", 0.2) + _attribute(node, x, "beta", 0.5), 0, 1)


def _hard_swish(node: Node, x: np.ndarray) -> np.ndarray:
    return x * np.clip(x * x.dtype.type(1 / 6) + x.dtype.type(0.5), 0, 1)


def _softplus(node: Node, x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, x.dtype.type(0))


def _gelu(node: Node, x: np.ndarray) -> np.ndarray:
    half, one = x.dtype.type(0.5), x.dtype.type(1)
    if node.attr("approximate", "none") == "tanh":
        return half * x * (one + np.tanh(x.dtype.type(np.sqrt(2 / np.pi)) * (x + x.dtype.type(0.044715) * x * x * x)))
    return half * x * (one + erf(x * x.dtype.type(0.5**0.5)))


def _swish(node: Node, x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x * _attribute(node, x, "alpha", 1.0))


def _is_inf(node: Node, x: np.ndarray) -> np.ndarray:
    positive, negative = node.attr("detect_positive", 1), node.attr("detect_negative", 1)
    return np.isinf(x) & ((x > 0) & bool(positive) | (x < 0) & bool(negative))


def _shrink(node: Node, x: np.ndarray) -> np.ndarray:
    bias, threshold = node.attr("bias", 0.0), node.attr("lambd", 0.5)
    # Integers are compared and shifted as real numbers, then truncated.
    wide = x if x.dtype.kind == "f" else x.astype(np.float64)
    bias, threshold = wide.dtype.type(bias), wide.dtype.type(threshold)
    return np.where(wide < -threshold, wide + bias, np.where(wide > threshold, wide - bias, wide.dtype.type(0)))


#: Operator -> its function, and how many floating-point operations an element costs.
FUNCTIONS: dict[str, tuple[Function, int]] = {
    "Relu": (lambda n, x: np.maximum(x, 0), 1), "LeakyRelu": (_leaky_relu, 2), "Elu": (_elu, 4), "Selu": (_selu, 5), "Celu": (_celu, 6),
    "ThresholdedRelu": (_thresholded_relu, 1), "Sigmoid": (lambda n, x: sigmoid(x), 4), "HardSigmoid": (_hard_sigmoid, 4),
    "HardSwish": (_hard_swish, 5), "Tanh": (lambda n, x: np.tanh(x), 6), "Softplus": (_softplus, 6),
    "Softsign": (lambda n, x: x / (x.dtype.type(1) + np.abs(x)), 3), "Mish": (lambda n, x: x * np.tanh(_softplus(n, x)), 12),
    "Gelu": (_gelu, 10), "Swish": (_swish, 6), "Erf": (lambda n, x: erf(x), 8), "Shrink": (_shrink, 3),
    "Abs": (lambda n, x: np.abs(x), 1), "Neg": (lambda n, x: np.negative(x), 1), "Sign": (lambda n, x: np.sign(x), 1),
    "Exp": (lambda n, x: np.exp(x), 4), "Log": (lambda n, x: np.log(x), 4), "Sqrt": (lambda n, x: np.sqrt(x), 1),
    "Reciprocal": (lambda n, x: x.dtype.type(1) / x, 1), "Floor": (lambda n, x: np.floor(x), 1), "Ceil": (lambda n, x: np.ceil(x), 1),
    "Round": (lambda n, x: np.rint(x), 1), "Sin": (lambda n, x: np.sin(x), 8), "Cos": (lambda n, x: np.cos(x), 8),
    "Tan": (lambda n, x: np.tan(x), 10), "Asin": (lambda n, x: np.arcsin(x), 10), "Acos": (lambda n, x: np.arccos(x), 10),
    "Atan": (lambda n, x: np.arctan(x), 10), "Sinh": (lambda n, x: np.sinh(x), 8), "Cosh": (lambda n, x: np.cosh(x), 8),
    "Asinh": (lambda n, x: np.arcsinh(x), 10), "Acosh": (lambda n, x: np.arccosh(x), 10), "Atanh": (lambda n, x: np.arctanh(x), 10),
    "Not": (lambda n, x: np.logical_not(x), 1), "BitwiseNot": (lambda n, x: np.invert(x), 1),
    "IsNaN": (lambda n, x: np.isnan(x), 1), "IsInf": (_is_inf, 3),
}


class Unary(Op):
    """An operator whose output element reads the input element at the same place. Elements of bfloat16 are computed in float32."""

    functions = FUNCTIONS

    def declines(self, node: Node) -> str | None:
        return foreign_type(node, bfloat16=True)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region,)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = inputs[0].astype(np.float32) if is_bfloat16(inputs[0].dtype) else inputs[0]
        with np.errstate(all="ignore"):
            found = np.asarray(self.functions[node.op_type][0](node, x))
            return [found.astype(node.output.dtype, copy=False)]

    def flops(self, node: Node, out_region: Region) -> float:
        return float(self.functions[node.op_type][1] * out_region.size)


@register
class ElementwiseUnary(Unary):
    op_types = tuple(FUNCTIONS)


@register
class Silu(Unary):
    """x * sigmoid(x): what fusion makes of a Sigmoid and a Mul."""

    op_types = ("Silu",)
    domain = "coexec"
    functions = {"Silu": (lambda n, x: x * sigmoid(x), 5)}


@register
class Clip(Unary):
    """min(max(x, lower), upper); either bound, a scalar, may be absent. Where lower > upper, the result is upper."""

    op_types = ("Clip",)
    functions = {"Clip": (lambda n, x: x, 2)}

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region, *(None if v is None else Region.whole(v.shape) for v in node.operands[1:]))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x, lower, upper = (*inputs, None, None)[:3]
        if lower is not None:
            x = np.maximum(x, lower.reshape(()))
        if upper is not None:
            x = np.minimum(x, upper.reshape(()))
        return [np.asarray(x)]
