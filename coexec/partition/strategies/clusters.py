"""clusters: plans over three devices, two clusters of CPU cores and the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...cost.compose import CostModel
from ...cost.corrections import Corrections
from ...errors import UsageError
from ...graph.ir import Graph, Node
from ...ops import op_for
from ...ops.base import SplitAxis, axes_of
from ...ops.fallback import is_fallback
from ...profiles import DeviceProfile, Latency, UnitProfile
from ...regions import Region
from ..plan import Partition, Plan, cut, pieces
from ..wishes import Wishes
from .base import FORCED_NOTE, Judge, Judging, Partitioner, Supports, register
from .coexec import Coexec

LITTLE = "little"
#: So many plans are judged at most while pieces are taken from and given to the second cluster.
JUDGED = 160
#: A change must make the plan faster by this share.
WORTH = 1e-4
NO_WISHES = Wishes()


@register
@dataclass(frozen=True)
class Clusters(Partitioner):
    """The best of all plans for two of the board's processors (`coexec`), and of plans in which the second cluster shares the work of the first.

    Plans for more than two devices are judged by simulating them. Never predicted worse than the best plan for two: that is among the
    candidates. On a board without a second cluster: what `coexec` plans.
    """

    name = "clusters"
    needs_profile = True

    def plan(self, graph: Graph, profile: DeviceProfile | None = None, supports: Supports | None = None, *, wishes: Wishes = NO_WISHES,
             corrections: Corrections | None = None, judging: Judging | None = None) -> Plan:
        if profile is None or judging is None:
            raise UsageError(f"strategy '{self.name}' needs a device profile, and somebody to judge its plans", hint="use `coexec.plan`")
        if profile.little is None:
            return replace(Coexec().plan(graph, profile, supports, wishes=wishes, corrections=corrections, judging=judging), strategy=self.spec)
        cost = CostModel(profile)
        judge = judging(graph, cost)
        pairs = [self._named(Coexec().plan(graph, board, accepts, wishes=wishes, corrections=corrections, judging=judging), names, profile)
                 for board, names, accepts in _pairs(graph, profile, supports)]
        shared = [Coexec().plan(graph, _merged(profile), supports, wishes=wishes, judging=judging), *(p for p in pairs if LITTLE not in p.devices)]
        best = min(pairs, key=judge)
        us = judge(best)
        for plan in shared:
            candidate = self._shared(graph, cost, plan, judge)
            if (took := judge(candidate)) < (1 - WORTH) * us:
                best, us = candidate, took
        return self._finished(graph, cost, best, us, profile)

    @staticmethod
    def _named(plan: Plan, names: Mapping[str, str], profile: DeviceProfile) -> Plan:
        """A plan for two, told in the board's own words."""
        told = tuple(replace(p, devices=tuple(names.get(d, d) for d in p.devices)) for p in plan.partitions)
        return replace(plan, partitions=told, profile=profile.name)

    def _shared(self, graph: Graph, cost: CostModel, plan: Plan, judge: Judge) -> Plan:
        """The plan in which the second cluster takes a part of the first one's pieces, wherever that makes the whole faster."""
        offers = {n.name: shared for n in graph.nodes if (shared := _with_little(n, plan[n.name], cost)) is not None}
        everywhere = _with(plan, offers.values())
        now, us = min(((p, judge(p)) for p in (plan, everywhere)), key=lambda both: both[1])
        weights = sorted(offers, key=lambda name: -(plan[name].predicted_us or 0.0))
        for name in weights[:JUDGED]:
            other = offers[name] if now[name] is not offers[name] else plan[name]
            changed = _with(now, [other])
            if (took := judge(changed)) < (1 - WORTH) * us:
                now, us = changed, took
        return now

    def _finished(self, graph: Graph, cost: CostModel, plan: Plan, us: float, profile: DeviceProfile) -> Plan:
        """With what the board is called and what each node and the whole should take."""
        priced = []
        for node, partition in zip(graph.nodes, plan.partitions):
            parts = pieces(node, partition)
            costs = [cost.kernel(node, r, d) for d, r in parts] if node.is_static else []
            known = {"predicted_us": round(max(c.us for c in costs), 3), "estimated": any(c.estimated for c in costs)} if costs else {}
            priced.append(replace(partition, **known))
        board = {unit: section.name for unit in ("cpu", "gpu", LITTLE) if (section := getattr(profile, unit)) is not None}
        return replace(plan, partitions=tuple(priced), strategy=self.spec, profile=profile.name, board=board, predicted_ms=round(us / 1e3, 6),
                       gap=None)


