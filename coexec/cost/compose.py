"""CostModel: what pieces, nodes and whole plans cost on a board, from its profile alone.

A node by itself costs max over its parts + launch + sync + transfer. A whole plan is played on two clocks, the host's and the
GPU's: the host starts GPU pieces and goes on, the GPU works through them in order, and the host stops only where `Flow` has a wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..ops.base import Op
from ..ops.fallback import is_fallback
from ..partition.chains import HOST, Access, Flow, Visit, access
from ..partition.joins import joined
from ..partition.plan import Partition, pieces
from ..profiles import DeviceProfile, UnitProfile
from ..regions import Region
from .cases import Case, joined_cases
from .contention import exposed, slower
from .corrections import Corrections
from .features import COLUMNS, family, features, features_of
from .geometry import Facts, bounds
from .kernels import cases
from .model import KernelModel, LatencyModel

#: The section of the CPU as plans that leave the GPU alone use it.
ALONE = "cpu_alone"

#: The share of the roofline that a kernel nobody measured is taken to reach.
ROOFLINE_SHARE = 0.5
#: An operator computed by onnx.reference: loops in Python and many passes over memory, at least this long and this slow.
FALLBACK_US, FALLBACK_GBS, FALLBACK_GFLOPS = 100.0, 0.5, 0.5
#: Reading what the other unit wrote, where a profile does not tell. 100 GB/s: convolutions of 0.5 to 1.4 MB on a core of an x86-64 server
#: took 0 to 10 us longer where another core had made their input than where they had made it themselves (2026-11, PoCL).
CROSSING_GBS = 100.0
_MFLOP, _MBYTE = COLUMNS.index("mflop"), COLUMNS.index("mbyte")


class Estimate(NamedTuple):
    """Microseconds; `estimated` where some of it is no measurement's fit but a rule of thumb."""

    us: float
    estimated: bool


