"""Operators outside the fast set: computed whole, on the CPU, by onnx's reference implementation, reached through the node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import Op


class Fallback(Op):
    """Not registered under any type: `op_for` answers it where nothing else fits."""

    def output_regions(self, node: Node, out_region: Region | None) -> tuple[Region | None, ...]:
        return tuple(None if v is None else Region.whole(v.shape) for v in node.outputs)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region | None) -> list[np.ndarray | None]:
        return node.origin.evaluate(inputs)

    def run(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region | None) -> list[np.ndarray | None]:
        return self.compute(node, inputs, out_region)

    def run_whole(self, node: Node, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        return self.compute(node, inputs, None)


FALLBACK = Fallback()


def is_fallback(op: Op) -> bool:
    return isinstance(op, Fallback)
