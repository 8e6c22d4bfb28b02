"""cpu: everything on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from ...graph.ir import Node
from ..plan import Partition, on_one_device
from .base import Partitioner, Situation, register


@register
@dataclass(frozen=True)
class Cpu(Partitioner):
    """Every node whole on the CPU."""

    name = "cpu"

    @property
    def uses_gpu(self) -> bool:
        return False

    def place(self, node: Node, situation: Situation) -> Partition:
        return on_one_device(node, "cpu")
