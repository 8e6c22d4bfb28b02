"""What the compute-heavy families share: arguments of bias and residual, five-axis windows, the types of sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .builder import ClOperand, Compile, ctype, int8

#: The type a sum is kept in, by element type.
SUMS = {"float16": "float"}


def type_defines(c: Compile) -> dict[str, Any]:
    """T (elements), ACC (sums) and the fused activation of the node; RESIDUAL and BIAS where it has them."""
    kind = ctype(c.node.output.dtype)
    return {"T": kind, "ACC": SUMS.get(c.node.output.dtype.name, kind), **c.tail_defines()}


#: Activations that a kernel chooses when it runs (CHOOSE of common.clh), by their number; the others are compiled in.
_LATE = {"Relu": 1, "Clip": 2, "HardSwish": 3, "HardSigmoid": 4}


def late_tail(c: Compile) -> tuple[dict[str, Any], list[Any]]:
    """The defines of `type_defines` less what is chosen at run time, and the kernel arguments act and by that choose it."""
    activation, defines = c.node.activation, type_defines(c)
    defines.pop("RESIDUAL", None)
    act = 0 if activation is None else _LATE.get(activation.kind, 0)
    if not act:
        return defines, [np.int32(0), np.zeros(2, np.float32)]
    by = np.array([defines["ACT_ALPHA"], defines["ACT_BETA"]], np.float32)
    return {k: v for k, v in defines.items() if not k.startswith("ACT_")}, [np.int32(act), by]


def five(window: ClOperand, rank: int | None = None) -> ClOperand:
    """A window (batch, channel, 1 to 3 spatial axes) seen with three spatial axes: missing ones come first, with extent 1."""
    missing = 5 - len(window.shape)
    return replace(window, shape=(*window.shape[:2], *(1,) * missing, *window.shape[2:]),
                   strides=(*window.strides[:2], *(0,) * missing, *window.strides[2:]))


def three(values: Any, fill: int) -> np.ndarray:
    """Up to three per-axis numbers as (depth, height, width), `fill` for the missing first ones."""
    values = tuple(int(v) for v in values)
    return int8((*(fill,) * (3 - len(values)), *values))


def bias_args(bias: ClOperand | None) -> list[Any]:
    """pointer, offset, stride of a vector, or nothing."""
    return [] if bias is None else [bias, np.int32(bias.strides[0])]


def i32(*values: int) -> list[np.int32]:
    """Kernel arguments of type int."""
    return [np.int32(v) for v in values]


def number(value: float, dtype: Any) -> np.ndarray:
    """A kernel argument of that type, whatever its size."""
    return np.array([value], dtype)
