"""Views as rows: axes that lie side by side in every operand become one, so that kernels see a table of offsets and a row length."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """offsets[i * operands + j]: where row i of operand j begins, in elements.

    steps[j]: 1, or 0 where operand j is repeated along the row. There are `count` rows of `length` elements.
    """

    offsets: np.ndarray
    length: int
    steps: tuple[int, ...]
    count: int


def as_rows(*views: np.ndarray | None, keep: int = 0) -> Rows | None:
    """Rows of views of one shape (broadcast ones have strides of 0); the longest possible ones.

    The first `keep` axes are never merged with those after them. None where the last axis of a view is strided, or a stride is negative.
    """
    shape = next(v.shape for v in views if v is not None)
    steps = [[0] * len(shape) if v is None else [0 if n == 1 else s // v.itemsize for n, s in zip(shape, v.strides)] for v in views]
    if any(s < 0 for row in steps for s in row):
        return None
    axes = [d for d, n in enumerate(shape) if n > 1 or d < keep]
    length, inner, outer = 1, None, list(axes)
    while outer and outer[-1] >= keep:
        d = outer[-1]
        if inner is None:
            if any(s[d] not in (0, 1) for s in steps):
                return None
            inner = tuple(s[d] for s in steps)
        elif any(s[d] != i * length for s, i in zip(steps, inner)):
            break
        length *= shape[d]
        outer.pop()
    inner = inner or tuple(0 for _ in views)
    at = np.zeros((len(views),), np.int64)
    for d in outer:
        at = at[..., None, :] + np.arange(shape[d], dtype=np.int64)[:, None] * np.array([s[d] for s in steps])
    at = np.ascontiguousarray(at.reshape(-1))
    return Rows(at, length, inner, at.size // len(views))
