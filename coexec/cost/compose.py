"""CostModel: what pieces, nodes and whole plans cost on a board, from its profile alone.

A node by itself costs max over its parts + launch + sync + transfer. A whole plan is played on two clocks, the host's and the
GPU's: the host starts GPU pieces and goes on, the GPU works through them in order, and the host stops only where `Flow` has a wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..graph.ir import Graph, Node
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..partition.chains import HOST, Access, Flow, Visit, access
from ..partition.plan import Partition, pieces
from ..profiles import DeviceProfile, UnitProfile
from ..regions import Region
from .features import COLUMNS, family, features
from .model import LatencyModel

#: The share of the roofline that a kernel nobody measured is taken to reach.
ROOFLINE_SHARE = 0.5
#: An operator computed by onnx.reference: loops in Python and many passes over memory, at least this long and this slow.
FALLBACK_US, FALLBACK_GBS, FALLBACK_GFLOPS = 100.0, 0.5, 0.5
_MFLOP, _MBYTE = COLUMNS.index("mflop"), COLUMNS.index("mbyte")


class Estimate(NamedTuple):
    """Microseconds; `estimated` where some of it is no measurement's fit but a rule of thumb."""

    us: float
    estimated: bool


class CostModel:
    """Costs on one board. Answers are kept: a piece asked for twice is computed once."""

    def __init__(self, profile: DeviceProfile):
        self.profile = profile
        self.units: dict[str, UnitProfile] = {"cpu": profile.cpu, **({"gpu": profile.gpu} if profile.gpu else {})}
        self.models = {unit: {name: LatencyModel.from_profile(fit, f"{profile.name}, {unit}.latency.{name}") for name,
                              fit in section.latency.items()}
                       for unit, section in self.units.items()}
        self.estimates = {(unit, name) for unit, s in self.units.items() for name,
                          fit in s.latency.items() if fit.provenance == "estimated"}
        self.shared = profile.gpu is None or profile.gpu.transfer_gbs is None
        self._columns: dict[tuple[Node, Region], tuple[float, ...]] = {}
        self._kernels: dict[tuple[Node, Region, str], Estimate] = {}
        self._kinds: dict[Node, str] = {}
        self._access: dict[tuple[Node, Region], Access] = {}

    def kernel(self, node: Node, region: Region, unit: str) -> Estimate:
        """The piece `region` of a node on a unit, by itself: no launch, no wait. Never zero, unless the piece is empty or a view."""
        key = (node, region, unit)
        found = self._kernels.get(key)
        if found is None:
            found = self._kernels[key] = self._kernel(node, region, unit)
        return found

    def _kernel(self, node: Node, region: Region, unit: str) -> Estimate:
        what = self._what(node)
        if what == "dynamic":
            return Estimate(FALLBACK_US, True)
        if what == "view" or not region.size:
            return Estimate(0.0, False)
        section, x = self.units[unit], self.columns(node, region)
        if what == "fallback":
            return Estimate(FALLBACK_US + x[_MFLOP] / FALLBACK_GFLOPS * 1e3 + x[_MBYTE] / FALLBACK_GBS * 1e3, True)
        name, model = what, self.models[unit].get(what)
        if model is not None:
            us = sum(c * v for c, v in zip(model.weights_, x))
            if us > 0:
                return Estimate(float(us), (unit, name) in self.estimates)
        return Estimate(section.launch_us + roofline_us(section, x[_MFLOP], x[_MBYTE]), True)

    def _what(self, node: Node) -> str:
        """The node's family, or `dynamic`, `fallback` or `view`; kept."""
        found = self._kinds.get(node)
        if found is None:
            op = op_for(node)
            found = self._kinds[node] = ("dynamic" if not node.is_static else "fallback" if is_fallback(op) else "view" if op.is_view
                                         else family(node))
        return found

    def columns(self, node: Node, region: Region) -> tuple[float, ...]:
        """`features`, kept: both units ask for the same pieces."""
        key = (node, region)
        found = self._columns.get(key)
        if found is None:
            found = self._columns[key] = tuple(features(node, region).tolist())
        return found

    def access(self, node: Node, region: Region) -> Access:
        """`access`, kept."""
        key = (node, region)
        found = self._access.get(key)
        if found is None:
            found = self._access[key] = access(node, region)
        return found

    def move_us(self, nbytes: float, moves: int) -> float:
        """What it takes to bring bytes from one memory to the other."""
        if self.shared or not moves:
            return 0.0
        return self.profile.gpu.map_us * moves + nbytes / (self.profile.gpu.transfer_gbs * 1e3)

    def node(self, node: Node, partition: Partition) -> Estimate:
        """One node under a partition: max over its parts + launch + sync + transfer.

        A GPU piece is charged its launch; a node cut in two also the wait that joins them, and, where memories are two, its GPU piece's
        reads and writes.
        """
        parts = pieces(node, partition)
        if self._what(node) == "view":
            return Estimate(0.0, False)
        costs = {d: self.kernel(node, r, d) for d, r in parts}
        if not costs:
            return Estimate(0.0, False)
        estimated = any(c.estimated for c in costs.values())
        if "gpu" not in costs:
            return Estimate(max(c.us for c in costs.values()), estimated)
        gpu, region = self.profile.gpu, next(r for d, r in parts if d == "gpu")
        us = gpu.launch_us + max(c.us for c in costs.values())
        if len(costs) > 1:
            x = self.columns(node, region)
            us += gpu.sync_us + self.move_us(x[_MBYTE] * 1e6, 2)
        return Estimate(us, estimated)

    def total_us(self, graph: Graph, partitions: Sequence[Partition]) -> float:
        """The predicted time of a whole run."""
        run = Run(self)
        for node, partition in zip(graph.nodes, partitions):
            run.step(node, pieces(node, partition))
        return run.end(graph)


