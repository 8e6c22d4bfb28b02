"""Measures strategies side by side, in turns, beside the best single device and the ideal bound."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import UsageError
from . import options as shared
from .console import Console, milliseconds, table
from .progress import Progress
from .session import add_inputs, feeds, profile, session_options, shapes_of

if TYPE_CHECKING:
    from ..graph.ir import Graph
    from ..partition.plan import Plan

HELP = "latency of several strategies, side by side"
EXAMPLES = (
    "coexec bench model.onnx",
    "coexec bench model.onnx --compare cpu,gpu,flops,coexec --iters 200",
    "coexec bench model.onnx --compare cpu,fixed:gpu=0.3,fixed:gpu=0.5 --json",
    "coexec bench model.onnx --verify            # the plan is first checked and corrected by measurement",
    "coexec bench model.onnx --tune 2m --verify  # ... after kernel forms were tried for what the GPU computes",
    "coexec bench model.onnx --compare cpu,gpu,coexec --max-gpu-share 0.3",
    "coexec bench model.onnx --oracle",
    "coexec bench model.onnx --export-json times.json --export-csv times.csv",
)
NOTES = """Strategies take turns, so that a noisy moment hits all alike; inputs are made up unless they are given. The bound 1 / (1 / cpu + 1 / gpu)
is what no cut can pass. Histograms are all on one scale. The exported files are those of hyperfine, with a strategy in place of a command."""


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser)
    add_inputs(parser)
    shared.planning(parser, strategy=False)
    parser.add_argument(
        "--compare", metavar="S,S,...", type=shared.strategies, default=["cpu", "gpu", "coexec"], help="strategies (default: cpu,gpu,coexec)"
    )
    parser.add_argument("--warmup", metavar="N", type=shared.count, default=5, help="runs before counting (default: %(default)s)")
    parser.add_argument(
        "--iters", metavar="N", type=shared.positive, default=50, help="rounds; each runs every strategy once (default: %(default)s)"
    )
    parser.add_argument("--percentiles", metavar="P,P", type=_percentiles, default=(50.0, 90.0, 99.0), help="of the latency (default: 50,90,99)")
    shared.measuring(parser)
    parser.add_argument("--export-json", metavar="F.json", help="write every time, in seconds, as hyperfine does")
    parser.add_argument("--export-csv", metavar="F.csv", help="write a line per strategy, in seconds, as hyperfine does")
    parser.add_argument("--oracle", action="store_true", help="also time every operator by itself, in every sensible cut (slow)")


def execute(options: argparse.Namespace, console: Console) -> int:
    from ..api import InferenceSession, load
    from ..report.export import as_csv, as_json
    from ..report.timing import interleave, summary

    exports = {(option, form): shared.writable(path, option) for option, form, path in (
        ("--export-json", as_json, options.export_json), ("--export-csv", as_csv, options.export_csv)) if path}  # fmt: skip
    graph = load(options.model)
    given = feeds(graph, options, random_by_default=True)
    known = profile(options, options.compare, console)
    percents = sorted({50.0, 90.0, 99.0, *options.percentiles})
    with ExitStack() as stack:
        sessions = {}
        with Progress(console, "preparing") as tick:
            for name in options.compare:
                asked = session_options(options, shapes_of(given), tick.of(name), baseline=name in ("cpu", "gpu"))
                sessions[name] = stack.enter_context(InferenceSession(graph, asked, device_profile=known, strategy=name))
                if options.warmup:
                    sessions[name].run(None, given)
        with Progress(console, "benchmark", still=True) as tick:
            runs = {name: lambda s=s: s.run(None, given) for name, s in sessions.items()}
            times = interleave(runs, max(0, options.warmup - 1), options.iters, tick)
        found = {
            name: {
                **summary(times[name], percents),
                "predicted_ms": s.plan.predicted_ms,
                **({"energy_mj_modelled": s.plan.energy_mj} if s.plan.energy_mj is not None else {}),
                "peak_memory_bytes": s.peak_memory_bytes,
                "measured_memory_bytes": s.measured_memory_bytes,
                "copied_bytes_per_run": s.copied_bytes_per_run,
                "threads": s.threads,
                **({"candidates": [{"name": c.name, "ms": c.latency_ms} for c in s.candidates]} if s.candidates else {}),
            }
            for name, s in sessions.items()
        }
        devices = {
            unit: {"name": d.facts.name, "driver": d.facts.driver, "emulated": d.facts.emulated}
            for s in sessions.values()
            for unit, d in s.devices.items()
        }
        compared = compare(found)
        oracle = _oracle(sessions, compared["compared"], options.threads, console) if options.oracle else {}
    report = {
        "model": options.model,
        "profile": getattr(known, "name", None),
        "strategies": found,
        **compared,
        **oracle,
        "devices": devices,
        **_version(),
    }
    for (_, form), path in exports.items():
        files.write(path, form(times))
    console.emit(report)
    _show(report, options, console)
    _show_spread(times, console)
    for path in exports.values():
        console.note(f"wrote {path}")
    if options.oracle:
        _show_oracle(report, console)
    return 0


def _oracle(sessions: dict[str, Any], name: str | None, wanted: int, console: Console) -> dict[str, Any]:
    """Every operator by itself, beside what the strategy `name` chooses for it."""
    from ..api.planning import plan_prepared
    from ..devices.registry import session_threads
    from ..report.oracle import inside_runs, oracle

    session = sessions.get(name)
    if session is None or "gpu" not in session.devices:
        raise UsageError("--oracle needs a strategy that may split, and a GPU", found=", ".join(sessions), hint="add coexec to --compare")
    threads = {"cpu": session_threads(session.devices, wanted, gpu_used=False), "gpu": session_threads(session.devices, wanted)}

    board = None if session.profile is None else inside_runs(session.profile)

    def choose(graph: Graph) -> Plan:
        return plan_prepared(graph, profile=board, strategy=name, devices=session.devices, threads=wanted)

    with Progress(console, "oracle") as tick:
        return oracle(session.graph, choose, session.devices, threads, progress=tick)


def compare(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The best single device, how much faster the best of the others is (None where either is missing), and the ideal bound."""
    from ..report.timing import ideal

    single = {name: found[name]["p50_ms"] for name in ("cpu", "gpu") if name in found}
    others = {name: facts["p50_ms"] for name, facts in found.items() if name not in single}
    best = min(single, key=single.__getitem__) if single else None
    chosen = "coexec" if "coexec" in others else min(others, key=others.__getitem__) if others else None
    bound = ideal(single["cpu"], single["gpu"]) if len(single) == 2 else None
    return {
        "best_single": best,
        "compared": chosen,
        "ideal_ms": bound,
        "speedup_over_best_single": single[best] / others[chosen] if best and chosen else None,
        "ideal_speedup": single[best] / bound if bound else None,
    }


