"""QuantizeLinear and DequantizeLinear by one scale, which is how activations are quantized: one pass over memory."""

from __future__ import annotations

from functools import partial

import numpy as np

from .build import Piece, Program, builds
from .jit import flat, kernel
from .rows import as_rows


@builds("QuantizeLinear", "DequantizeLinear")
def quantize(piece: Piece) -> Program | None:
    """Bytes from float32, or the other way, in rows that lie side by side."""
    x, y, node = piece.inputs[0], piece.outputs[0], piece.node
    whole = y if node.op_type == "QuantizeLinear" else x
    numbers = [piece.constant(i) if not piece.absent(i) else np.zeros(1) for i in (1, 2)]
    if whole.dtype not in (np.uint8, np.int8) or any(n is None or n.size != 1 for n in numbers) or piece.residual is not None or node.activation:
        return None
    rows = as_rows(x, y)
    if rows is None or rows.steps != (1, 1):
        return None
    scale, zero = (np.float32(n.reshape(())) for n in numbers)
    table = flat(x), flat(y), rows.offsets, rows.length, scale, zero
    name = f"f32_{node.op_type.lower()}_{whole.dtype.name}"
    if whole is x:
        return Program(name, lambda scratch: partial(dequantize_rows, *table))
    limits = np.iinfo(y.dtype)
    return Program(name, lambda scratch: partial(quantize_rows, *table, np.float32(limits.min), np.float32(limits.max)))


@kernel(fastmath=False)
def quantize_rows(x, y, offsets, length, scale, zero, low, high):
    """A quotient's last bit decides which way a half is rounded: nothing here is reordered. What is no number is the least."""
    for i in range(0, offsets.size, 2):
        source, target = np.uint64(offsets[i]), np.uint64(offsets[i + 1])  # indices that cannot be negative become vectors
        for j in range(np.uint64(length)):
            value = np.rint(x[source + j] / scale) + zero
            value = value if value > low else low
            value = value if value < high else high
            y[target + j] = np.int32(value)


@kernel(fastmath=False)
def dequantize_rows(x, y, offsets, length, scale, zero):
    for i in range(0, offsets.size, 2):
        source, target = np.uint64(offsets[i]), np.uint64(offsets[i + 1])
        for j in range(np.uint64(length)):
            y[target + j] = (np.float32(x[source + j]) - zero) * scale
