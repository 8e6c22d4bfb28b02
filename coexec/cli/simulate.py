"""Simulates runs of a model on a board that need not be there: from its profile, or from one with some numbers changed."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import Any

from .. import files
from ..errors import UsageError
from . import options as shared
from .console import Console, milliseconds, table
from .plan import estimated_share
from .progress import Progress

HELP = "what a model would take on a board that is not here, and on boards like it"
EXAMPLES = (
    "coexec simulate model.onnx --profile profiles/snapdragon-855.yaml",
    "coexec simulate model.onnx --profile board.yaml --strategy cpu,greedy,coexec --trace t.json",
    "coexec simulate model.onnx --profile board.yaml --set gpu.peak_gflops=2x --set sync_us=100",
    "coexec simulate model.onnx --profile board.yaml --sweep sync_us=10..1000:20 --csv sweep.csv --plot sweep.png",
    "coexec simulate model.onnx --profile board.yaml --scenario throttle:gpu,to=0.5,after=1s --runs 100",
)
NOTES = """Everything here is simulated, nothing is measured: a run is taken through the executor's own steps, on clocks, with the profile's times.
profiles/ holds boards made from datasheets; docs/boards.md says how near simulations come."""
#: Strategies that are compared unless others are named.
COMPARED = ("cpu", "gpu", "coexec")


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser)
    parser.add_argument("--profile", metavar="P.yaml", help="the board's profile (default: this machine's, made quickly if there is none)")
    parser.add_argument("--strategy", metavar="S,S,...", type=shared.strategies, default=None, help="strategies to compare (default: cpu,gpu,coexec)")
    parser.add_argument("--plan", metavar="PLAN.json", help="simulate this plan instead of making some")
    parser.add_argument("--trace", metavar="T.json", help="write a trace of the last strategy's run, for ui.perfetto.dev")
    group = parser.add_argument_group("what if")
    group.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change a number of the profile: gpu.peak_gflops=2x, cpu.bandwidth_gbs=20, sync_us=100; may be given again",
    )
    group.add_argument(
        "--sweep",
        metavar="NAME=A,B,C",
        action="append",
        default=[],
        help="plan and simulate for each value, or for NAME=A..B:COUNT, values in equal ratios; several sweeps are combined",
    )
    group.add_argument("--csv", metavar="F.csv", help="write the sweep, a line per what-if (default: to stdout)")
    group.add_argument("--plot", metavar="F.png", help="draw the sweep: PNG, SVG or PDF by the name (needs matplotlib)")
    group = parser.add_argument_group("scenarios")
    group.add_argument(
        "--scenario",
        metavar="KIND:UNIT,...",
        action="append",
        default=[],
        help="throttle:gpu,to=0.5,after=2s or load:cpu,share=0.3,from=1s,until=4s; may be given again",
    )
    group.add_argument("--runs", metavar="N", type=shared.positive, default=100, help="runs through the scenario (default: %(default)s)")


def execute(options: argparse.Namespace, console: Console) -> int:
    from .. import api
    from ..api.simulation import possible
    from ..simulate.scenario import parse_scenario
    from ..simulate.what_if import changed, parse_change, parse_sweep

    targets = {name: shared.writable(getattr(options, name), f"--{name}") for name in ("csv", "plot", "trace")}
    _check(options)
    changes, sweeps = [parse_change(c) for c in options.changes], [parse_sweep(s) for s in options.sweep]
    scenario = parse_scenario(options.scenario)
    graph = api.load(options.model)
    graph = api.bind(graph, api.default_shapes(graph, dict(options.shape)))
    board = changed(_profile(options, console), changes)
    asked = options.strategy or possible(COMPARED, board)
    about = {"model": options.model, "profile": board.name, "simulated": True, "changes": [str(c) for c in changes]}
    if sweeps:
        return _sweep(graph, board, sweeps, asked, targets, about, console)
    if options.scenario:
        return _scenario(graph, board, asked[-1], scenario, options.runs, about, console)
    return _compare(graph, board, asked, options, targets["trace"], about, console)


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError for options that say nothing together."""
    for name, needs in (("csv", "sweep"), ("plot", "sweep")):
        if getattr(options, name) and not getattr(options, needs):
            raise UsageError(f"--{name} needs a --{needs}", where="simulate")
    apart = ("sweep", "scenario"), ("sweep", "trace"), ("sweep", "plan"), ("scenario", "plan"), ("scenario", "trace"), ("plan", "strategy")
    for one, other in apart:
        if getattr(options, one) and getattr(options, other):
            raise UsageError(f"--{one} and --{other} do not go together", where="simulate", expected="one of them")
    if options.plot:
        from ..report.plots import check_available, check_name

        check_name(Path(options.plot))
        check_available("--plot")


def _profile(options: argparse.Namespace, console: Console) -> Any:
    from ..api import cached_profile
    from ..profiles import load_profile

    if options.profile:
        return load_profile(options.profile)
    with Progress(console, "measuring this machine, once", still=True, seconds=True) as tick:
        return cached_profile(progress=tick)