def _show(report: dict[str, Any], options: argparse.Namespace, console: Console) -> None:
    shown = [f"p{p:g}" for p in options.percentiles]
    best = report["strategies"][report["best_single"]]["p50_ms"] if report["best_single"] else None
    rows = []
    for name, facts in report["strategies"].items():
        rows.append(
            (
                name,
                *(milliseconds(facts[f"{p}_ms"]) for p in shown),
                milliseconds(facts["min_ms"]),
                f"{facts['stdev_ms']:.2f}",
                milliseconds(facts["predicted_ms"]),
                f"{best / facts['p50_ms']:.2f}x" if best else "-",
                f"{facts['peak_memory_bytes'] / 1e6:.1f}",
                facts["threads"],
            )
        )
    if report["ideal_ms"]:
        rows.append(
            (
                "ideal bound",
                *(milliseconds(report["ideal_ms"]) if p == "p50" else "" for p in shown),
                "",
                "",
                "",
                f"{report['ideal_speedup']:.2f}x",
                "",
                "",
            )
        )
    console.result(table(rows, ("strategy", *(f"{p} ms" for p in shown), "min", "stdev", "predicted", "vs best single", "MB", "threads")))
    modelled = {name: f["energy_mj_modelled"] for name, f in report["strategies"].items() if "energy_mj_modelled" in f}
    if modelled:
        console.result("energy of a run, modelled from the profile's watts: " + ", ".join(f"{name} {mj:.3g} mJ" for name, mj in modelled.items()))
    console.result(f"{options.iters} rounds in turns after {options.warmup} warm-up runs; ideal bound: 1/(1/cpu + 1/gpu)")
    for unit, facts in sorted(report["devices"].items()):
        console.result(f"{unit}: {facts['name']}{' (emulated on CPU cores)' if facts['emulated'] else ''}")


def _show_spread(times: dict[str, list[float]], console: Console) -> None:
    """A histogram a strategy, all on one scale, which ends at the longest p99 so that one slow run does not hide the rest."""
    from ..report.export import BLOCKS, PLAIN, spark
    from ..report.timing import percentile

    low, high = min(map(min, times.values())), max(percentile(t, 99) for t in times.values())
    letters = BLOCKS if (getattr(console.out, "encoding", "") or "").lower().startswith("utf") else PLAIN
    width = max(map(len, times))
    console.result(f"latency from {milliseconds(low)} to {milliseconds(high)} ms:")
    for name, taken in times.items():
        console.result(f"  {name:{width}} |{spark(taken, low, high, letters=letters)}|")


def _show_oracle(report: dict[str, Any], console: Console) -> None:
    rows = [
        (
            r["name"][-36:],
            r["op_type"],
            f"{r['cpu_us']:.1f}",
            f"{r['gpu_us']:.1f}",
            f"{r['oracle_us']:.1f}",
            f"{r['chosen_us']:.1f}",
            r["oracle"],
        )
        for r in report["ops"]
    ]
    console.result()
    console.result(table(rows, ("operator", "type", "cpu us", "gpu us", "oracle us", "chosen us", "best cut"), "llrrrrl"))
    if report["oracle_speedup_geomean"]:
        console.result(
            f"over the best single device, geometric mean of {len(rows)} operators: oracle {report['oracle_speedup_geomean']:.2f}x, "
            f"{report['compared']} {report['chosen_speedup_geomean']:.2f}x"
        )


def _version() -> dict[str, str]:
    from .. import __version__

    return {"coexec": __version__}


def _percentiles(text: str) -> tuple[float, ...]:
    values = shared.numbers(text)
    if any(not 0 <= v <= 100 for v in values):
        raise argparse.ArgumentTypeError(f"found '{text}', expected numbers from 0 to 100")
    return values
