"""Operators that only rename memory, where they must copy after all: Reshape and its kin, Identity, and constants."""

from __future__ import annotations

import numpy as np

from .builder import ClOperand, Compile, builds, ctype, int8
from .nd import as_bits, collapse, copy


@builds("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", narrow=True)
def build(c: Compile) -> None:
    """The input's piece and the output's hold the same elements in the same order, in boxes of different shapes."""
    x, y = c.input(0), c.output()
    c.implementation = f"b{8 * x.dtype.itemsize}_{c.node.op_type.lower()}_copy"
    relayout(c, x, y)


def relayout(c: Compile, x: ClOperand, y: ClOperand) -> None:
    """Enqueues a copy in row-major order between windows of the same size and different shapes."""
    shapes = _common(x, y)
    if shapes is not None:
        copy(c, *shapes)
        return
    (x_shape, (x_strides,)), (y_shape, (y_strides,)) = collapse(x.shape, x.strides), collapse(y.shape, y.strides)
    c.launch(["place.clh", "relayout.cl"], "relayout", {"T": ctype(as_bits(y).dtype), "RANK": 8}, (y.size,), (16,),
             as_bits(x), int8(x_shape, 1), int8(x_strides), as_bits(y), int8(y_shape, 1), int8(y_strides), np.int32(y.size))


def _common(x: ClOperand, y: ClOperand) -> tuple[ClOperand, ClOperand] | None:
    """Both windows under one shape, the coarsest that refines both; None where there is none."""
    left = [(e, s) for e, s in zip(x.shape, x.strides) if e != 1]
    right = [(e, s) for e, s in zip(y.shape, y.strides) if e != 1]
    dims: list[tuple[int, int, int]] = []
    while left and right:
        (a, s), (b, t) = left.pop(), right.pop()
        if max(a, b) % min(a, b):
            return None
        inner = min(a, b)
        dims.append((inner, s, t))
        if a > inner:
            left.append((a // inner, s * inner))
        if b > inner:
            right.append((b // inner, t * inner))
    shape, strides, targets = zip(*reversed(dims)) if dims else ((), (), ())
    return (ClOperand(x.handle, x.dtype, tuple(shape), tuple(strides), x.offset, x.owner),
            ClOperand(y.handle, y.dtype, tuple(shape), tuple(targets), y.offset, y.owner))


@builds("Constant", "ConstantOfShape", "Shape", "Size", "EyeLike", "Range")
def build_known(c: Compile) -> None:
    """What is known when the model is compiled is uploaded and copied."""
    c.implementation = f"b{8 * c.node.output.dtype.itemsize}_{c.node.op_type.lower()}_copy"
    arrays = [None if v is None else v.data if v.is_constant else np.broadcast_to(np.zeros((), v.dtype), v.shape) for v in c.node.operands]
    pieces = [a if a is None or r is None else a[r.slices] for a, r in zip(arrays, c.in_regions)]
    found = np.asarray(c.op.compute(c.node, pieces, c.region)[0])
    if found.size:
        copy(c, c.constant(found, (c.node, tuple(c.region))), c.output())