def _compare(graph: Any, board: Any, asked: list[str], options: argparse.Namespace, trace: Path | None, about: dict[str, Any],
             console: Console) -> int:
    from ..api.simulation import simulate_plan, simulate_strategies
    from ..partition.plan import Plan
    from ..simulate.run import as_trace

    if options.plan:
        made = Plan.load(options.plan)
        made.check(graph)
        found = {made.strategy: simulate_plan(graph, made, board)}
    else:
        found = simulate_strategies(graph, board, asked)
    rows = {
        name: {
            "simulated_ms": one.simulated_ms,
            "predicted_ms": one.plan.predicted_ms,
            "busy": {unit: us / one.run.latency_us for unit, us in sorted(one.run.busy_us.items())},
            "waiting_ms": one.run.waiting_us / 1e3,
            "planning_ms": one.plan.planning_ms,
            "estimated_share": estimated_share(one.plan),
            "memory_bytes": one.program.memory.nbytes,
            "chains": len(one.plan.chains),
        }
        for name, one in found.items()
    }
    single = [r["simulated_ms"] for name, r in rows.items() if name in ("cpu", "gpu")]
    both = [r["simulated_ms"] for name, r in rows.items() if name not in ("cpu", "gpu")]
    gain = min(single) / min(both) if single and both else None
    if trace is not None:
        *_, last = found.values()
        as_trace(last.program, last.run).save(trace)
    changes = f" with {', '.join(about['changes'])}" if about["changes"] else ""
    console.emit({**about, "strategies": rows, "speedup_over_best_single": gain, "trace": str(trace) if trace else None})
    console.result(f"simulated on {board.name}{changes}")
    units = [u for u in ("cpu", "little", "gpu") if any(u in r["busy"] for r in rows.values())]
    lines = [
        (name, milliseconds(r["simulated_ms"]), *(_percent(r["busy"].get(u)) for u in units), milliseconds(r["waiting_ms"]), r["chains"],
         _percent(r["estimated_share"]))
        for name, r in rows.items()
    ]  # fmt: skip
    console.result(table(lines, ("strategy", "simulated ms", *(f"{u} busy" for u in units), "waits ms", "chains", "rough estimate")))
    if gain is not None:
        console.result(f"both together: {gain:.2f} times as fast as the best single device")
    if trace is not None:
        console.note(f"wrote {trace}")
    return 0


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _sweep(graph: Any, board: Any, sweeps: Any, asked: list[str], targets: dict[str, Path | None], about: dict[str, Any], console: Console) -> int:
    from ..api.simulation import PAYS, pays_at, what_ifs
    from ..simulate.what_if import combinations

    with Progress(console, "what if") as tick:
        points = what_ifs(graph, board, combinations(sweeps), asked, tick)
    names = [s[0].name for s in sweeps]
    lines = [[*(c.told for c in p.changes), *(f"{p.simulated_ms[s]:.4f}" for s in asked), "" if p.gain is None else f"{p.gain:.4f}"] for p in points]
    header = [*names, *(f"{s}_ms" for s in asked), "gain"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    if targets["csv"] is not None:
        files.write(targets["csv"], text.getvalue())
        console.note(f"wrote {targets['csv']}")
    if targets["plot"] is not None:
        from ..report.plots import sweep

        sweep([[c.value for c in p.changes] for p in points], names, {s: [p.simulated_ms[s] for p in points] for s in asked},
              f"{Path(about['model']).stem} on {board.name}, simulated", targets["plot"])
        console.note(f"wrote {targets['plot']}")
    paying = pays_at(points)
    console.emit({**about, "names": names, "rows": [dict(zip(header, _numbers(line))) for line in lines],
                  "pays": [dict(zip(names, _numbers([c.told for c in p.changes]))) for p in paying]})
    told = (f"co-execution pays (by {100 * PAYS:g} % and more) at {len(paying)} of {len(points)}"
            + (f": {_extent(paying)}" if paying and len(names) == 1 else ""))  # fmt: skip
    if targets["csv"] is None:
        console.result(text.getvalue().rstrip())  # nothing else: it may be piped into a file
        console.note(told)
    else:
        console.result(told)
    return 0


def _numbers(told: list[str]) -> list[Any]:
    """Plain numbers as numbers; factors stay text."""
    return [float(t) if t and t[-1].isdigit() else t or None for t in told]


def _extent(points: list[Any]) -> str:
    values = sorted((c for p in points for c in p.changes), key=lambda c: c.value or 0.0)
    return f"{values[0].name} {values[0].told} to {values[-1].told}"


def _scenario(graph: Any, board: Any, strategy: str, scenario: Any, runs: int, about: dict[str, Any], console: Console) -> int:
    from ..api.simulation import course

    found = {}
    for name, replan in (("plan kept", False), ("planned anew", True)):
        with Progress(console, name) as tick:
            found[name] = course(graph, board, strategy, runs, scenario, replan, tick)
    console.emit({**about, "strategy": strategy, "scenario": scenario.told, "runs": runs,
                  "courses": {name.replace(" ", "_"): one.to_dict() for name, one in found.items()}})
    console.result(f"simulated on {board.name}: {scenario.told}, {runs} runs of strategy {strategy}")
    rows = [(name, milliseconds(one.simulated_ms[0]), milliseconds(one.to_dict()["p50_ms"]), milliseconds(one.simulated_ms[-1]),
             milliseconds(sum(one.simulated_ms)), " ".join(map(str, one.planned_at[:8])) or "-") for name, one in found.items()]
    console.result(table(rows, ("", "first ms", "median ms", "last ms", "all ms", "planned anew before run"), "lrrrrl"))
    return 0
