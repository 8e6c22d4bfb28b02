"""Activations as vectorisable float32 arithmetic inside kernels: exp, tanh, sigmoid and erf by polynomials, a row at a time.

numba's math functions are calls to the C library, one element at a time; these are straight-line code that LLVM makes vectors of.
Errors against double precision are within a few units in the last place (exp, sigmoid, tanh, erf).
"""

from __future__ import annotations

import numpy as np

from .erf import LIMIT, P, Q
from .jit import helper, inlined
from .simd import LANES, clamp, load, load_inside, magnitude, pick_less, pick_number, scale_by_power, store, store_first

#: Activations that are a clamp between two bounds.
CLAMPED = ("Relu", "Clip")
_CODES = {"LeakyRelu": 1, "Sigmoid": 2, "Tanh": 3, "HardSigmoid": 4, "HardSwish": 5, "Silu": 6, "Gelu": 7, "Erf": 8, "Exp": 9,
          "GeluTanh": 10}
LEAKY, SIGMOID, TANH, HARD_SIGMOID, HARD_SWISH, SILU, GELU, ERF, EXP, GELU_TANH = range(1, 11)


def code_of(kind: str) -> int:
    """The number by which kernels know an activation that is no clamp; KeyError where there is none such."""
    return _CODES[kind]


f32 = np.float32
_LOG2E, _LN2_HIGH, _LN2_LOW = f32(1.44269504088896341), f32(0.693359375), f32(-2.12194440e-4)
_ONE, _HALF, _ZERO, _TWO = f32(1), f32(0.5), f32(0), f32(2)
_ROUND = f32(12582912)


@inlined
def exp(x):
    """e ** x; 0 below -87.3, infinity above 88.7; NaN stays NaN."""
    held = pick_less(x, f32(-87.3), f32(-87.3), x)
    held = pick_less(f32(89), held, f32(89), held)
    n = held * _LOG2E + _ROUND - _ROUND  # to the nearest integer: adding 1.5 * 2**23 leaves no room for a fraction
    r = held - n * _LN2_HIGH - n * _LN2_LOW
    p = r * f32(1.9875691500e-4) + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * (r * r) + r + _ONE
    return pick_number(x, pick_less(x, f32(-87.3), _ZERO, scale_by_power(p, n)))


@inlined
def sigmoid(x):
    """1 / (1 + e ** -x)."""
    return _ONE / (exp(_ZERO - x) + _ONE)


@inlined
def tanh(x):
    """tanh, by a polynomial near 0 (where the difference of exponentials would cancel)."""
    a = magnitude(x)
    z = x * x
    p = z * f32(-5.70498872745e-3) + f32(2.06390887954e-2)
    p = p * z + f32(-5.37397155531e-2)
    p = p * z + f32(1.33314422036e-1)
    p = p * z + f32(-3.33332819422e-1)
    big = _ONE - _TWO / (exp(a + a) + _ONE)
    big = pick_less(x, _ZERO, _ZERO - big, big)
    return pick_number(x, pick_less(a, f32(0.625), p * z * x + x, big))


@inlined
def erf(x):
    """The error function, by a quotient (`erf.py`)."""
    h = clamp(x, f32(-LIMIT), f32(LIMIT))
    z = h * h
    p = z * f32(P[0]) + f32(P[1])
    p = p * z + f32(P[2])
    p = p * z + f32(P[3])
    p = p * z + f32(P[4])
    p = p * z + f32(P[5])
    q = z * f32(Q[0]) + f32(Q[1])
    q = q * z + f32(Q[2])
    q = q * z + f32(Q[3])
    q = q * z + f32(Q[4])
    q = q * z + f32(Q[5])
    return pick_number(x, clamp(h * p / q, _ZERO - _ONE, _ONE))


@inlined
def hard_sigmoid(x, alpha, beta):
    """alpha * x + beta between 0 and 1."""
    return clamp(x * alpha + beta, _ZERO, _ONE)


@inlined
def apply(x, kind, alpha, beta):
    """The activation of that code of a vector."""
    if kind == LEAKY:
        return pick_less(x, _ZERO, x * alpha, x)
    if kind == SIGMOID:
        return sigmoid(x)
    if kind == TANH:
        return tanh(x)
    if kind == HARD_SIGMOID:
        return hard_sigmoid(x, alpha, beta)
    if kind == HARD_SWISH:
        return x * hard_sigmoid(x, f32(1 / 6), _HALF)
    if kind == SILU:
        return x * sigmoid(x)
    if kind == GELU:
        return x * _HALF * (erf(x * f32(0.70710678118654752)) + _ONE)
    if kind == ERF:
        return erf(x)
    if kind == EXP:
        return exp(x)
    if kind == GELU_TANH:
        return x * _HALF * (tanh((x * x * x * f32(0.044715) + x) * f32(0.7978845608028654)) + _ONE)
    return x + _ZERO


@helper
def activate(y, at, n, x, x_at, kind, alpha, beta):
    """y[at:at + n] = the activation of that code of x[x_at:x_at + n]; x may be y itself."""
    whole = n // LANES * LANES
    for j in range(0, whole, LANES):
        store(y, at + j, apply(load(x, x_at + j), kind, alpha, beta))
    if whole < n:
        store_first(y, at + whole, apply(load_inside(x, x_at + whole, 1, 0, n - whole), kind, alpha, beta), n - whole)