class CostModel:
    """Costs on one board, as the profile's fits tell them, and as runs have corrected them.

    Answers are kept: a piece asked for twice, or of another node of the same kind and shapes, is computed once.
    """

    def __init__(self, profile: DeviceProfile, corrections: Corrections | None = None, *, contention: bool = True):
        self.contention = contention
        self.begin_us = profile.gpu.begin_us if profile.gpu is not None else 0.0
        if corrections is not None and profile.gpu is not None:
            seen = {k: v for k, v in vars(corrections.between).items() if v is not None}
            self.begin_us = seen.pop("begin_us", 0.0)
            profile = replace(profile, gpu=replace(profile.gpu, **seen))
        self.profile, self.corrections = profile, corrections
        self.units: dict[str, UnitProfile] = {"cpu": profile.cpu, **({"gpu": profile.gpu} if profile.gpu else {})}
        if profile.cpu_alone is not None:
            self.units[ALONE] = profile.cpu_alone
        if profile.little is not None:
            self.units["little"] = profile.little
        self.models = {unit: {name: LatencyModel.from_profile(fit, f"{profile.name}, {unit}.latency.{name}")
                              for name, fit in section.latency.items() if "/" not in name} for unit, section in self.units.items()}
        self.kernels = {unit: {name: KernelModel.from_profile(fit) for name, fit in section.latency.items() if "/" in name}
                        for unit, section in self.units.items()}
        self.estimates = {(unit, name) for unit, s in self.units.items() for name,
                          fit in s.latency.items() if fit.provenance == "estimated"}
        self.facts = {unit: Facts.of(section.facts, section.threads) for unit, section in self.units.items()}
        self.shared = profile.gpu is None or profile.gpu.transfer_gbs is None
        self._columns: dict[int, tuple[bytes, np.ndarray]] = {}
        self._kept: dict[tuple[int, str, Region], Estimate] = {}
        self._slow: dict[tuple[int, str, Region], float] = {}
        self._kinds: dict[Node, str] = {}
        self._likes: dict[Any, int] = {}
        self._like: dict[Node, int] = {}
        self._ops: dict[Node, Op] = {}
        self._access: dict[tuple[Node, Region], Access] = {}
        self._reach: dict[tuple[int, Region], tuple[Node, Access]] = {}

    def kernel(self, node: Node, region: Region, unit: str) -> Estimate:
        """The piece `region` of a node on a unit, by itself: no launch, no wait. Never zero, unless the piece is empty or a view."""
        key = (self.like(node), unit, region)
        found = self._kept.get(key)
        if found is None:
            self.prepare([(node, unit, [region])])
            found = self._kept[key]
        return found

    def busy(self, node: Node, region: Region, unit: str) -> float:
        """By how much the piece takes longer while the other unit works; at least 1."""
        key = (self.like(node), unit, region)
        if key not in self._slow:
            self.kernel(node, region, unit)
        return self._slow.get(key, 1.0)

    def waiting(self, node: Node, region: Region, unit: str) -> float:
        """How much of the piece's time waits for memory, 0 to 1 (`contention.exposed`); 0 where it is no kernel's."""
        asked = [(node, [bounds([region], len(region))])]
        far_mb = sum(float(np.sum(case.far_mb)) for case in cases(asked, "gpu" if unit == "gpu" else "cpu", self.facts[unit]))
        return float(exposed(np.array(far_mb), np.array(self.kernel(node, region, unit).us), self.units[unit].bandwidth_gbs))

    def op(self, node: Node) -> Op:
        """`op_for`, kept."""
        found = self._ops.get(node)
        if found is None:
            found = self._ops[node] = op_for(node)
        return found

    def like(self, node: Node) -> int:
        """A number that is the same for nodes of the same kind, attributes and shapes."""
        found = self._like.get(node)
        if found is None:
            told = (node.qualified_type, repr(sorted(node.attributes.items(), key=lambda kv: kv[0])), node.residual, node.activation,
                    tuple(None if v is None else (v.type, v.is_constant) for v in (*node.inputs, None, *node.outputs)),
                    node if is_fallback(self.op(node)) else None,
                    None if self.corrections is None else tuple(self.corrections.of(node.name, unit) for unit in self.units))
            found = self._like[node] = self._likes.setdefault(told, len(self._likes))
        return found

    def prepare(self, wanted: Iterable[tuple[Node, str, Sequence[Region]]]) -> None:
        """Computes the costs of many pieces (node, unit, regions) at once, for `kernel` to find: a batch for every kernel."""
        asked: dict[tuple[int, str], tuple[Node, dict[Region, None]]] = {}
        for node, unit, regions in wanted:
            like = self.like(node)
            for region in regions:
                if (like, unit, region) not in self._kept:
                    asked.setdefault((like, unit), (node, {}))[1][region] = None
        # A node's output may be of a known shape where an input's is not: the regions tell how many axes there are.
        asks = [(node, unit, [bounds(list(regions), len(next(iter(regions))))]) for (_, unit), (node, regions) in asked.items()]
        for ((like, unit), (_, regions)), (us, slow, rough) in zip(asked.items(), self.price(asks)):
            for region, *told in zip(regions, us.tolist(), rough.tolist(), slow.tolist()):
                key = like, unit, region
                self._kept[key], self._slow[key] = Estimate(told[0], told[1]), told[2]

    def keep(self, node: Node, unit: str, region: Region, us: float, slow: float, rough: float) -> None:
        """Makes what `price` said of a piece known to `kernel` and `busy`."""
        key = (self.like(node), unit, region)
        self._kept[key], self._slow[key] = Estimate(us, bool(rough)), slow

    def price(self, asks: Sequence[tuple[Node, str, Sequence[tuple[np.ndarray, np.ndarray]]]]) -> list[tuple[np.ndarray, ...]]:
        """For each (node, unit, [(starts, stops) of pieces, int64 (pieces, rank)]): microseconds, slow-down beside a busy other unit, and
        whether that is an estimate; arrays of one entry a piece, the parts one after another.
        """
        found, native = [], {}
        for node, unit, parts in asks:
            count = sum(len(start) for start, _ in parts)
            found.append((np.full(count, np.nan), np.ones(count), np.zeros(count, bool)))
            if self.kernels[unit] and self._what(node) not in ("dynamic", "view", "fallback") and node.output.type.size:
                native.setdefault(unit, []).append(((node, parts), found[-1]))
        for unit, members in native.items():
            whole = self._by_kernels(unit, [ask for ask, _ in members])
            ends = np.cumsum([len(answer[0]) for _, answer in members])[:-1]
            for column, told in enumerate(whole):
                for (_, answer), mine in zip(members, np.split(told, ends)):
                    answer[column][:] = mine
        for (node, unit, parts), (us, slow, rough) in zip(asks, found):
            start = np.concatenate([a for a, _ in parts])
            stop = np.concatenate([b for _, b in parts])
            us[(stop <= start).any(axis=1)] = 0.0
            left = np.flatnonzero(np.isnan(us))
            if len(left):
                us[left], rough[left] = self._simple(node, start[left], stop[left], unit)
            if self.corrections is not None:
                us *= self.corrections.alone if unit == ALONE else self.corrections.of(node.name, unit)
                slow[:] = 1.0  # the ratio was seen in company
        return found

    def _by_kernels(self, unit: str, asked: Sequence[tuple[Node, Sequence[tuple[np.ndarray, np.ndarray]]]]) -> tuple[np.ndarray, ...]:
        """`price` of native nodes by what is known of their kernels: one prediction of all pieces that one kernel computes. NaN where none is."""
        count = sum(len(start) for _, parts in asked for start, _ in parts)
        us, far_mb, rough = np.full(count, np.nan), np.zeros(count), np.zeros(count, bool)
        batches: dict[str, list[Case]] = {}
        for case in cases(asked, "gpu" if unit == "gpu" else "cpu", self.facts[unit]):
            far_mb[case.at] = case.far_mb
            if case.kernel in self.kernels[unit]:
                batches.setdefault(case.kernel, []).append(case)
        for name, members in batches.items():
            at, terms, sizes = joined_cases(members)
            us[at] = self.kernels[unit][name].predict(terms, sizes)
            rough[at] = (unit, name) in self.estimates
        section = self.units[unit]
        return us, slower(section.busy, exposed(far_mb, us, section.bandwidth_gbs)) if self.contention else np.ones(count), rough

    def _simple(self, node: Node, start: np.ndarray, stop: np.ndarray, unit: str) -> tuple[np.ndarray | float, np.ndarray | bool]:
        """Where no kernel of that name was measured: the family's line, else the roofline. Microseconds, and whether they are estimates."""
        what = self._what(node)
        if what == "dynamic":
            return FALLBACK_US, True
        if what == "view":
            return 0.0, False
        section, x = self.units[unit], self._features(node, start, stop)
        if what == "fallback":
            return FALLBACK_US + x[_MFLOP] / FALLBACK_GFLOPS * 1e3 + x[_MBYTE] / FALLBACK_GBS * 1e3, True
        roofline, model = section.launch_us + roofline_us(section, x[_MFLOP], x[_MBYTE]), self.models[unit].get(what)
        if model is None:
            return roofline, True
        us = sum(c * v for c, v in zip(model.weights_, x))
        return np.where(us > 0, us, roofline), np.where(us > 0, (unit, what) in self.estimates, True)

    def _features(self, node: Node, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """`features_of`, a row a column; the last answer is kept for each kind of node: both units ask for much the same pieces."""
        key = start.tobytes() + stop.tobytes()
        like = self.like(node)
        if self._columns.get(like, (None,))[0] != key:  # of a number the key is empty
            self._columns[like] = key, features_of(node, start, stop).T
        return self._columns[like][1]

    def _what(self, node: Node) -> str:
        """The node's family, or `dynamic`, `fallback` or `view`; kept."""
        found = self._kinds.get(node)
        if found is None:
            op = self.op(node)
            found = self._kinds[node] = ("dynamic" if not node.is_static else "fallback" if is_fallback(op) else "view" if op.is_view
                                         else family(node))
        return found

    def kernel_name(self, node: Node, region: Region, unit: str) -> str:
        """The kernel that the piece is taken to run by; "" where it is no kernel's."""
        if self._what(node) in ("dynamic", "view", "fallback"):
            return ""
        asked = [(node, [bounds([region], len(region))])]
        return next((case.kernel for case in cases(asked, "gpu" if unit == "gpu" else "cpu", self.facts[unit])), "")

    def access(self, node: Node, region: Region) -> Access:
        """`access`, kept; of nodes that are alike, the regions are worked out once."""
        key = (node, region)
        found = self._access.get(key)
        if found is None:
            kind = self.like(node), region
            known = self._reach.get(kind)
            if known is None:
                found = access(node, region, self.op(node))
                if len({*node.inputs}) == len(node.inputs):  # else one cannot tell which input was meant
                    self._reach[kind] = node, found
            else:
                found = _for(node, *known)
            self._access[key] = found
        return found

    def move_us(self, nbytes: float, moves: int) -> float:
        """What it takes to bring bytes from one memory to the other."""
        if self.shared or not moves:
            return 0.0
        return self.profile.gpu.map_us * moves + nbytes / (self.profile.gpu.transfer_gbs * 1e3)

    def crossing_us(self, unit: str, nbytes: Any) -> Any:
        """By how much longer a piece takes that reads so many bytes which the other unit wrote; nothing where memories are two."""
        if not self.shared or not self.contention or self.profile.gpu is None:
            return 0.0 * nbytes
        return nbytes / ((self.units[unit].crossing_gbs or CROSSING_GBS) * 1e3)

    def node(self, node: Node, partition: Partition, alone: bool = False) -> Estimate:
        """One node under a partition: max over its parts + launch + sync + transfer. `alone`: in a plan that leaves the GPU unused.

        A GPU piece is charged its launch; a node cut in two also the wait that joins them, and, where memories are two, its GPU piece's
        reads and writes; and what the two take from one another.
        """
        parts = pieces(node, partition)
        if self._what(node) == "view":
            return Estimate(0.0, False)
        costs = {d: self.kernel(node, r, self.host_unit(alone) if d == HOST else d) for d, r in parts}
        if not costs:
            return Estimate(0.0, False)
        estimated = any(c.estimated for c in costs.values())
        if "gpu" not in costs:
            return Estimate(max(c.us for c in costs.values()), estimated)
        gpu, region = self.profile.gpu, next(r for d, r in parts if d == "gpu")
        if len(costs) == 1:
            return Estimate(gpu.launch_us + costs["gpu"].us, estimated)
        us = gpu.launch_us + max(costs[d].us * self.busy(node, r, d) for d, r in parts) + gpu.sync_us
        return Estimate(us + self.move_us(0.0 if self.shared else features(node, region)[_MBYTE] * 1e6, 2), estimated)

    def host_unit(self, alone: bool) -> str:
        """Which section tells the host's times: plans without a GPU may use more threads."""
        return ALONE if alone and ALONE in self.units else HOST

    def total_us(self, graph: Graph, partitions: Sequence[Partition], extra_us: Mapping[str, float] | None = None) -> float:
        """The predicted time of a whole run; `extra_us`: by node, how much longer its GPU piece takes (`cost.images`)."""
        return self.played(graph, partitions, extra_us).end(graph)

    def least_us(self, graph: Graph, partitions: Sequence[Partition]) -> float:
        """What no run takes less than: the work of its busier side by itself, and the copies of what comes in and goes out."""
        parts, work = [pieces(n, p) for n, p in zip(graph.nodes, partitions)], {}  # type: ignore[var-annotated]
        unit, idle = self.host_unit(not any(d != HOST for ps in parts for d, _ in ps)), joined(graph)
        told = [(n, unit if d == HOST else d, r) for n, ps in zip(graph.nodes, parts) if n not in idle for d, r in ps]
        self.prepare([(n, u, [r]) for n, u, r in told])
        for node, where, region in told:
            work[where] = work.get(where, 0.0) + self.kernel(node, region, where).us
        return max(work.values(), default=0.0) + self.around_us(graph, unit)

    def around_us(self, graph: Graph, unit: str, pieces_far: int = 0) -> float:
        """What a run takes beside its pieces: the host's copies of inputs and outputs, each read once and written once, and what goes with
        beginning and ending. unit: the host's section; pieces_far: where no piece is the host's, how many the GPU has, else 0.
        """
        copied, section = sum(v.type.nbytes for v in (*graph.inputs, *graph.outputs) if v.type.is_static), self.units[unit]
        return 2 * copied / ((section.copy_gbs or section.bandwidth_gbs) * 1e3) + self.run_us(unit, pieces_far)

    def run_us(self, unit: str, pieces_far: int = 0) -> float:
        """`around_us` without the copies."""
        gpu = self.profile.gpu
        return gpu.run_us + gpu.run_piece_us * pieces_far if pieces_far and gpu is not None else self.units[unit].run_us

    def energy_uj(self, graph: Graph, partitions: Sequence[Partition]) -> float:
        """Microjoules of a whole run by the profile's power model. Raises UsageError where the profile has none."""
        run, power = self.played(graph, partitions), self.power
        return run.end(graph) * power.idle_w + run.cpu_us * power.cpu_w + run.gpu_us * power.gpu_w

    @cached_property
    def power(self) -> Power:
        """The profile's power model. Raises UsageError where there is none."""
        found = {name: self.profile.unit(name) for name in ("cpu", "gpu") if name in self.units}
        for name, unit in found.items():
            if unit.power_w is None:
                raise UsageError("the profile does not know what power this unit takes, which the objective 'energy' needs", where=self.profile.name,
                                 found=f"no {name}.power_w", expected="watts", hint="add power_w (while it works) and idle_w to cpu and gpu")
        idle = {name: unit.idle_w or 0.0 for name, unit in found.items()}
        more = {name: max(0.0, unit.power_w - idle[name]) for name, unit in found.items()}  # type: ignore[operator]
        return Power(sum(idle.values()), more["cpu"], more.get("gpu", 0.0))

    def memory_bytes(self, graph: Graph, partitions: Sequence[Partition]) -> int:
        """Bytes that a run needs, as modelled: every piece packs the constants that it reads; the most activations that live at once; and
        the second copies of values that both sides compute a part of.
        """
        packed = sum(self.packed_bytes(n, pieces(n, p)) for n, p in zip(graph.nodes, partitions))
        return packed + activation_bytes(graph)

    def packed_bytes(self, node: Node, parts: Sequence[tuple[str, Region]]) -> int:
        """Bytes of constants that the pieces of a node pack, each for itself, and of a second copy of its output where there is one."""
        if not node.is_static or is_fallback(self.op(node)):
            return sum(v.type.nbytes for v in node.inputs if v is not None and v.is_constant)
        total = 0
        for _, region in parts:
            total += sum(r.size * v.dtype.itemsize for v, r in zip(node.inputs, self.op(node).regions_read(node, region))
                         if v is not None and v.is_constant and r is not None)
        twice = len(parts) == 2 and (parts[0][1] & parts[1][1]).size > 0
        return total + (node.output.type.nbytes if twice else 0)

    def played(self, graph: Graph, partitions: Sequence[Partition], extra_us: Mapping[str, float] | None = None) -> Run:
        """A whole run, played."""
        parts = [pieces(n, p) for n, p in zip(graph.nodes, partitions)]
        run = Run(self, not any(d != HOST for ps in parts for d, _ in ps), joined(graph), extra_us)
        self.prepare([(n, run.unit if d == HOST else d, [r]) for n, ps in zip(graph.nodes, parts) for d, r in ps])
        for node, these in zip(graph.nodes, parts):
            run.step(node, these)
        return run


class Power(NamedTuple):
    """Watts: of both units while they do nothing, and how much more each takes while it works."""

    idle_w: float
    cpu_w: float
    gpu_w: float


def activation_bytes(graph: Graph) -> int:
    """The most bytes of activations that live at once, each from where it is made to where it is read last."""
    last = {v: i for i, n in enumerate(graph.nodes) for v in n.inputs if v is not None and not v.is_constant}
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    live = most = sum(v.type.nbytes for v in graph.inputs if v.type.is_static)
    ends: dict[int, int] = {}
    for value, at in last.items():
        if value.type.is_static:
            ends[at] = ends.get(at, 0) + value.type.nbytes
    for i, node in enumerate(graph.nodes):
        live += sum(v.type.nbytes for v in node.outputs if v is not None and v.type.is_static and v in last)
        most = max(most, live)
        live -= ends.get(i, 0)
    return most


class Run:
    """A plan being played on two clocks, in microseconds since the start; the meaning of what searches compute for many plans at once.

    `alone`: no piece will be on the GPU. `joined`: the graph's Concat nodes that need no work. Nothing here ends earlier because
    something before it ends later, so that a beginning of a plan that is behind in everything can be given up.
    """

    __slots__ = ("cost", "flow", "host", "gpu", "done", "unit", "cpu_us", "gpu_us", "extra_us", "together")

    def __init__(self, cost: CostModel, alone: bool = False, joined: frozenset[Node] = frozenset(), extra_us: Mapping[str, float] | None = None):
        self.cost, self.flow = cost, Flow(cost.shared, joined)
        self.unit, self.extra_us = cost.host_unit(alone), extra_us or {}
        self.host = self.gpu = 0.0
        self.cpu_us = self.gpu_us = 0.0  # how long each works
        self.together = False  # whether the host has a piece
        self.done: list[float] = [0.0]  # when each GPU piece ends, by its number

    def times(self, node: Node, parts: Sequence[tuple[str, Region]]) -> tuple[float | None, float | None]:
        """Microseconds of the GPU's and of the CPU's piece; each a little more where there are both."""
        cost, both, found = self.cost, len(parts) > 1, [None, None]
        for device, region in parts:
            unit = self.unit if device == HOST else device
            us = cost.kernel(node, region, unit).us * (cost.busy(node, region, unit) if both else 1.0)
            at = device == HOST
            found[at] = us if found[at] is None else found[at] + us
        return found[0], found[1]

    def step(self, node: Node, parts: Sequence[tuple[str, Region]]) -> Visit:
        """Plays one node: its GPU piece is started, then the host waits if it must, then the CPU piece runs."""
        cost = self.cost
        visit = self.flow.visit(node, parts, [cost.access(node, r) for _, r in parts])
        gpu_us, cpu_us = self.times(node, parts) if visit.pieces else (None, None)
        for device, _ in visit.pieces:
            if device != HOST:
                launch_us = cost.move_us(visit.upload_bytes, visit.upload_bytes > 0) + cost.profile.gpu.launch_us
                self.host += launch_us
                self.cpu_us += launch_us
                longer_us = gpu_us + self.extra_us.get(node.name, 0.0) + cost.crossing_us("gpu", visit.crossed_gpu)  # type: ignore[operator]
                self.gpu = max(self.gpu, self.host + cost.begin_us) + longer_us
                self.gpu_us += longer_us
                self.done.append(self.gpu)
        if visit.waits_for:
            self.host = self._heard(self.host, self.done[visit.waits_for])
        worked_us = cost.move_us(visit.download_bytes, visit.download_bytes > 0)
        if cpu_us is not None:
            self.together = True
            worked_us += cpu_us + cost.crossing_us(HOST, visit.crossed_cpu)
        self.host += worked_us
        self.cpu_us += worked_us
        return visit

    def _heard(self, host: float, done: float) -> float:
        """When the host goes on after waiting for what is done at that time."""
        gpu = self.cost.profile.gpu
        return max(host + (gpu.sync_us if gpu.ready_us is None else gpu.ready_us), done + gpu.sync_us)

    @property
    def finish(self) -> float:
        """When everything started so far is done and known to the host."""
        if self.flow.waited < self.flow.started:
            return self._heard(self.host, self.gpu)
        return self.host

    def end(self, graph: Graph) -> float:
        """When the graph's outputs are on the host: copies of what comes in and goes out included."""
        _, nbytes = self.flow.copy().finish(graph.outputs)
        far = 0 if self.together else len(self.done) - 1
        return self.finish + self.cost.move_us(nbytes, 1 if nbytes else 0) + self.cost.around_us(graph, self.unit, far)


def _for(node: Node, other: Node, told: Access) -> Access:
    """What a node accesses, from what a node of the same kind does."""
    reads = _renamed(node.inputs, other.inputs, told.reads)
    return Access(reads, _renamed(node.outputs, other.outputs, told.writes), told.view)


def _renamed(mine: Sequence[Value | None], theirs: Sequence[Value | None], told: Sequence[tuple[Value, Region]]) -> tuple[tuple[Value, Region], ...]:
    """`told` of their values, in order, told of mine."""
    found, at = [], 0
    for value, region in told:
        while theirs[at] is not value:
            at += 1
        found.append((mine[at], region))
        at += 1
    return tuple(found)


def roofline_us(section: UnitProfile, mflop: np.ndarray, mbyte: np.ndarray) -> np.ndarray:
    """The longer of computing and moving, at the stated share of the unit's peaks. Above zero."""
    # mflop / (GFLOP/s) is 1e-3 s; mbyte / (GB/s) likewise.
    return np.maximum(np.maximum(mflop / section.peak_gflops, mbyte / section.bandwidth_gbs), 1e-6) * 1e3 / ROOFLINE_SHARE
