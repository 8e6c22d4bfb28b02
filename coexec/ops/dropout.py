"""Dropout: a view outside training; with a mask, or where it may be in training, an operator that draws random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, SplitAxis, register
from .operands import every_axis, foreign_type
from .views import View


def may_train(node: Node) -> bool:
    """False where the node is known to pass its input on."""
    training = node.operand(2)
    return training is not None and (training.data is None or bool(training.data.any()))


@register
class Dropout(View):
    """Passes its input on, as it does outside training; `form` gives the other forms."""

    op_types = ("Dropout",)

    def declines(self, node: Node) -> str | None:
        if reason := foreign_type(node):
            return reason
        if may_train(node) and node.attr("seed") is None:
            return "it may be in training, and without a seed nobody could tell its random numbers again"
        if may_train(node) and not 0 <= int(node.attr("seed")) < 2**32:
            return "its seed has more than 32 bits"
        return None

    def form(self, node: Node) -> Op:
        return MASKED if may_train(node) or any(v is not None for v in node.outputs[1:]) else self


class MaskedDropout(Op):
    """Y and, where it is wanted, the mask: in training each element is kept, divided by 1 - ratio, where its random number is at
    least the ratio. ONNX prescribes no generator; this is its reference's, the Mersenne Twister as NumPy's RandomState(seed) uses it.

    Whole in training, since each number follows from all before it. Not registered: Dropout is.
    """

    op_types = ("Dropout",)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return () if may_train(node) else every_axis(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region, *(None if v is None else Region.whole(v.shape) for v in node.operands[1:]))

    def output_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return tuple(None if v is None else out_region for v in node.outputs)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x, ratio, training = (*inputs, None, None)[:3]
        ratio = np.float32(0.5) if ratio is None else ratio.reshape(())[()]
        mask = np.ones(x.shape, bool)
        if training is not None and training.any() and ratio != 0:
            mask = np.random.RandomState(int(node.attr("seed"))).uniform(0, 1, x.shape) >= ratio
            with np.errstate(all="ignore"):
                wide = np.float64 if ratio.dtype == np.float64 else np.float32
                x = (mask * x * (1 / (1 - wide(ratio)))).astype(x.dtype)
        return [x, *(None if v is None else mask for v in node.outputs[1:])]


MASKED = MaskedDropout()
