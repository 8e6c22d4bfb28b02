"""greedy: CoDL's planner (MobiSys'22): the best dimension and ratio of every operator by itself, then chains grown from each head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...cost.compose import CostModel
from ...errors import UsageError
from ...graph.ir import Graph, Node
from ...ops.base import SplitAxis, axes_of
from ..plan import Partition, on_one_device, pieces
from .base import Partitioner, Situation, register, share

#: Hybrid dimension: rows of the image, or output channels; matrices have rows and columns in their place.
DIMENSIONS = ("height", "channel", "rows", "columns", "width", "batch")


class _Own(NamedTuple):
    """An operator by itself: its best partition, that one's microseconds, the axis and the GPU's share (0 or 1: one device)."""

    partition: Partition
    us: float
    axis: SplitAxis | None
    ratio: float


@register
@dataclass(frozen=True)
class Greedy(Partitioner):
    """Every operator gets the dimension and ratio that make it fastest by itself, launch, transfer and wait included; then, from each
    head, operators that follow take over the head's dimension and ratio, so that they need not wait for one another, for as long as
    the predicted gain is not negative.

    `steps`: ratios tried between 0 and 1. `window`: how far a chain's ratio may lie from its head's own best (CoDL: 0.3).
    CoDL computes the halo of a whole chain twice; here a piece that needs its neighbour's rows waits for them, and computes none twice.
    """

    name = "greedy"
    needs_profile = True
    objectives = ("latency",)
    steps: int = 20
    window: float = 0.3

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= 1000:
            raise UsageError("option 'steps' of strategy 'greedy' is wrong", found=self.steps, expected="a whole number from 2 to 1000")
        if not 0 <= self.window <= 1:
            raise UsageError("option 'window' of strategy 'greedy' is wrong", found=self.window, expected="a number from 0 to 1")

    def arrange(self, situation: Situation) -> list[Partition]:
        graph, cost = situation.graph, situation.cost
        settled = {n: s for n in graph.nodes if (s := situation.settled(n)) is not None}
        self._prepare(graph, cost, settled)
        own = {n: self._own(n, cost) for n in graph.nodes if n not in settled}
        chosen = {n: o.partition for n, o in own.items()}
        after, taken = followers(graph), set()
        for head in graph.nodes:
            if head in taken or head not in own or own[head].axis is None or not 0 < own[head].ratio < 1:
                continue
            chain = self._grow(head, own, after, cost, taken)
            if len(chain) > 1:
                chosen.update(chain)
                taken.update(chain)
        return [settled.get(n) or chosen[n] for n in graph.nodes]

    def _ratios(self) -> list[float]:
        return [n / self.steps for n in range(1, self.steps)]

    def _prepare(self, graph: Graph, cost: CostModel, settled: dict[Node, Partition]) -> None:
        """Prices every piece that may be asked for, in one batch."""
        wanted = []
        for node in graph.nodes:
            if node in settled:
                continue
            ways = [on_one_device(node, d) for d in ("cpu", "gpu")]
            ways += [share(node, axis, r) for axis in axes(node, cost) for r in self._ratios()]
            wanted += [(node, device, [region]) for way in ways for device, region in pieces(node, way)]
        cost.prepare(wanted)

    def _own(self, node: Node, cost: CostModel) -> _Own:
        """CoDL's T_transform + T_map + T_sync + max(T_cpu, T_gpu), at its least over dimensions and ratios."""
        best = min((_Own(p, cost.node(node, p).us, None, r) for r, p in ((0.0, on_one_device(node, "cpu")), (1.0, on_one_device(node, "gpu")))),
                   key=lambda o: o.us)
        for axis in axes(node, cost):
            for ratio in self._ratios():
                partition = share(node, axis, ratio)
                if len(partition.devices) == 2 and 0 < partition.bounds[1] < axis.extent:
                    us = cost.node(node, partition).us
                    if us < best.us:
                        best = _Own(partition, us, axis, partition.bounds[1] / axis.extent)
        return best

    def _grow(self, head: Node, own: dict[Node, _Own], after: dict[Node, Node], cost: CostModel, taken: set[Node]) -> dict[Node, Partition]:
        """The chain from that head with the largest gain over its members by themselves, over the ratios of the window."""
        best, gain = {head: own[head].partition}, 0.0
        for ratio in self._ratios():
            if abs(ratio - own[head].ratio) > self.window:
                continue
            chain: dict[Node, Partition] = {}
            gpu_us = cpu_us = apart_us = longest = 0.0
            members: dict[Node, Partition] = {}
            node: Node | None = head
            while node is not None and node in own and node not in taken:
                axis = next((a for a in axes(node, cost) if a.name == own[head].axis.name), None)
                partition = None if axis is None else share(node, axis, ratio)
                if partition is None or not 0 < partition.bounds[1] < axis.extent:
                    break
                for device, region in pieces(node, partition):
                    us = cost.kernel(node, region, device).us * cost.busy(node, region, device)
                    gpu_us, cpu_us = (gpu_us + us, cpu_us) if device == "gpu" else (gpu_us, cpu_us + us)
                members[node] = partition
                apart_us += own[node].us
                gpu = cost.profile.gpu
                cpu_total = cpu_us + len(members) * gpu.launch_us  # the host starts every piece, and waits once
                gained = apart_us - (max(gpu_us, cpu_total) + gpu.sync_us)
                if gained < longest:
                    break
                longest, chain = gained, dict(members)
                node = after.get(node)
            if longest > gain:
                best, gain = chain, longest
        return best


def axes(node: Node, cost: CostModel) -> list[SplitAxis]:
    """The dimensions that may be cut, CoDL's first."""
    found = [a for a in axes_of(node) if a.extent > a.multiple and a.name in DIMENSIONS]
    return sorted(found, key=lambda a: DIMENSIONS.index(a.name))[:2]


def followers(graph: Graph) -> dict[Node, Node]:
    """For each node whose output one node alone reads: that node."""
    readers: dict[object, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None and not value.is_constant:
                readers.setdefault(value, []).append(node)
    outputs = set(graph.outputs)
    return {n: readers[n.output][0] for n in graph.nodes if n.output is not None and n.output not in outputs
            and len(set(map(id, readers.get(n.output, [])))) == 1}
