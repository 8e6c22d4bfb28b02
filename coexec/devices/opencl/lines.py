"""Operators along one axis or several: how the other axes make lines, and how many work-items share one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .builder import ClOperand, Compile
from .nd import collapse

GROUP = 64


def without(operand: ClOperand, axes: Sequence[int]) -> ClOperand:
    """The window of the other axes, at the first element of `axes`."""
    keep = [d for d in range(len(operand.shape)) if d not in axes]
    return ClOperand(operand.handle, operand.dtype, tuple(operand.shape[d] for d in keep), tuple(operand.strides[d] for d in keep),
                     operand.offset, operand.owner)


def lines(x: ClOperand, y: ClOperand, axis: int) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """How many lines along `axis` there are, and the other axes: shape, strides in x, strides in y, all innermost first."""
    others = without(x, [axis])
    shape, (x_strides, y_strides) = collapse(others.shape, others.strides, without(y, [axis]).strides)
    return int(np.prod(shape, dtype=np.int64)), shape, x_strides, y_strides


def group(c: Compile, length: int) -> int:
    """Work-items that share a line of that length."""
    return 1 if c.facts.emulated or length < GROUP else min(GROUP, c.facts.extra.get("max_work_group_size", GROUP))


def spread(c: Compile, lines: int, size: int) -> tuple[tuple[int], tuple[int]]:
    """Global and local size for that many lines of `size` work-items each; kernels guard against lines that are not there."""
    if size > 1:
        return (lines * size,), (size,)
    return (lines,), (16 if c.facts.emulated else GROUP,)


def arithmetic(dtype: np.dtype) -> np.dtype:
    """What sums are held in: halves in float32."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype
