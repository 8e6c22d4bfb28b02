"""What a report tells of one model, as plain data: its nodes and cuts, a run's timeline, where time went, memory, and the alternatives.

Everything here comes from a graph, its plan, a profile and, where the model was run, a trace. Nothing is drawn; see `page` and `plots`.
Times are microseconds where a key ends in `_us`; what is not known is None.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..cost.compose import CostModel
from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..partition.joins import joined
from ..partition.plan import Plan, pieces
from ..profiles import DeviceProfile
from ..runtime.trace import Span, Trace

#: Errors up to these count as hits, as in the papers that predict latencies.
HITS = (10, 25)


def nodes(graph: Graph, plan: Plan, alone: Mapping[str, Plan], measured: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row per node in the graph's order: where it is drawn (`layer`), what it reads, its cut, its times and what each device alone would take.

    `alone` holds the plans of one device (`cpu`, `gpu`); `measured` the microseconds of a node's slower side.
    """
    layers, free = layers_of(graph), joined(graph)
    rows = []
    for node in graph.nodes:
        cut, us = plan[node.name], measured.get(node.name)
        flops, nbytes = _work(node, plan)
        rows.append({
            "name": node.name,
            "op_type": node.op_type,
            "layer": layers[node],
            "inputs": [graph.producers[v].name for v in dict.fromkeys(v for v in node.inputs if v in graph.producers)],
            "output": str(node.output.type) if node.output is not None else "",
            "axis": cut.axis,
            "bounds": list(cut.bounds),
            "devices": list(cut.devices),
            "share": dict(cut.ratio),
            "view": op_for(node).is_view or node in free,
            "flops": sum(flops.values()),
            "device_flops": flops,
            "bytes": nbytes,
            "predicted_us": cut.predicted_us,
            "estimated": cut.estimated,
            "measured_us": us,
            "alone_us": {name: other[node.name].predicted_us for name, other in alone.items()},
            "note": cut.note,
        })
    return rows


def layers_of(graph: Graph) -> dict[Node, int]:
    """How many nodes the longest way to each node passes: the row it is drawn in."""
    found: dict[Node, int] = {}
    for node in graph.nodes:
        found[node] = max((found[graph.producers[v]] + 1 for v in node.inputs if v in graph.producers), default=0)
    return found


def _work(node: Node, plan: Plan) -> tuple[dict[str, float], float]:
    """Floating-point operations by device, and bytes read and written by all pieces; nothing where no one counts them."""
    op = op_for(node)
    if not node.is_static or node.output is None or is_fallback(op) or op.is_view:
        return {}, 0.0
    flops: dict[str, float] = {}
    nbytes = 0.0
    for device, region in pieces(node, plan[node.name]):
        work = op.work(node, region)
        flops[device] = flops.get(device, 0.0) + work.flops
        nbytes += work.bytes_read + work.bytes_written
    return flops, nbytes


def good_runs(trace: Trace) -> list[Span]:
    """The complete runs, without the first (a warm-up) where there are several."""
    runs = [s for s in trace.of("run") if "error" not in s.args]
    return runs[1:] or runs


