"""How long pieces take, and what lies between them: as a profile predicts it, or as runs on a real machine showed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from ..cost.compose import CROSSING_GBS, CostModel
from ..cost.corrections import Between
from ..cost.images import of_plan
from ..graph.ir import Graph
from ..partition.images import GPU
from ..partition.plan import Plan, pieces
from ..regions import Region
from ..runtime.schedule import HOST, Start
from ..runtime.trace import Span


@dataclass(frozen=True)
class Far:
    """What a device that works beside the host costs it, in microseconds: see `UnitProfile` and `Between`."""

    launch_us: float = 0.0
    begin_us: float = 0.0
    sync_us: float = 0.0
    ready_us: float = 0.0


@dataclass(frozen=True)
class Overheads:
    """What a run takes beside its pieces. Rates in GB/s; copy_gbs is the host's, reads and writes together.

    transfer_gbs None: one memory, nothing moves. crossing_gbs: by how much pieces take longer that read what another unit wrote.
    feed_us, fetch_us: copying the inputs and outputs where that was measured; None: by copy_gbs.
    run_us: beginning and ending; where no piece is the host's, away_us and, for each piece, away_piece_us (as `UnitProfile.run_us` of the GPU).
    """

    far: Mapping[str, Far]
    copy_gbs: float
    map_us: float = 0.0
    transfer_gbs: float | None = None
    crossing_gbs: Mapping[str, float] = field(default_factory=dict)
    feed_us: float | None = None
    fetch_us: float | None = None
    run_us: float = 0.0
    away_us: float = 0.0
    away_piece_us: float = 0.0

    def move_us(self, nbytes: float) -> float:
        """One move between two memories."""
        return 0.0 if self.transfer_gbs is None else self.map_us + nbytes / (self.transfer_gbs * 1e3)

    def crossing_us(self, device: str, nbytes: float) -> float:
        return nbytes / (self.crossing_gbs[device] * 1e3) if device in self.crossing_gbs else 0.0


class Taken(NamedTuple):
    """Microseconds of a piece by itself, and by how much it takes longer while another unit works."""

    us: float
    slow: float = 1.0


class Times(Protocol):
    """Where a simulation has its times from."""

    overheads: Overheads

    def of(self, start: Start) -> Taken:
        """Of that piece."""


class Predicted:
    """A profile's: the cost model's, the same that strategies plan with."""

    def __init__(self, cost: CostModel, graph: Graph, plan: Plan):
        self.cost = cost
        self.unit = cost.host_unit(plan.devices <= {HOST})
        self._nodes = {n.name: n for n in graph.nodes}
        cost.prepare([(n, self.unit if d == HOST else d, [r]) for n in graph.nodes for d, r in pieces(n, plan[n.name])])
        self.overheads, self.extra_us = overheads_of(cost, self.unit), of_plan(cost, graph, plan)

    def of(self, start: Start) -> Taken:
        node, unit = self._nodes[start.node.name], self.unit if start.device == HOST else start.device
        more = self.extra_us.get(node.name, 0.0) if start.device == GPU else 0.0
        return Taken(self.cost.kernel(node, start.region, unit).us + more, self.cost.busy(node, start.region, unit))


def overheads_of(cost: CostModel, unit: str = HOST) -> Overheads:
    """What the profile says of starting, waiting and moving; `unit` is the section of the host."""
    profile, far, crossing = cost.profile, {}, {}
    for name in cost.units:
        if name.startswith(HOST):
            continue
        section = cost.units[name]
        ready = section.sync_us if section.ready_us is None else section.ready_us
        far[name] = Far(section.launch_us, cost.begin_us if name == "gpu" else 0.0, section.sync_us, ready)
    gpu = profile.gpu
    if far and cost.shared and cost.contention:
        crossing = {name: cost.units[name].crossing_gbs or CROSSING_GBS for name in (HOST, *far)}
    moves = (0.0, None) if gpu is None else (gpu.map_us, gpu.transfer_gbs)
    away = (0.0, 0.0) if gpu is None else (gpu.run_us, gpu.run_piece_us)
    section = cost.units[unit]
    return Overheads(far, section.copy_gbs or section.bandwidth_gbs, *moves, crossing, None, None, section.run_us, *away)


class Measured:
    """Of one traced run of the very plan: what each piece took, in the company that it had, so that nothing slows it down once more."""

    def __init__(self, spans: Sequence[Span], between: Mapping[str, Between], known: Overheads):
        """`spans` of that run; `between`: what it lost between pieces, by device; `known`: what is not to be seen in a trace."""
        self.us: dict[tuple[str, str, str], float] = {}
        copies: dict[str, float] = {}
        for span in spans:
            if span.category == "piece":
                self.us[span.args["node"], span.track, span.args.get("region", str(Region()))] = span.duration_us
            elif span.category == "copy":
                copies[span.name] = span.duration_us
        around_us = around(spans)
        self.overheads = replace(
            known, far={name: _seen(far, between.get(name)) for name, far in known.far.items()}, crossing_gbs={},
            feed_us=copies.get("copy inputs"), fetch_us=copies.get("copy outputs"), run_us=around_us, away_us=around_us, away_piece_us=0.0)

    def of(self, start: Start) -> Taken:
        return Taken(self.us[start.node.name, start.device, str(start.region)])


def around(spans: Sequence[Span]) -> float:
    """What the host took in a traced run before its first step, after its last, and beside the copies of what comes in and goes out."""
    run = next((s for s in spans if s.category == "run"), None)
    own = [s for s in spans if s.category in ("piece", "enqueue", "wait", "copy") and s.track in (HOST, "host")]
    inner = [s for s in own if s.name not in ("copy inputs", "copy outputs")]
    if run is None or not inner:
        return 0.0
    copied = sum(s.duration_us for s in own) - sum(s.duration_us for s in inner)
    return max(0.0, run.duration_us - (max(s.stop_us for s in inner) - min(s.start_us for s in inner)) - copied)


def _seen(known: Far, seen: Between | None) -> Far:
    return known if seen is None else replace(known, **{k: v for k, v in vars(seen).items() if v is not None})
