"""What the light families share: types NumPy computes by itself, constants among operands, and box arithmetic on indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..graph.ir import Node, Value
from ..regions import Interval, Region
from .base import SplitAxis, axis_names
from .narrow import is_bfloat16, is_narrow

_NATIVE = frozenset(np.dtype(t) for t in "?bBhHiIlLqQefdFD")


#: Operators that move elements and look at none: any type of fixed size will do.
_MOVERS = frozenset("""
    Reshape Flatten Squeeze Unsqueeze Identity Transpose Split Slice Concat Gather GatherElements GatherND Expand Tile
    DepthToSpace SpaceToDepth
""".split())


def _is_native(dtype: np.dtype | None) -> bool:
    """True for the booleans, integers, floats and complex numbers that NumPy itself computes with."""
    return dtype is not None and np.dtype(dtype) in _NATIVE


def foreign_type(node: Node, bfloat16: bool = False, narrow: bool = False) -> str | None:
    """Why the node is declined for its element types (strings, bfloat16, float8, int4, sequences), or None.

    `bfloat16` admits that type, `narrow` all that ops/narrow.py knows; what only moves elements takes these too.
    """
    narrow = narrow or (not node.domain and node.op_type in _MOVERS)
    for value in (*node.operands, *node.outputs):
        if value is None or _is_native(value.dtype) or (narrow and is_narrow(value.dtype)) or (bfloat16 and is_bfloat16(value.dtype)):
            continue
        return f"%{value.name} is {value.type}, a type NumPy lacks"
    return None


def variable_among(node: Node, operands: dict[int, str]) -> str | None:
    """Why the node is declined for shape-like operands (index -> name) that are no constants, or None."""
    for index, name in operands.items():
        value = node.operand(index)
        if value is not None and value.data is None:
            return f"input '{name}' is not constant"
    return None


def integers(value: Value | None) -> tuple[int, ...] | None:
    """The elements of a constant, in order; None where the operand is absent."""
    return None if value is None else tuple(int(i) for i in np.asarray(value.data).reshape(-1))


def axes_of(rank: int, axes: Iterable[int]) -> tuple[int, ...]:
    """Axes counted from the front."""
    return tuple(a + rank if a < 0 else a for a in axes)


def every_axis(node: Node, keep: Callable[[int], bool] = lambda dim: True) -> tuple[SplitAxis, ...]:
    """The axes of the first output that have two elements at least, those for which `keep` says so; none of an empty one."""
    shape = node.output.shape
    if 0 in shape:
        return ()
    return tuple(SplitAxis(name, dim, extent) for dim, (name, extent) in enumerate(zip(axis_names(len(shape)), shape))
                 if extent >= 2 and keep(dim))


def broadcast_region(shape: Sequence[int], out_shape: Sequence[int], out_region: Region) -> Region:
    """What an operand of that shape gives to a piece of a broadcast output: (0, 1) where the operand is repeated."""
    skipped = len(out_shape) - len(shape)
    return Region([out if n == full else (0, 1) for n, full, out in zip(shape, out_shape[skipped:], out_region[skipped:])])


def touch(shape: Sequence[int]) -> Region:
    """A single element (none of an empty tensor): what is named where only an operand's type or shape matters."""
    return Region([(0, min(1, n)) for n in shape])


def hull(indices: np.ndarray, extent: int) -> Interval:
    """The smallest interval that holds these indices; one element, if there is any, where there are none."""
    if not indices.size:
        return Interval(0, min(1, extent))
    return Interval(int(indices.min()), int(indices.max()) + 1)


def select(x: np.ndarray, dim: int, indices: np.ndarray) -> np.ndarray:
    """The given elements along one axis; a slice, not a copy, where they are consecutive."""
    count = len(indices)
    if count and indices[0] >= 0 and indices[-1] - indices[0] == count - 1 and (np.diff(indices) == 1).all():
        return x[(slice(None),) * dim + (slice(int(indices[0]), int(indices[0]) + count),)]
    return np.take(x, indices, axis=dim)