def median_run(trace: Trace) -> Span | None:
    """The run whose duration is the median (the lower one of two): the one worth drawing."""
    runs = sorted(good_runs(trace), key=lambda s: s.duration_us)
    return runs[(len(runs) - 1) // 2] if runs else None


def measured_us(trace: Trace) -> dict[str, float]:
    """Per node, the median over the runs of its slower side."""
    numbers = {s.args["run"] for s in good_runs(trace)}
    seen: dict[str, dict[int, float]] = {}
    for span in trace.of("piece"):
        run = span.args.get("run")
        if run in numbers:  # a node in the reference has no `measured_us`: its piece is all of it
            seen.setdefault(span.args["node"], {})[run] = span.args.get("measured_us", span.duration_us)
    return {name: statistics.median(times.values()) for name, times in seen.items()}


def timeline(trace: Trace) -> list[dict[str, Any]]:
    """The spans of the median run, in order; `start_us` counts from its beginning."""
    run = median_run(trace)
    if run is None:
        return []
    mine = [s for s in trace.of("piece", "wait", "copy", "enqueue", "share") if s.args.get("run") == run.args["run"]]
    return [
        {"name": s.name, "track": s.track, "category": s.category, "start_us": s.start_us - run.start_us, "duration_us": s.duration_us,
         "node": s.args.get("node"), "kernel": s.args.get("implementation"), "predicted_us": s.args.get("predicted_us")}
        for s in sorted(mine, key=lambda s: s.start_us)
    ]


def where_time_goes(trace: Trace) -> dict[str, dict[str, float]]:
    """Per processor, means over the runs: `compute_us`, `wait_us`, `transform_us` (copies), `other_us` (starting, scheduling, idle).

    The calling thread is the CPU's: what its team does meanwhile is the same piece. A GPU that does nothing is `other`.
    """
    runs = good_runs(trace)
    if not runs:
        return {}
    numbers, total = {s.args["run"] for s in runs}, sum(s.duration_us for s in runs)
    kinds = {"piece": "compute_us", "wait": "wait_us", "copy": "transform_us"}
    spent: dict[str, dict[str, float]] = {}
    for span in trace.of(*kinds):
        if span.args.get("run") in numbers:
            unit = "cpu" if span.track == "host" else span.track
            mine = spent.setdefault(unit, dict.fromkeys(kinds.values(), 0.0))
            mine[kinds[span.category]] += span.duration_us
    return {unit: {**{k: us / len(runs) for k, us in mine.items()}, "other_us": max(0.0, total - sum(mine.values())) / len(runs)}
            for unit, mine in sorted(spent.items())}


def roofline(trace: Trace, profile: DeviceProfile | None) -> dict[str, Any]:
    """`points`, one a piece: flops per byte and GFLOP/s reached (median of the runs); `roofs`: peak GFLOP/s and GB/s by device."""
    numbers = {s.args["run"] for s in good_runs(trace)}
    seen: dict[tuple[str, str, str], list[Span]] = {}
    for span in trace.of("piece"):
        if span.args.get("run") in numbers and span.args.get("flops") and span.args.get("gflops"):
            seen.setdefault((span.args["node"], span.track, span.args.get("region", "")), []).append(span)
    points = []
    for (name, device, _), spans in seen.items():
        nbytes = spans[0].args["bytes_read"] + spans[0].args["bytes_written"]
        if nbytes > 0:
            points.append({"node": name, "op_type": spans[0].args["op_type"], "device": device, "flops_per_byte": spans[0].args["flops"] / nbytes,
                           "gflops": statistics.median(s.args["gflops"] for s in spans), "us": statistics.median(s.duration_us for s in spans)})
    roofs = {} if profile is None else {
        unit: {"peak_gflops": section.peak_gflops, "bandwidth_gbs": section.bandwidth_gbs}
        for unit, section in (("cpu", profile.cpu), ("gpu", profile.gpu)) if section is not None
    }
    return {"points": points, "roofs": roofs}


def memory(graph: Graph, offsets: Mapping[Value, int], arena_bytes: int) -> dict[str, Any]:
    """`arena_bytes`, and per node the bytes that are in use when it runs, one node after another.

    What shares memory (views, inputs of a joined concatenation) is counted once. A value lives until the last node that reads it.
    """
    last, first = {}, dict.fromkeys(graph.inputs, 0)
    for at, node in enumerate(graph.nodes):
        for value in node.inputs:
            last[value] = at
        for value in node.outputs:
            first[value] = at
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    spans = [(first[v], last.get(v, first[v]), at, at + v.type.nbytes) for v, at in offsets.items() if v in first]
    live = [_covered((start, stop) for born, dies, start, stop in spans if born <= at <= dies) for at in range(len(graph.nodes))]
    return {"arena_bytes": arena_bytes, "live_bytes": live, "sum_bytes": sum(v.type.nbytes for v in offsets)}


def _covered(spans: Any) -> int:
    """The length of the union of half-open intervals."""
    total, end = 0, 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def shares(rows: Sequence[Mapping[str, Any]], spans: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What each device has of the arithmetic (`flops`), of the operators that do work (`operators`), and of busy time (`time`, if it ran)."""
    found: dict[str, dict[str, float]] = {"flops": {}, "operators": {}, "time": {}}
    for row in rows:
        for device, flops in row["device_flops"].items():
            found["flops"][device] = found["flops"].get(device, 0.0) + flops
        if not row["view"]:
            for device, part in row["share"].items():
                found["operators"][device] = found["operators"].get(device, 0.0) + part
    for span in spans:
        if span["category"] == "piece":
            found["time"][span["track"]] = found["time"].get(span["track"], 0.0) + span["duration_us"]
    return {what: {d: part / sum(by.values()) for d, part in sorted(by.items())} for what, by in found.items() if sum(by.values())}


def predicted_pieces(graph: Graph, plan: Plan, trace: Trace, profile: DeviceProfile | None) -> list[dict[str, Any]]:
    """A row per piece that a kernel computed: predicted and measured (median of the runs), and the signed `error`.

    Pieces are what predictors are fitted to: a node's own time also holds starting and waiting. Beside a busy other unit, as in the plan.
    """
    if profile is None:
        return []
    cost, numbers = CostModel(profile), {s.args["run"] for s in good_runs(trace)}
    seen: dict[tuple[str, str, str], list[float]] = {}
    for span in trace.of("piece"):
        if span.args.get("run") in numbers and "region" in span.args:
            seen.setdefault((span.args["node"], span.track, span.args["region"]), []).append(span.duration_us)
    rows, alone = [], "gpu" not in plan.devices
    for node in graph.nodes:
        parts = pieces(node, plan[node.name]) if node.is_static and node.output is not None and not op_for(node).is_view else []
        for device, region in parts:
            times = seen.get((node.name, device, str(region)))
            if not times or is_fallback(op_for(node)):
                continue
            told = cost.kernel(node, region, cost.host_unit(alone) if device == "cpu" else device)
            us, median = told.us * (cost.busy(node, region, device) if len(parts) > 1 else 1.0), statistics.median(times)
            if us > 0 and median > 0:
                rows.append({"node": node.name, "op_type": node.op_type, "device": device, "region": str(region), "predicted_us": us,
                             "measured_us": median, "error": us / median - 1, "estimated": bool(told.estimated)})
    return rows


def predictor(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How well pieces were predicted: `count`, `within_10pct`, `within_25pct`, `median_error` (signed), `mape`; {} where nothing can be said.

    As they ran in the plan, one after another and side by side; `coexec evaluate` judges predictors more carefully.
    """
    errors = [r["error"] for r in rows]
    if not errors:
        return {}
    return {"count": len(errors), **{f"within_{p}pct": sum(abs(e) <= p / 100 for e in errors) / len(errors) for p in HITS},
            "median_error": statistics.median(errors), "mape": statistics.fmean(map(abs, errors))}


def untraced_ms(story: Mapping[str, Any]) -> float | None:
    """The median of the plan's runs that nobody traced, which is what a run takes; None where it was only traced, or never run."""
    return next((row.get("measured_ms") for row in story["alternatives"] if row["strategy"] == story["strategy"]), None)


def foreign(profile: DeviceProfile | None, trace: Trace | None) -> list[str]:
    """The units that ran and that the profile knows by another name: it is of another board."""
    ran = trace.facts.get("devices", {}) if trace is not None else {}
    known = {} if profile is None else {"cpu": profile.cpu, "gpu": profile.gpu}
    return [unit for unit, section in known.items() if section is not None and unit in ran and ran[unit]["name"] != section.name]


def tell(graph: Graph, plan: Plan, *, profile: DeviceProfile | None = None, trace: Trace | None = None, alone: Mapping[str, Plan] | None = None,
         alternatives: Sequence[Mapping[str, Any]] = (), offsets: Mapping[Value, int] | None = None, arena_bytes: int = 0) -> dict[str, Any]:
    """All of a report. Without a trace nothing was run, and what only a run knows is empty; `alternatives` are rows for other strategies."""
    rows = nodes(graph, plan, alone or {}, measured_us(trace) if trace is not None else {})
    spans = timeline(trace) if trace is not None else []
    run = median_run(trace) if trace is not None else None
    priced = predicted_pieces(graph, plan, trace, profile) if trace is not None else []
    return {
        "model": plan.model,
        "model_digest": plan.model_digest,
        "profile": plan.profile or None,
        "foreign": foreign(profile, trace),
        "strategy": plan.strategy,
        "shapes": {k: list(v) for k, v in plan.shapes.items()},
        "predicted_ms": plan.predicted_ms,
        "measured_ms": run.duration_us / 1e3 if run is not None else None,
        "runs": len(good_runs(trace)) if trace is not None else 0,
        "nodes": rows,
        "chains": [list(c) for c in plan.chains],
        "timeline": spans,
        "time": where_time_goes(trace) if trace is not None else {},
        "roofline": roofline(trace, profile) if trace is not None else {"points": [], "roofs": {}},
        "shares": shares(rows, spans),
        "memory": memory(graph, offsets, arena_bytes) if offsets is not None else {},
        "pieces": priced,
        "predictor": predictor(priced),
        "alternatives": [dict(a) for a in alternatives],
        "facts": {k: trace.facts[k] for k in ("devices", "threads", "host", "python", "started", "coexec") if k in trace.facts} if trace else {},
    }
