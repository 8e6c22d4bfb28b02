"""flops: the baseline that knows peak rates only, in the manner of muLayer."""

from __future__ import annotations

from dataclasses import dataclass

from ...graph.ir import Node
from ..plan import Partition, on_one_device
from .base import Partitioner, Situation, preferred_axis, register, share


@register
@dataclass(frozen=True)
class Flops(Partitioner):
    """Output channels divided by the ratio of the two units' peak GFLOP/s; another axis where the channel cannot be cut."""

    name = "flops"
    needs_profile = True
    objectives = ("latency",)

    def place(self, node: Node, situation: Situation) -> Partition:
        cpu, gpu = situation.profile.cpu, situation.profile.gpu
        ratio = gpu.peak_gflops / (gpu.peak_gflops + cpu.peak_gflops)
        axis = preferred_axis(node, "channel", "columns")
        if axis is None:
            return on_one_device(node, "gpu" if ratio > 0.5 else "cpu")
        return share(node, axis, ratio)
