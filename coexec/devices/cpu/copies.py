"""Operators that only copy: Concat, Split, Slice and Expand of any type, and a Gather of one known index, as a list of blocks of memory."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic

from ...ops.gather import from_front
from ...ops.operands import axes_of
from .build import Piece, Program, builds
from .jit import kernel
from .rows import as_rows

#: Blocks shorter than so many bytes are left to NumPy where there are more of them than that: it begins late, but is quicker by the element.
SHORTEST, MOST_SHORT = 16, 256


@builds("Concat", "Split", "Slice", "Expand")
def copy(piece: Piece) -> Program | None:
    """What the operator says of views is a view, too: each part of it is copied where it belongs."""
    node = piece.node
    if node.residual or node.activation or any(a is None for a in piece.outputs):
        return None
    y = piece.outputs[0]
    if node.op_type == "Concat":
        axis, at, pairs = node.attr("axis") % y.ndim, 0, []
        for x in piece.inputs:
            pairs.append((y[(slice(None),) * axis + (slice(at, at + x.shape[axis]),)], x))
            at += x.shape[axis]
    else:
        pairs = list(zip(piece.outputs, piece.op.compute(node, piece.inputs, piece.region)))
    return copied(f"{y.dtype.name}_{node.op_type.lower()}", pairs)


@builds("Gather")
def copy_entry(piece: Piece) -> Program | None:
    """One constant index."""
    data, indices, y, node = piece.inputs[0], piece.inputs[1], piece.outputs[0], piece.node
    if piece.constant(1) is None or indices.size != 1:
        return None
    axis = axes_of(data.ndim, (node.attr("axis", 0),))[0]
    at = int(from_front(node, indices, node.operands[0].shape[axis]).reshape(())) - piece.regions[0][axis].start
    entry = np.squeeze(data[(slice(None),) * axis + (slice(at, at + 1),)], axis)  # a view: an index of a vector makes a copy
    return copied(f"{y.dtype.name}_gather_copy", [(y, np.expand_dims(entry, tuple(range(axis, axis + indices.ndim))))])


def copied(name: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Program:
    """Copies the second of each pair into the first, without Python where they lie in blocks."""
    pairs = [(into, x) for into, x in pairs if into.size]
    tables = [blocks(into, x) for into, x in pairs]
    if all(table is not None for table in tables):
        table = np.concatenate([np.empty(0, np.int64), *tables])
        return Program(name, lambda scratch, held=pairs: partial(copy_blocks, table))  # who keeps this keeps the memory

    def run() -> None:
        for into, x in pairs:
            np.copyto(into, x)

    return Program(name, lambda scratch: run)


def blocks(into: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    """Of each block of memory that is copied whole: from which address, to which, and how many bytes. None where they would be many short ones."""
    rows = as_rows(x, into) if into.dtype == x.dtype and into.dtype != object else None
    if rows is None or rows.steps not in ((1, 1), (0, 0)) or rows.steps == (0, 0) and rows.length > 1:
        return None
    nbytes = rows.length * x.itemsize
    if nbytes < SHORTEST and rows.count > MOST_SHORT:
        return None
    table = np.empty((rows.count, 3), np.int64)
    table[:, :2] = rows.offsets.reshape(-1, 2) * x.itemsize + (x.__array_interface__["data"][0], into.__array_interface__["data"][0])
    table[:, 2] = nbytes
    return table.reshape(-1)


@intrinsic
def _copy(typingctx, source, target, nbytes):
    """Bytes from one address to another."""
    def codegen(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(builder, builder.inttoptr(args[1], byte), builder.inttoptr(args[0], byte), args[2], 1)
        return context.get_dummy_value()
    return types.none(types.int64, types.int64, types.int64), codegen


@kernel
def copy_blocks(table):
    for i in range(0, table.size, 3):
        _copy(table[i], table[i + 1], table[i + 2])
