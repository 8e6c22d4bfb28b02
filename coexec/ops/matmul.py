"""MatMul: products of stacks of matrices, as numpy.matmul defines them; after fusion, with a bias as third operand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region
from .base import Op, SplitAxis, register
from .sliding import widened

NUMBERS = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint32, np.uint64)


def aligned_region(shape: Sequence[int], out_region: Region) -> Region:
    """What a piece reads of a tensor of `shape` that is broadcast over the output: its own extent-1 axes whole, the others cut alike."""
    tail = out_region[len(out_region) - len(shape):]
    return Region([Interval(0, 1) if n == 1 and cut.size else cut if n != 1 else Interval(0, 0) for n, cut in zip(shape, tail)])


def larger_first(*axes: SplitAxis) -> tuple[SplitAxis, ...]:
    """Those axes that have room for a cut, the longest first."""
    return tuple(sorted((a for a in axes if a.extent >= 2), key=lambda a: -a.extent))


@register
class MatMul(Op):
    """A (..., M, K) @ B (..., K, N) [+ bias] -> Y (..., M, N); axes "rows", "columns", and "batch" and "heads" of the stack."""

    op_types = ("MatMul",)

    def declines(self, node: Node) -> str | None:
        return None if node.output.dtype in NUMBERS else f"MatMul of {node.output.dtype} is not computed here"

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        shape, stack = node.output.shape, _stack_rank(node)
        rows = [SplitAxis("rows", stack, shape[stack])] if len(node.inputs[0].shape) > 1 else []
        columns = [SplitAxis("columns", len(shape) - 1, shape[-1])] if len(node.inputs[1].shape) > 1 else []
        names = {1: ("batch",), 2: ("batch", "heads")}.get(stack) or tuple(f"axis{d}" for d in range(stack))
        stacked = larger_first(*(SplitAxis(n, d, shape[d]) for d, n in enumerate(names)))
        flat = larger_first(*rows, *columns)
        # A stack on both sides is cut without reading anything twice; one matrix shared by a stack is better cut itself.
        return (*stacked, *flat) if len(node.inputs[1].shape) > 2 else (*flat, *stacked)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        a, b = node.inputs[0].shape, node.inputs[1].shape
        stack = _stack_rank(node)
        outer = Region(out_region[:stack])
        depth = [Interval(0, a[-1])]
        rows = [out_region[stack]] if len(a) > 1 else []
        columns = [out_region[-1]] if len(b) > 1 else []
        regions = (Region([*aligned_region(a[:-2], outer), *rows, *depth]), Region([*aligned_region(b[:-2], outer), *depth, *columns]))
        bias = node.operand(2)
        return regions if bias is None else (*regions, aligned_region(bias.shape, out_region))

    def flops(self, node: Node, out_region: Region) -> float:
        return out_region.size * (2.0 * node.inputs[0].shape[-1] + (node.operand(2) is not None))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        if not out_region.size:
            return [np.empty(out_region.shape, node.output.dtype)]
        y = np.asarray(np.matmul(widened(inputs[0]), widened(inputs[1])))
        if len(inputs) > 2 and inputs[2] is not None:
            y = y + widened(inputs[2])
        return [np.asarray(y, node.output.dtype)]


def _stack_rank(node: Node) -> int:
    """Number of leading output axes that are neither rows nor columns."""
    return max(len(node.inputs[0].shape), len(node.inputs[1].shape), 2) - 2
