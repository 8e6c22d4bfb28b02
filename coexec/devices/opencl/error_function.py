"""The error function of float32 as OpenCL C (`devices.cpu.erf`): a driver's own takes as long as its longest branch."""

from __future__ import annotations

from collections.abc import Sequence

from ..cpu.erf import LIMIT, P, Q


def erf(x: str) -> str:
    """Of an expression of type T (float, or a vector of it; common.clh); NaN stays NaN."""
    held = f"BETWEEN_(T, ({x}), {-LIMIT}f, {LIMIT}f)"
    square = f"({held} * {held})"
    return f"({held} * {_polynomial(P, square)} / {_polynomial(Q, square)})"


def _polynomial(coefficients: Sequence[float], z: str) -> str:
    """By Horner's rule, the highest power first."""
    text = f"(T)({coefficients[0]!r}f)"
    for coefficient in coefficients[1:]:
        text = f"FMA({text}, {z}, (T)({coefficient!r}f))"
    return text
