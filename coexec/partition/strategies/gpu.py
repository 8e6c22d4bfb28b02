"""gpu: everything the GPU can run on the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from ...graph.ir import Node
from ..plan import Partition, on_one_device
from .base import Partitioner, Situation, register


@register
@dataclass(frozen=True)
class Gpu(Partitioner):
    """Every node whole on the GPU; what it cannot run goes to the CPU, with a note."""

    name = "gpu"

    @property
    def needs_gpu(self) -> bool:
        return True

    def place(self, node: Node, situation: Situation) -> Partition:
        return on_one_device(node, "gpu")
