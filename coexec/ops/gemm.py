"""Gemm: alpha * A' @ B' + beta * C on matrices, where A' and B' may be transposed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .matmul import NUMBERS, aligned_region, larger_first
from .sliding import widened


@register
class Gemm(Op):
    """A (M, K) or its transpose, B (K, N) or its transpose, C broadcast over (M, N) -> Y (M, N), axes "rows" and "columns"."""

    op_types = ("Gemm",)

    def declines(self, node: Node) -> str | None:
        if node.output.dtype not in NUMBERS:
            return f"Gemm of {node.output.dtype} is not computed here"
        if node.output.dtype.kind in "iu" and (node.attr("alpha", 1.0), node.attr("beta", 1.0)) != (1.0, 1.0):
            return "Gemm of integers scaled by alpha or beta is not computed here"
        return None

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        rows, columns = node.output.shape
        return larger_first(SplitAxis("rows", 0, rows), SplitAxis("columns", 1, columns))

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        a, b = Region.whole(node.inputs[0].shape), Region.whole(node.inputs[1].shape)
        a = a.replace(1 if node.attr("transA", 0) else 0, out_region[0])
        b = b.replace(0 if node.attr("transB", 0) else 1, out_region[1])
        c = node.operand(2)
        return (a, b, None if c is None else aligned_region(c.shape, out_region))[:len(node.operands)]

    def flops(self, node: Node, out_region: Region) -> float:
        depth = node.inputs[0].shape[0 if node.attr("transA", 0) else 1]
        return out_region.size * (2.0 * depth + (node.operand(2) is not None))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        a, b = widened(inputs[0]), widened(inputs[1])
        y = np.matmul(a.T if node.attr("transA", 0) else a, b.T if node.attr("transB", 0) else b)
        alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
        if alpha != 1.0:
            y *= y.dtype.type(alpha)
        if len(inputs) > 2 and inputs[2] is not None:
            c = widened(inputs[2])
            y += c if beta == 1.0 else c * c.dtype.type(beta)
        return [y.astype(node.output.dtype, copy=False)]