class Run:
    """A plan being played on two clocks, in microseconds since the start. Copied where a planner tries several futures."""

    __slots__ = ("cost", "flow", "host", "gpu", "done")

    def __init__(self, cost: CostModel):
        self.cost, self.flow = cost, Flow(cost.shared)
        self.host = self.gpu = 0.0
        self.done: list[float] = [0.0]  # when each GPU piece ends, by its number

    def copy(self) -> Run:
        other = object.__new__(Run)
        other.cost, other.flow, other.host, other.gpu, other.done = self.cost, self.flow.copy(), self.host, self.gpu, self.done.copy()
        return other

    def step(self, node: Node, parts: Sequence[tuple[str, Region]]) -> Visit:
        """Plays one node: its GPU piece is started, then the host waits if it must, then the CPU piece runs."""
        cost = self.cost
        visit = self.flow.visit(node, parts, [cost.access(node, r) for _, r in parts])
        for device, region in visit.pieces:
            if device != HOST:
                self.host += cost.move_us(visit.upload_bytes, visit.moves) if visit.upload_bytes else 0.0
                self.host += cost.profile.gpu.launch_us
                self.gpu = max(self.gpu, self.host) + cost.kernel(node, region, device).us
                self.done.append(self.gpu)
        if visit.waits_for:
            self.host = max(self.host, self.done[visit.waits_for]) + cost.profile.gpu.sync_us
        if visit.download_bytes:
            self.host += cost.move_us(visit.download_bytes, visit.moves)
        for device, region in visit.pieces:
            if device == HOST:
                self.host += cost.kernel(node, region, device).us
        return visit

    @property
    def finish(self) -> float:
        """When everything started so far is done and known to the host."""
        if self.flow.waited < self.flow.started:
            return max(self.host, self.gpu) + self.cost.profile.gpu.sync_us
        return self.host

    def end(self, graph: Graph) -> float:
        """When the graph's outputs are on the host."""
        _, nbytes = self.flow.copy().finish(graph.outputs)
        return self.finish + self.cost.move_us(nbytes, 1 if nbytes else 0)


def roofline_us(section: UnitProfile, mflop: float, mbyte: float) -> float:
    """The longer of computing and moving, at the stated share of the unit's peaks. Above zero."""
    # mflop / (GFLOP/s) is 1e-3 s; mbyte / (GB/s) likewise.
    return max(mflop / section.peak_gflops, mbyte / section.bandwidth_gbs, 1e-6) * 1e3 / ROOFLINE_SHARE
