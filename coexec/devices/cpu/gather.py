"""Gather and plain Casts on the CPU: NumPy calls with everything that does not depend on the values worked out beforehand."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...graph.ir import Node
from ...ops.base import Op
from ...ops.gather import from_front
from ...ops.operands import axes_of
from ...regions import Region
from .build import Piece, Program, builds, shares_out


@shares_out("Gather")
def share(op: Op, node: Node, out_region: Region, threads: int) -> list[Region] | None:
    """One thread's: a NumPy call holds Python's lock for most of what it takes. By one number that is known it is a copy."""
    index = node.inputs[1]
    return None if index.is_constant and index.type.size == 1 else [out_region]


@builds("Gather")
def gather(piece: Piece) -> Program | None:
    """Indices taken straight into the output, where it and the data lie in one piece; one that is known is a copy (`copies`)."""
    data, indices, y, node = piece.inputs[0], piece.inputs[1], piece.outputs[0], piece.node
    axis = axes_of(data.ndim, (node.attr("axis", 0),))[0]
    extent, first = node.operands[0].shape[axis], piece.regions[0][axis].start
    if data.dtype != y.dtype:
        return None
    if not (data.flags.c_contiguous and y.flags.c_contiguous):  # of a window `take` would copy the whole first
        before = (slice(None),) * axis

        def pick() -> None:
            np.copyto(y, data[(*before, from_front(node, indices, extent) - first)])

        return Program(f"{y.dtype.name}_gather_window", lambda scratch: pick)

    def run() -> None:
        np.take(data, from_front(node, indices, extent) - first, axis, y, "clip")  # they are in range: "raise" would take into a copy first

    return Program(f"{y.dtype.name}_gather_take", lambda scratch: run)


@builds("Cast")
def cast(piece: Piece) -> Program | None:
    """Whole numbers and truth values to float32 or float64: no value needs a second look."""
    x, y = piece.inputs[0], piece.outputs[0]
    if x.dtype.kind not in "iub" or y.dtype not in (np.float32, np.float64) or piece.residual is not None or piece.node.activation:
        return None
    return Program(f"{y.dtype.name}_cast_plain", lambda scratch: partial(np.copyto, y, x, casting="unsafe"))
