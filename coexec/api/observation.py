"""What traced runs of a plan show: by how much each piece took longer than the profile says, and what was lost between pieces."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..cost.compose import CostModel
from ..cost.corrections import Between
from ..graph.ir import Graph
from ..partition.plan import Plan, pieces
from ..runtime.trace import Span, Trace


def ratios_seen(graph: Graph, plan: Plan, trace: Trace, costs: CostModel) -> dict[tuple[str, str], float]:
    """(node, unit): measured over predicted time of the node's piece there. `costs` are not corrected."""
    return ratios(graph, plan, taken_us(trace), costs)


def ratios(graph: Graph, plan: Plan, taken: Mapping[tuple[str, str], float], costs: CostModel) -> dict[tuple[str, str], float]:
    """`ratios_seen` by what pieces took (`taken_us`)."""
    alone, found = "gpu" not in plan.devices, {}
    for node in graph.nodes:
        parts = pieces(node, plan[node.name])
        for unit, region in parts:
            if (node.name, unit) in taken and sum(u == unit for u, _ in parts) == 1:
                predicted = costs.kernel(node, region, costs.host_unit(alone) if unit == "cpu" else unit).us
                if predicted > 0:
                    found[node.name, unit] = max(taken[node.name, unit], 1e-3) / predicted
    return found


def taken_us(trace: Trace) -> dict[tuple[str, str], float]:
    """(node, unit): microseconds of its piece there, the lower quartile of the traced runs."""
    return {key: quiet(times) for key, times in _taken(trace).items()}


def _taken(trace: Trace) -> dict[tuple[str, str], list[float]]:
    """(node, unit): the microseconds that its pieces there took in each traced run, those of a piece done in bands together."""
    runs: dict[tuple[str, str], dict[int, float]] = {}
    for span in trace.of("piece"):
        of_node = runs.setdefault((span.args["node"], span.track), {})
        of_node[span.args["run"]] = of_node.get(span.args["run"], 0.0) + span.duration_us
    return {key: list(times.values()) for key, times in runs.items()}


def held_up(trace: Trace) -> dict[str, float]:
    """By how much each unit's pieces took longer in all than their lower quartiles: what takes a core away by turns hits a few pieces hard."""
    taken: dict[str, dict[str, list[float]]] = {}
    for (node, unit), times in _taken(trace).items():
        taken.setdefault(unit, {})[node] = times
    return {unit: sum(sum(t) / len(t) for t in nodes.values()) / max(1e-3, sum(map(quiet, nodes.values()))) for unit, nodes in taken.items()}


def between(trace: Trace, typical: Callable[[Sequence[float]], float] | None = None,
            is_heard: Callable[[Span], bool] = lambda piece: True) -> Between:
    """What was lost between the pieces of traced runs; `typical` of many such times, by default `usual`. is_heard: of which pieces hearing of their
    ends counts.
    """
    free: dict[int, float] = {}  # when each piece could have begun, but for its own enqueueing
    for before, piece in pairwise(sorted(trace.of("piece"), key=lambda s: (s.track, s.start_us))):
        if before.track == piece.track:
            free[id(piece)] = before.stop_us
    lost: dict[str, list[float]] = {"launch_us": [], "begin_us": [], "sync_us": [], "ready_us": []}
    sent = _sent_after(trace)
    for arrow in trace.arrows:
        source, target = arrow.source, arrow.target
        if arrow.name == "enqueue" and target.category == "piece":
            lost["launch_us"].append(source.duration_us + sent.get(id(source), 0.0))
            if free.get(id(target), 0.0) < source.start_us and not target.args.get("held_us"):
                lost["begin_us"].append(target.start_us - source.stop_us)
        elif arrow.name == "join" and is_heard(source):
            late = target.stop_us - source.stop_us
            lost["ready_us" if source.stop_us < target.start_us else "sync_us"].append(min(late, target.duration_us))
    return Between(**{k: max(0.0, (typical or usual)(v)) for k, v in lost.items() if v})


def by_counters(in_step: Trace, by_events: Between) -> Between | None:
    """What was lost between the pieces of traced runs that kept in step by counters: pieces stand at their gates, and none begins late. None
    where it was more than `by_events`, of other runs of the same plan.

    How late a wait ends is the median, of operators that both sides work on: one that lasts for long naps between looks, and the made-up network has
    more of those than a plan, and more of pieces that do not tell themselves that they are done.
    """
    seen = between(in_step)
    heard = between(in_step, statistics.median, lambda piece: len(piece.args.get("bounds", ())) > 2)
    sync_us = heard.sync_us if heard.sync_us is not None else between(in_step, statistics.median).sync_us
    if seen.launch_us is None or (sync_us or 0.0) > (by_events.begin_us or 0.0) + (by_events.sync_us or 0.0):
        return None
    return replace(seen, begin_us=0.0, sync_us=sync_us)


def _sent_after(trace: Trace) -> dict[int, float]:
    """By the id of the span that enqueued a piece: how long the flushes and gates directly behind it took, which are part of its start."""
    own, found, last = {id(a.source) for a in trace.arrows if a.name == "enqueue"}, {}, None  # type: ignore[var-annotated]
    for span in sorted(trace.of("enqueue"), key=lambda s: s.start_us):
        if id(span) in own:
            last = span
        elif last is not None and span.args.get("run") == last.args.get("run"):
            found[id(last)] = found.get(id(last), 0.0) + span.duration_us
    return found


def inner_us(trace: Trace, unit: str) -> list[float]:
    """Of each traced run what lies between the beginning of the first piece of that unit and the end of its last."""
    return [max(s.stop_us for s in mine) - min(s.start_us for s in mine)
            for spans in _runs(trace) if (mine := [s for s in spans if s.category == "piece" and s.track == unit])]


def waking_us(trace: Trace) -> list[float]:
    """Of each traced run how long the first piece that several threads share had begun before the first of the others did."""
    found = []
    for spans in _runs(trace):
        first = min((s.start_us for s in spans if s.category == "share"), default=None)
        begun = [s.start_us for s in spans if s.category == "piece" and s.track == "cpu" and first is not None and s.start_us <= first]
        found.append(first - max(begun) if begun and first is not None else 0.0)
    return found


def _runs(trace: Trace) -> list[list[Span]]:
    """The spans of each traced run."""
    return [[s for s in trace.spans if s.args.get("run") == number] for number in range(trace.runs)]


def usual(times: Sequence[float]) -> float:
    """The mean, the longest tenth left out: what is lost at every piece of a run adds up, also where it is long now and then."""
    return float(np.sort(times)[:len(times) - len(times) // 10].mean())


def quiet(times: Sequence[float]) -> float:
    """The lower quartile: what is slower was mostly disturbed by something else."""
    return float(np.percentile(times, 25))
