"""Reshape, Flatten, Squeeze, Unsqueeze, Identity: the same elements in the same order under another shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op, register
from .operands import foreign_type, variable_among


@register
class View(Op):
    """Moves no element and cannot be cut; the shape is the output's."""

    op_types = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
    is_view = True

    def declines(self, node: Node) -> str | None:
        return foreign_type(node) or variable_among(node, {1: "shape" if node.op_type == "Reshape" else "axes"})

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        return [inputs[0].reshape(node.output.shape)]

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0
