"""What traced runs of a plan show: by how much each piece took longer than the profile says, and what was lost between pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ..cost.compose import CostModel
from ..cost.corrections import Between
from ..graph.ir import Graph
from ..partition.plan import Plan, pieces
from ..runtime.trace import Trace


def ratios_seen(graph: Graph, plan: Plan, trace: Trace, costs: CostModel) -> dict[tuple[str, str], float]:
    """(node, unit): measured over predicted time of the node's piece there. `costs` are not corrected."""
    taken: dict[tuple[str, str], list[float]] = {}
    for span in trace.of("piece"):
        taken.setdefault((span.args["node"], span.track), []).append(span.duration_us)
    alone, ratios = "gpu" not in plan.devices, {}
    for node in graph.nodes:
        parts = pieces(node, plan[node.name])
        for unit, region in parts:
            if (node.name, unit) in taken and sum(u == unit for u, _ in parts) == 1:
                predicted = costs.kernel(node, region, costs.host_unit(alone) if unit == "cpu" else unit).us
                if predicted > 0:
                    ratios[node.name, unit] = max(quiet(taken[node.name, unit]), 1e-3) / predicted
    return ratios


def held_up(trace: Trace) -> dict[str, float]:
    """By how much each unit's pieces took longer in all than their lower quartiles: what takes a core away by turns hits a few pieces hard."""
    taken: dict[str, dict[str, list[float]]] = {}
    for span in trace.of("piece"):
        taken.setdefault(span.track, {}).setdefault(span.args["node"], []).append(span.duration_us)
    return {unit: sum(sum(t) / len(t) for t in nodes.values()) / max(1e-3, sum(map(quiet, nodes.values()))) for unit, nodes in taken.items()}


def between_seen(trace: Trace, middle: Callable[[Sequence[float]], float] | None = None) -> Between:
    """What was lost between the pieces of traced runs: lower quartiles, or what `middle` makes of them."""
    free: dict[int, float] = {}  # when each piece could have begun, but for its own enqueueing
    for before, piece in pairwise(sorted(trace.of("piece"), key=lambda s: (s.track, s.start_us))):
        if before.track == piece.track:
            free[id(piece)] = before.stop_us
    lost: dict[str, list[float]] = {"launch_us": [], "begin_us": [], "sync_us": [], "ready_us": []}
    for arrow in trace.arrows:
        source, target = arrow.source, arrow.target
        if arrow.name == "enqueue" and target.category == "piece":
            lost["launch_us"].append(source.duration_us)
            if free.get(id(target), 0.0) < source.start_us:
                lost["begin_us"].append(target.start_us - source.stop_us)
        elif arrow.name == "join":
            late = target.stop_us - source.stop_us
            lost["ready_us" if source.stop_us < target.start_us else "sync_us"].append(min(late, target.duration_us))
    return Between(**{k: max(0.0, (middle or quiet)(v)) for k, v in lost.items() if v})


def quiet(times: Sequence[float]) -> float:
    """The lower quartile: what is slower was mostly disturbed by something else."""
    return float(np.percentile(times, 25))
