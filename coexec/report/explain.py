"""Why a node is where a plan puts it: what that costs, piece by piece, and what everything else that could be done with the node would cost.

Each other way is put into the plan in this one's place, all other nodes kept as they are, and the whole run is played again: what a cut
is good for often shows only later, where somebody need not wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..cost.compose import HOST, CostModel, Estimate, Run
from ..errors import UsageError, suggest
from ..graph.ir import Graph, Node
from ..ops import op_for
from ..partition.halos import keep_halos
from ..partition.joins import joined
from ..partition.plan import Partition, Plan, cut, on_one_device, pieces
from ..partition.strategies.base import JOINED_NOTE, VIEW_NOTE
from ..partition.strategies.offers import places
from ..profiles import DeviceProfile


@dataclass(frozen=True)
class WayCost:
    """A way to place a node, in microseconds. gpu_us, cpu_us: its pieces in that company (None: no piece). launch_us: of the host, to start the
    GPU's piece. sync_us: the host stands still before its piece, for what the GPU has to finish. transform_us: bytes that change sides.
    run_ms: the whole run. alone_us: the node by itself, with a wait at its end.
    """

    label: str
    partition: Partition
    gpu_us: float | None
    cpu_us: float | None
    launch_us: float
    sync_us: float
    transform_us: float
    alone_us: float
    run_ms: float
    estimated: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        p = self.partition
        return {"label": self.label, "axis": p.axis, "bounds": list(p.bounds), "devices": list(p.devices), "halo": list(p.halo),
                "gpu_us": self.gpu_us, "cpu_us": self.cpu_us, "launch_us": self.launch_us, "sync_us": self.sync_us,
                "transform_us": self.transform_us, "alone_us": self.alone_us, "run_ms": self.run_ms, "estimated": self.estimated}


@dataclass(frozen=True)
class Explanation:
    """`ways`: the one chosen first, then the others, those of the quickest runs first."""

    name: str
    op_type: str
    why: str
    ways: tuple[WayCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"name": self.name, "op_type": self.op_type, "why": self.why, "ways": [w.to_dict() for w in self.ways]}


def explain(graph: Graph, plan: Plan, name: str, profile: DeviceProfile) -> Explanation:
    """Why that node of the plan is where it is. Raises UsageError where the prepared model has none of that name."""
    node = next((n for n in graph.nodes if n.name == name), None)
    if node is None:
        raise UsageError(f"cannot explain node '{name}': the prepared model has none such", hint=suggest(name, [n.name for n in graph.nodes]))
    cost, chosen = CostModel(profile), plan[name]
    others = [] if profile.gpu is None or _settled(node, chosen) else list(_others(graph, plan, node, cost))
    ways = [_priced(graph, plan, node, "chosen", chosen, cost), *(_priced(graph, plan, node, label, p, cost) for label, p in others)]
    ways[1:] = sorted(ways[1:], key=lambda w: w.run_ms)
    return Explanation(name, node.op_type, _why(ways, chosen, plan, profile), tuple(ways))


def _settled(node: Node, chosen: Partition) -> bool:
    """Whether nobody chose: there is one way only."""
    return chosen.note.startswith(("fallback", "gpu:", "empty")) or chosen.note in (VIEW_NOTE, JOINED_NOTE) or not node.is_static


def _others(graph: Graph, plan: Plan, node: Node, cost: CostModel) -> Iterator[tuple[str, Partition]]:
    """The runners-up: each side alone, the best other cut of the same axis, and the best of each other axis; by the whole run."""
    chosen = plan[node.name]
    most = plan.wishes.max_gpu_share
    for device in ("cpu", "gpu"):
        alone = on_one_device(node, device)
        if {*chosen.devices} != {device} and (device == HOST or most >= 1):
            yield f"{device} only", alone
    for axis in op_for(node).split_axes(node):
        cuts = [at for at in places(axis) if 0 < at <= most * axis.extent] if axis.extent > axis.multiple else []
        ways = [cut(node, axis, (0, at, axis.extent), ("gpu", HOST)) for at in cuts]
        ways = [w for w in ways if (w.axis, w.bounds, w.devices) != (chosen.axis, chosen.bounds, chosen.devices)]
        cost.prepare([(node, device, [region]) for way in ways for device, region in pieces(node, way)])
        if ways:
            best = min(ways, key=lambda w: _total_us(graph, plan, w, cost))
            yield "other cut" if axis.name == chosen.axis and len(set(chosen.devices)) > 1 else f"by {axis.name}", best


def _instead(plan: Plan, partition: Partition) -> list[Partition]:
    return [partition if p.name == partition.name else p for p in plan.partitions]


def _total_us(graph: Graph, plan: Plan, partition: Partition, cost: CostModel) -> float:
    return cost.total_us(graph, keep_halos(graph, _instead(plan, partition)))


def _priced(graph: Graph, plan: Plan, node: Node, label: str, partition: Partition, cost: CostModel) -> WayCost:
    partitions = keep_halos(graph, _instead(plan, partition))
    parts = [pieces(n, p) for n, p in zip(graph.nodes, partitions)]
    run = Run(cost, not any(d != HOST for ps in parts for d, _ in ps), joined(graph))
    found: dict[str, Any] = {}
    for other, these in zip(graph.nodes, parts):
        before_us = run.host
        visit = run.step(other, these)
        if other is node and visit.pieces:
            gpu_us, cpu_us = run.times(node, these)
            crossed_us = (cost.crossing_us("gpu", visit.crossed_gpu), cost.crossing_us(HOST, visit.crossed_cpu))
            launch_us = cost.profile.gpu.launch_us if gpu_us is not None else 0.0
            up_us = cost.move_us(visit.upload_bytes, visit.upload_bytes > 0)
            down_us = cost.move_us(visit.download_bytes, visit.download_bytes > 0)
            worked_us = (cpu_us + crossed_us[1] if cpu_us is not None else 0.0) + launch_us + up_us + down_us
            found = {"gpu_us": gpu_us, "cpu_us": cpu_us, "launch_us": launch_us, "sync_us": max(0.0, run.host - before_us - worked_us),
                     "transform_us": up_us + down_us + sum(crossed_us)}
    alone = Estimate(0.0, False) if node in joined(graph) else cost.node(node, partition, run.unit != HOST)
    empty = {"gpu_us": None, "cpu_us": None, "launch_us": 0.0, "sync_us": 0.0, "transform_us": 0.0}
    return WayCost(label, replace(partition, halo=partitions[graph.nodes.index(node)].halo), **(found or empty), alone_us=alone.us,
                   run_ms=run.end(graph) / 1e3, estimated=alone.estimated)


def _why(ways: list[WayCost], chosen: Partition, plan: Plan, profile: DeviceProfile) -> str:
    """One sentence."""
    if profile.gpu is None:
        return "the profile has no GPU"
    if len(ways) == 1:
        return f"there is no choice: {chosen.note or 'it cannot be cut'}"
    told = f"as asked for: {chosen.note}; " if chosen.note == "forced" else ""
    best, mine = ways[1], ways[0]
    gap_us = (best.run_ms - mine.run_ms) * 1e3
    if gap_us >= 0:
        return f"{told}the next best, {best.label} ({best.partition}), makes the run {gap_us:.1f} us longer"
    if plan.wishes.objective != "latency":
        return f"{told}for the sake of {plan.wishes.objective}: {best.label} ({best.partition}) would make the run {-gap_us:.1f} us shorter"
    shorter = f"{told}{best.label} ({best.partition}) would make the run {-gap_us:.1f} us shorter"
    if plan.strategy.partition(":")[0] == "coexec":  # what it gives for a wait less, its option says
        return (f"{shorter}: strategy '{plan.strategy}' did not look at it, or prefers fewer waits, or one unit alone where an emulated GPU gains "
                "little (coexec:fewer_waits=0,least_gain=0 does not)")
    return f"{shorter}: strategy '{plan.strategy}' did not look at it or weighs otherwise"
