"""The error function of float32 as OpenCL C: a driver's own takes as long as its longest branch, which is several times what this does.

h P(h^2) / Q(h^2), h being x held within 3.9, where the quotient is 1 to float32; fitted for the least relative error, as the CPU's kernels have it.
"""

from __future__ import annotations

from collections.abc import Sequence

_P = (2.066469506e-06, 2.850629098e-04, 3.738373984e-03, 5.266816914e-02, 1.896674633e-01, 1.128379107)
_Q = (3.827002001e-05, 1.157383085e-03, 1.491433289e-02, 1.138192266e-01, 5.014212132e-01, 1.0)


def erf(x: str) -> str:
    """Of an expression of type T (float, or a vector of it; common.clh); NaN stays NaN."""
    held = f"BETWEEN_(T, ({x}), -3.9f, 3.9f)"
    square = f"({held} * {held})"
    return f"({held} * {_polynomial(_P, square)} / {_polynomial(_Q, square)})"


def _polynomial(coefficients: Sequence[float], z: str) -> str:
    """By Horner's rule, the highest power first."""
    text = f"(T)({coefficients[0]!r}f)"
    for coefficient in coefficients[1:]:
        text = f"FMA({text}, {z}, (T)({coefficient!r}f))"
    return text
