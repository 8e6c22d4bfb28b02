#!/usr/bin/env python3
"""Simulated beside measured, on this machine: the made models under the plans of several strategies.

    python tools/validate_simulation.py [--models-dir models] [--only NAME,...] [--strategies cpu,gpu,greedy,coexec] [--profile P.yaml]
                                        [--runs 5] [--passes 3] [--json F.json] [--resume]

Every plan runs, plain and traced, in turns with the others of its model. Two simulations stand beside: one fed with what the profile predicts
of pieces and waits (the planner's knowledge, and its errors), and replays, one of each traced run, fed with what its pieces took and what it
lost between them. A replay beside its own run shows the simulator's own error; beside the plain runs, also what tracing costs and how uneven
the machine is. Medians. Predictions are of the profile's usual moments: beside them, plain runs are told as they would have been in those, by
reference kernels before and after each (`measured`); beside replays, as they were (`clocked`). Medians of several passes
over all models, minutes apart. With --resume, passes of models that the JSON file has already are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from coexec.api import bind, cached_profile, default_shapes, load, plan_prepared, random_feeds  # noqa: E402
from coexec.api.observation import between  # noqa: E402
from coexec.cost.compose import CostModel  # noqa: E402
from coexec.devices.registry import find_devices, session_threads  # noqa: E402
from coexec.graph.ir import Graph  # noqa: E402
from coexec.partition.plan import Plan  # noqa: E402
from coexec.profiles import DeviceProfile, load_profile  # noqa: E402
from coexec.report.moments import Moments, Run  # noqa: E402
from coexec.report.timing import interleave  # noqa: E402
from coexec.runtime.executor import PreparedRun  # noqa: E402
from coexec.runtime.trace import Trace  # noqa: E402
from coexec.runtime.traced import run_traced  # noqa: E402
from coexec.simulate.run import Program, simulate  # noqa: E402
from coexec.simulate.times import Measured, Predicted  # noqa: E402

STRATEGIES = ("cpu", "gpu", "greedy", "coexec")
#: Two strategies are ranked where they differ by more than this share.
APART = 0.05
#: Runs of each plan, plain and traced, before those that count.
WARM = 2
#: What a simulation is held against: predictions are of usual moments, replays of those in which the machine was.
BESIDE = {"predicted_ms": "measured_ms", "replayed_ms": "clocked_ms"}
Row = dict[str, Any]


def validate(name: str, graph: Graph, profile: DeviceProfile, strategies: Sequence[str], runs: int) -> list[Row]:
    """A row a strategy: measured ms of plain and of traced runs, and simulated ms fed with predictions and with what the traced runs showed."""
    devices, feeds, cost = find_devices(), random_feeds(graph), CostModel(profile)
    plans = {s: plan_prepared(graph, profile=profile, strategy=s, devices=devices) for s in strategies}
    traces = {s: Trace() for s in plans}
    prepared: dict[str, PreparedRun] = {}
    with ExitStack() as stack:
        for s, plan in plans.items():
            threads = session_threads(devices, 0, "gpu" in plan.devices)
            prepared[s] = PreparedRun(graph, plan, devices, threads, trace=traces[s])
            stack.callback(prepared[s].close)
        moments, plain = stack.enter_context(Moments(profile, devices)), {s: [] for s in prepared}
        timers = {s: moments.timer(run.plan, graph) for s, run in prepared.items()}
        ways = {(s, False): lambda s=s, run=run: plain[s].append(timers[s](lambda: run.run(feeds))) for s, run in prepared.items()}
        ways |= {(s, True): lambda s=s, run=run: run_traced(run, feeds, traces[s]) for s, run in prepared.items()}
        interleave(ways, WARM, runs)
        return [_row(name, graph, s, prepared[s].plan, cost, traces[s], plain[s][WARM:]) for s in plans]


def _row(name: str, graph: Graph, strategy: str, plan: Plan, cost: CostModel, trace: Trace, plain: list[Run]) -> Row:
    program, predicted = Program(graph, plan, cost.shared), Predicted(cost, graph, plan)
    traced, replayed = [], []
    for number in range(WARM, trace.runs):
        one = _only(trace, number)
        measured = Measured(one.spans, {"gpu": between(one, statistics.mean)}, predicted.overheads)
        replayed.append(simulate(program, measured).latency_us / 1e3)
        traced.append(next(s.duration_us for s in one.spans if s.category == "run") / 1e3)
    return {
        "model": name, "strategy": strategy, "measured_ms": statistics.median(r.steady_ms for r in plain),
        "clocked_ms": statistics.median(r.ms for r in plain), "spread": _spread([r.steady_ms for r in plain]), "planned_ms": plan.predicted_ms,
        "predicted_ms": simulate(program, predicted).latency_us / 1e3, "traced_ms": statistics.median(traced),
        "replayed_ms": statistics.median(replayed), "own_error": statistics.median(b / a - 1 for a, b in zip(traced, replayed)),
    }


def combined(rows: Sequence[Row]) -> list[Row]:
    """One row for each model and strategy: medians of those of several passes. What a moment does to a machine may last for minutes."""
    keys = dict.fromkeys((r["model"], r["strategy"]) for r in rows)
    members = {key: [r for r in rows if (r["model"], r["strategy"]) == key] for key in keys}
    return [{k: v if isinstance(v, str) else statistics.median(r[k] for r in mine) for k, v in mine[0].items()} for mine in members.values()]


def _only(trace: Trace, run: int) -> Trace:
    """That run of the trace."""
    one = Trace()
    one.spans = [s for s in trace.spans if s.args.get("run") == run]
    kept = {id(s) for s in one.spans}
    one.arrows = [a for a in trace.arrows if id(a.source) in kept and id(a.target) in kept]
    return one


def _spread(times: Sequence[float]) -> float:
    """Half of the distance between the quartiles, as a share of the median."""
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle


def error(row: Row, simulated: str) -> float:
    return row[simulated] / row[BESIDE[simulated]] - 1


def ranked(rows: Sequence[Row], simulated: str) -> tuple[int, int]:
    """Of the pairs of a model's strategies that measurement has further apart than APART, how many the simulation has in the same order."""
    measured = BESIDE[simulated]
    pairs = [(a, b) for a, b in combinations(rows, 2) if a["model"] == b["model"] and abs(a[measured] / b[measured] - 1) > APART]
    return sum((a[simulated] < b[simulated]) == (a[measured] < b[measured]) for a, b in pairs), len(pairs)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """How many simulations are within 5, 10 and 15 % of what was measured, the median error, and the ranking; for each way of feeding."""
    errors = {"predicted": [abs(error(r, "predicted_ms")) for r in rows], "replayed": [abs(error(r, "replayed_ms")) for r in rows],
              "own": [abs(r["own_error"]) for r in rows]}
    found: dict[str, Any] = {"rows": len(rows), "spread": statistics.median(r["spread"] for r in rows)}
    for name, mine in errors.items():
        found[name] = {**{f"within_{p}pct": sum(e <= p / 100 for e in mine) for p in (5, 10, 15)}, "median_error": statistics.median(mine),
                       "worst_error": max(mine)}
        if name != "own":
            found[name]["pairs_in_order"], found[name]["pairs"] = ranked(rows, f"{name}_ms")
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows and their summary, as Markdown."""
    head = ("Model", "Plan", "Measured ms", "+-", "Predicted, simulated", "Error", "Clocked ms", "Replayed, simulated", "Error", "Own error")
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * 8]
    lines += [f"| {r['model']} | `{r['strategy']}` | {r['measured_ms']:.2f} | {r['spread']:.0%} | {r['predicted_ms']:.2f} | "
              f"{error(r, 'predicted_ms'):+.1%} | {r['clocked_ms']:.2f} | {r['replayed_ms']:.2f} | {error(r, 'replayed_ms'):+.1%} | "
              f"{r['own_error']:+.1%} |" for r in rows]
    told = summary(rows)
    lines += ["", "| | within 5 % | 10 % | 15 % | median error | worst | pairs of strategies in the measured order |", "|---|" + "---:|" * 6]
    for name, text in (("predicted", "fed with predictions, beside plain runs"), ("replayed", "replays, beside plain runs"),
                       ("own", "replays, beside the very runs that they replay")):
        t = told[name]
        order = f"{t['pairs_in_order']} of {t['pairs']}" if "pairs" in t else "-"
        lines.append(f"| {text} | " + " | ".join(f"{t[f'within_{p}pct']} of {told['rows']}" for p in (5, 10, 15))
                     + f" | {t['median_error']:.1%} | {t['worst_error']:.1%} | {order} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models", help="where tools/make_models.py put its models (default: models)")
    parser.add_argument("--only", default="", help="models, with commas between them (default: all)")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="(default: %(default)s)")
    parser.add_argument("--profile", help="the profile to predict with (default: this machine's)")
    parser.add_argument("--runs", type=int, default=5, help="plain and traced runs of each plan in a pass, that many each (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="passes over all models; the median counts (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the rows there, after every model")
    parser.add_argument("--resume", action="store_true", help="go on with what that file has")
    options = parser.parse_args()
    wanted = {n for n in options.only.split(",") if n}
    paths = [p for p in sorted(options.models_dir.glob("*.onnx")) if not wanted or p.stem in wanted]
    if not paths or wanted - {p.stem for p in paths}:
        print(f"validate_simulation: no model {', '.join(sorted(wanted - {p.stem for p in paths})) or '*.onnx'} in {options.models_dir}; "
              "make them with tools/make_models.py", file=sys.stderr)
        return 2
    profile = load_profile(options.profile) if options.profile else cached_profile()
    rows: list[Row] = json.loads(options.json.read_text()) if options.resume and options.json and options.json.exists() else []
    first = options.strategies.split(",")[0]
    known = Counter(r["model"] for r in rows if r["strategy"] == first)
    for number, path in ((n, p) for n in range(options.passes) for p in paths):
        if known[path.stem] > number:
            continue
        graph = load(path)
        graph = bind(graph, default_shapes(graph))
        rows += validate(path.stem, graph, profile, options.strategies.split(","), options.runs)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print(table(combined(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
