"""The tail that fusion puts behind an operator: residual add, then an activation. The NumPy meaning of each kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph.ir import Activation

# scipy.special takes as long to load as all the rest of coexec: only those load it that compute.


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    from scipy import special

    return special.expit(x) if x.dtype in (np.float32, np.float64) else special.expit(x.astype(np.float32)).astype(x.dtype)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, in the type of x."""
    from scipy import special

    return special.erf(x.astype(np.float64 if x.dtype == np.float64 else np.float32)).astype(x.dtype)


def _hard_sigmoid(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(x * x.dtype.type(alpha) + x.dtype.type(beta), 0, 1)


ACTIVATIONS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "LeakyRelu": lambda x, a, b: np.where(x < 0, x * x.dtype.type(a), x),
    "Clip": lambda x, a, b: np.minimum(np.maximum(x, x.dtype.type(a)), x.dtype.type(b)),
    "Sigmoid": lambda x, a, b: sigmoid(x),
    "Tanh": lambda x, a, b: np.tanh(x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, a, b: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "Silu": lambda x, a, b: x * sigmoid(x),
    "Gelu": lambda x, a, b: (0.5 * x * (1 + erf(x * x.dtype.type(2**-0.5)))).astype(x.dtype),
}


def apply_epilogue(y: np.ndarray, residual: np.ndarray | None, activation: Activation | None) -> np.ndarray:
    """activation(y + residual), in the type of y."""
    if residual is not None:
        y = y + residual
    if activation is not None:
        y = ACTIVATIONS[activation.kind](y, activation.alpha, activation.beta)
    return y
