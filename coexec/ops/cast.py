"""Cast and CastLike: elements in another type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Region
from .base import register
from .elementwise_unary import Unary
from .narrow import cast
from .operands import foreign_type, touch


@register
class Cast(Unary):
    """A cast to the output's type: any of NumPy's, and the narrow ones; neither from nor to strings."""

    op_types = ("Cast",)

    def declines(self, node: Node) -> str | None:
        return foreign_type(node, narrow=True)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        return [cast(inputs[0], node.output.dtype, bool(node.attr("saturate", 1)), node.attr("round_mode", "up"))]

    def flops(self, node: Node, out_region: Region) -> float:
        return float(out_region.size)


@register
class CastLike(Cast):
    """A cast to the second input's type; of its elements none matters."""

    op_types = ("CastLike",)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region, touch(node.operands[1].shape))
