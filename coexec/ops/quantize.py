"""QuantizeLinear and DequantizeLinear: real numbers as whole ones, by a scale and a zero point for all or for each of a channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node, Value
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis

#: Types of whole numbers that are quantized to.
KINDS = frozenset({np.dtype(t) for t in (np.uint8, np.int8, np.uint16, np.int16)})


class _Linear(Op):
    """What both share: constant scales of float32, one or one a channel; cut on every axis."""

    def declines(self, node: Node) -> str | None:
        whole, real = self._sides(node)
        if real.dtype != np.float32 or whole.dtype not in KINDS and not (node.op_type == "DequantizeLinear" and whole.dtype == np.int32):
            return f"from {node.operands[0].dtype} to {node.output.dtype}"
        if node.attr("block_size", 0) or node.attr("precision", 0) not in (0, 1):
            return "blocks, or another precision than float32"
        for value in node.operands[1:]:
            if value is not None and not (value.is_constant and (value.type.size == 1 or len(value.shape) == 1)):
                return f"%{value.name} is not constant, or has several axes"
        return "a scale that is not float32" if node.operands[1].dtype != np.float32 else None

    def _sides(self, node: Node) -> tuple[Value, Value]:
        """The value of whole numbers, and that of real ones."""
        raise NotImplementedError

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region, *(None if v is None else self._part(node, v, out_region) for v in node.operands[1:]))

    @staticmethod
    def _part(node: Node, value: Value, out_region: Region) -> Region:
        if value.type.size == 1:
            return Region.whole(value.shape)
        return Region([out_region[axes_of(len(out_region), (node.attr("axis", 1),))[0]]])

    @staticmethod
    def _shaped(node: Node, array: np.ndarray | None, rank: int) -> np.ndarray | np.float32:
        """Scales or zero points as they are spread over a piece, in float32."""
        if array is None or array.size == 1:
            return np.float32(0 if array is None else array.reshape(()))
        axis = axes_of(rank, (node.attr("axis", 1),))[0]
        return array.reshape([-1 if d == axis else 1 for d in range(rank)]).astype(np.float32)


@register
class QuantizeLinear(_Linear):
    """round(x / scale) + zero point, halves to even, within the type's range."""

    op_types = ("QuantizeLinear",)

    def _sides(self, node: Node) -> tuple[Value, Value]:
        return node.output, node.operands[0]

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x, dtype = inputs[0], node.output.dtype
        scale, zero = (self._shaped(node, a, x.ndim) for a in (inputs[1], inputs[2] if len(inputs) > 2 else None))
        found = np.rint(x / scale)
        found += zero
        return [np.clip(found, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)]


@register
class DequantizeLinear(_Linear):
    """(x - zero point) * scale."""

    op_types = ("DequantizeLinear",)

    def _sides(self, node: Node) -> tuple[Value, Value]:
        return node.operands[0], node.output

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = inputs[0]
        scale, zero = (self._shaped(node, a, x.ndim) for a in (inputs[1], inputs[2] if len(inputs) > 2 else None))
        return [(x.astype(np.float32) - zero) * scale]