def _pairs(graph: Graph, profile: DeviceProfile, supports: Supports | None) -> Iterable[tuple[DeviceProfile, dict[str, str], Supports | None]]:
    """The board as two processors of it see it, what they are called there, and what the far one cannot run."""
    plain = replace(profile, little=None)
    yield plain, {}, supports
    as_far = _far(profile.little, graph)
    yield replace(plain, gpu=as_far, cpu_alone=None), {"gpu": LITTLE}, None
    if profile.gpu is not None:
        yield replace(plain, cpu=profile.little, cpu_alone=None), {"cpu": LITTLE}, supports


def _far(section: UnitProfile, graph: Graph) -> UnitProfile:
    """A cluster as something that works beside the host: every operator, the host's own memory."""
    dtypes = {v.dtype.name for n in graph.nodes for v in (*n.inputs, *n.outputs) if v is not None and v.dtype is not None}
    return replace(section, operators=tuple(sorted({n.qualified_type for n in graph.nodes})), dtypes=tuple(sorted(dtypes)), transfer_gbs=None)


def _merged(profile: DeviceProfile) -> DeviceProfile:
    """Both clusters as one CPU that is as fast as both together."""
    cpu, little = profile.cpu, profile.little
    factor = cpu.peak_gflops / (cpu.peak_gflops + little.peak_gflops)
    latency = {name: _scaled(fit, factor) for name, fit in cpu.latency.items()}
    rate, wide = cpu.peak_gflops + little.peak_gflops, max(cpu.bandwidth_gbs, little.bandwidth_gbs)
    return replace(profile, cpu=replace(cpu, peak_gflops=rate, bandwidth_gbs=wide, latency=latency), cpu_alone=None, little=None)


def _scaled(fit: Latency, factor: float) -> Latency:
    return replace(fit, terms={name: us if name == "fixed_us" else us * factor for name, us in fit.terms.items()})


def _with(plan: Plan, others: Iterable[Partition]) -> Plan:
    changed = {p.name: p for p in others}
    return replace(plan, partitions=tuple(changed.get(p.name, p) for p in plan.partitions))


def _with_little(node: Node, partition: Partition, cost: CostModel) -> Partition | None:
    """The partition with the host's piece cut in two, the second cluster's part as large as it is fast; None where that gains nothing."""
    if not node.is_static or is_fallback(op_for(node)) or op_for(node).is_view or partition.note == FORCED_NOTE:
        return None
    best: tuple[float, Partition] | None = None
    for axis in _axes(node, partition):
        bounds, devices = (partition.bounds, partition.devices) if len(partition.devices) > 1 else ((0, axis.extent), ("cpu",))
        at = next((i for i, d in enumerate(devices) if d == "cpu"), None)
        if at is None or LITTLE in devices:
            return None
        start, stop = bounds[at], bounds[at + 1]
        whole = Region.whole(node.output.shape)
        alone = {unit: cost.kernel(node, whole.replace(axis.dim, (start, stop)), unit).us for unit in ("cpu", LITTLE)}
        units = round((stop - start) / axis.multiple * alone["cpu"] / max(1e-9, alone["cpu"] + alone[LITTLE]))
        middle = max(start, stop - units * axis.multiple)
        if not start < middle < stop or middle % axis.multiple:
            continue
        parts = {"cpu": (start, middle), LITTLE: (middle, stop)}
        took = max(cost.kernel(node, whole.replace(axis.dim, part), unit).us for unit, part in parts.items())
        if took < alone["cpu"] and (best is None or took < best[0]):
            inside: Sequence[int] = (*bounds[:at + 1], middle, *bounds[at + 1:])
            best = took, cut(node, axis, inside, (*devices[:at], "cpu", LITTLE, *devices[at + 1:]))
    return None if best is None else best[1]


def _axes(node: Node, partition: Partition) -> list[SplitAxis]:
    """Those that the host's piece may be cut along: the partition's own, or any where the node is whole."""
    axes = [a for a in axes_of(node) if a.extent > a.multiple]
    return axes if len(partition.devices) == 1 else [a for a in axes if a.name == partition.axis]
