"""Activations as vectorisable float32 arithmetic inside kernels: exp, tanh, sigmoid and erf by polynomials, a row at a time.

numba's math functions are calls to the C library, one element at a time; these are straight-line code that LLVM makes vectors of.
Errors against double precision are within a few units in the last place (exp, sigmoid, tanh) and 1e-6 relative (erf).
"""

from __future__ import annotations

import numpy as np

from .jit import helper, inlined
from .simd import power_of_two

#: Activations that are a clamp between two bounds.
CLAMPED = ("Relu", "Clip")
_CODES = {"LeakyRelu": 1, "Sigmoid": 2, "Tanh": 3, "HardSigmoid": 4, "HardSwish": 5, "Silu": 6, "Gelu": 7, "Erf": 8, "Exp": 9, "GeluTanh": 10}
LEAKY, SIGMOID, TANH, HARD_SIGMOID, HARD_SWISH, SILU, GELU, ERF, EXP, GELU_TANH = range(1, 11)


def code_of(kind: str) -> int:
    """The number by which kernels know an activation that is no clamp; KeyError where there is none such."""
    return _CODES[kind]


f32 = np.float32
_LOG2E, _LN2_HIGH, _LN2_LOW = f32(1.44269504088896341), f32(0.693359375), f32(-2.12194440e-4)
_ONE, _HALF, _ZERO, _TWO, _SIX = f32(1), f32(0.5), f32(0), f32(2), f32(6)
_ROUND = f32(12582912)


@inlined
def exp32(x):
    """e ** x; 0 below -87.3, infinity above 88.7; NaN stays NaN."""
    low = x if x > f32(-87.3) else f32(-87.3)
    held = low if low < f32(89) else f32(89)
    n = held * _LOG2E + _ROUND - _ROUND  # to the nearest integer: adding 1.5 * 2**23 leaves no room for a fraction
    r = held - n * _LN2_HIGH - n * _LN2_LOW
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + _ONE
    power = np.int32(n)
    half = np.int32(power >> 1)  # in two factors: 2 ** 128 itself is no float
    y = p * power_of_two(half) * power_of_two(np.int32(power - half))
    y = _ZERO if x < f32(-87.3) else y
    return x if x != x else y


@inlined
def sigmoid32(x):
    """1 / (1 + e ** -x)."""
    return _ONE / (_ONE + exp32(-x))


@inlined
def tanh32(x):
    """tanh, by a polynomial near 0 (where the difference of exponentials would cancel)."""
    a = abs(x)
    z = x * x
    p = f32(-5.70498872745e-3)
    p = p * z + f32(2.06390887954e-2)
    p = p * z + f32(-5.37397155531e-2)
    p = p * z + f32(1.33314422036e-1)
    p = p * z + f32(-3.33332819422e-1)
    small = p * z * x + x
    big = _ONE - _TWO / (exp32(a + a) + _ONE)
    big = -big if x < _ZERO else big
    y = small if a < f32(0.625) else big
    return x if x != x else y


@inlined
def erf32(x):
    """The error function: an odd polynomial up to 1, then 1 - e ** -q(x)."""
    a = abs(x)
    z = x * x
    p = f32(7.88249361e-05)
    p = p * z + f32(-8.01885386e-04)
    p = p * z + f32(5.1893118e-03)
    p = p * z + f32(-2.68543287e-02)
    p = p * z + f32(1.12835975e-01)
    p = p * z + f32(-3.76126269e-01)
    p = p * z + f32(1.12837917)
    small = p * x
    c = a if a < f32(4) else f32(4)
    q = f32(1.55402069e-08)
    q = q * c + f32(2.13686635e-05)
    q = q * c + f32(-4.38812223e-04)
    q = q * c + f32(4.19398795e-03)
    q = q * c + f32(-2.51821492e-02)
    q = q * c + f32(1.08379225e-01)
    q = q * c + f32(6.33255513e-01)
    q = q * c + f32(1.12956063)
    q = q * c + f32(-1.84272269e-04)
    big = _ONE - exp32(-q)
    big = -big if x < _ZERO else big
    y = small if a < _ONE else big
    return x if x != x else y


@inlined
def hard_sigmoid32(x, alpha, beta):
    """alpha * x + beta between 0 and 1."""
    y = x * alpha + beta
    y = _ZERO if y < _ZERO else y
    return _ONE if y > _ONE else y


@inlined
def gelu32(x):
    """x * (1 + erf(x / sqrt 2)) / 2."""
    return _HALF * x * (_ONE + erf32(x * f32(0.70710678118654752)))


@inlined
def gelu_tanh32(x):
    """Gelu by its tanh approximation."""
    return _HALF * x * (_ONE + tanh32(f32(0.7978845608028654) * (x + f32(0.044715) * x * x * x)))


@helper
def activate(y, at, n, x, x_at, kind, alpha, beta):
    """y[at:at + n] = the activation of that code of x[x_at:x_at + n]; x may be y itself."""
    if kind == LEAKY:
        for i in range(n):
            v = x[x_at + i]
            y[at + i] = v * alpha if v < _ZERO else v
    elif kind == SIGMOID:
        for i in range(n):
            y[at + i] = sigmoid32(x[x_at + i])
    elif kind == TANH:
        for i in range(n):
            y[at + i] = tanh32(x[x_at + i])
    elif kind == HARD_SIGMOID:
        for i in range(n):
            y[at + i] = hard_sigmoid32(x[x_at + i], alpha, beta)
    elif kind == HARD_SWISH:
        for i in range(n):
            v = x[x_at + i]
            y[at + i] = v * hard_sigmoid32(v, f32(1 / 6), _HALF)
    elif kind == SILU:
        for i in range(n):
            v = x[x_at + i]
            y[at + i] = v * sigmoid32(v)
    elif kind == GELU:
        for i in range(n):
            y[at + i] = gelu32(x[x_at + i])
    elif kind == ERF:
        for i in range(n):
            y[at + i] = erf32(x[x_at + i])
    elif kind == EXP:
        for i in range(n):
            y[at + i] = exp32(x[x_at + i])
    elif kind == GELU_TANH:
        for i in range(n):
            y[at + i] = gelu_tanh32(x[x_at + i])


@inlined
def clamp_row(y, at, n, low, high):
    """Holds y[at:at + n] between low and high; NaN stays NaN."""
    for i in range(n):
        v = y[at + i]
        v = low if v < low else v
        y[at + i] = high if v > high else v


@helper
def finish_row(y, at, n, has_residual, res, res_at, kind, alpha, beta, low, high):
    """The fused tail on one row of outputs: residual, then the activation."""
    if has_residual:
        for i in range(n):
            v = y[at + i] + res[res_at + i]
            v = low if v < low else v
            y[at + i] = high if v > high else v
    if kind != 0:
        activate(y, at, n, y, at, kind, alpha, beta)
