"""Writes a page about one model: the graph with every cut, a timeline of both processors, predicted against measured, memory, alternatives."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import files
from ..errors import UsageError
from . import options as shared
from .console import Console, milliseconds
from .progress import Progress
from .session import add_inputs, feeds, profile, session_options, shapes_of

HELP = "a page with pictures of the plan and of a run"
EXAMPLES = (
    "coexec report model.onnx -o report.html",
    "coexec report model.onnx --strategy fixed:gpu=0.5 --image cat.jpg -o report.html",
    "coexec report model.onnx --profile profiles/board.yaml --no-run -o report.html  # for a board that is not here",
    "coexec report model.onnx -o report.html --plots figures --json",
)
NOTES = """The page holds no script and fetches nothing. Inputs are made up unless they are given. Where the profile is of another board than this,
use --no-run: it plans for that board and leaves out what only a run can tell."""

#: Strategies whose prediction the page shows beside the plan's.
OTHERS = ("cpu", "gpu", "fixed:gpu=0.5", "flops", "greedy", "coexec")


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser)
    add_inputs(parser)
    group = parser.add_argument_group("how it runs")
    shared.planning(group)
    group.add_argument("--no-run", action="store_true", help="only plan, for a board that is not here; what needs a run is left out")
    group.add_argument("--iters", metavar="N", type=shared.positive, default=20, help="runs of each strategy (default: %(default)s)")
    group = parser.add_argument_group("what comes out")
    group.add_argument("-o", "--output", metavar="PAGE.html", default="report.html", help="the page (default: %(default)s)")
    group.add_argument("--plots", metavar="FOLDER", help="also the plots as PNG and SVG files, drawn by matplotlib")


def execute(options: argparse.Namespace, console: Console) -> int:
    from ..api import load
    from ..report import page, plots
    from ..report.story import untraced_ms

    target = shared.writable(options.output)
    folder = Path(options.plots) if options.plots else None
    if folder is not None:
        plots.check_available()
        if folder.exists() and not folder.is_dir():
            raise UsageError("cannot write plots there", where="--plots", found=f"'{folder}', a file", expected="a folder")
    graph = load(options.model)
    told = _planned(graph, options, console) if options.no_run else _ran(graph, options, console)
    written = plots.save(told, folder) if folder is not None else []
    files.write(target, page.render(told))
    if told["foreign"]:
        console.note(f"the profile is of another board than this, '{told['profile']}': what is predicted is for that board, what is measured is of "
                     "this one; --no-run tells of that board alone")
    console.emit({**told, "model_file": options.model, "written": [str(target), *map(str, written)]})
    measured = untraced_ms(told) or told["measured_ms"]
    if measured is not None:
        console.result(f"{told['model']}: {milliseconds(measured)} ms measured, {milliseconds(told['predicted_ms'])} ms predicted")
    else:
        console.result(f"{told['model']}: {milliseconds(told['predicted_ms'])} ms predicted")
    console.result(f"wrote {target}" + (f" and {len(written)} plots in {folder}" if written else ""))
    return 0


def _planned(graph: Any, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The story of a plan that nobody runs: no device is touched where a profile is named."""
    from .. import api
    from ..report.story import tell

    known = profile(options, [options.strategy], console)
    bound = api.bind(graph, api.default_shapes(graph, dict(options.shape)))
    made = api.plan(bound, strategy=options.strategy, profile=known, **shared.wished(options))
    others = _others(bound, known, {})
    return tell(bound, made, profile=known, alone={k: p for k, p in others.items() if k in ("cpu", "gpu")}, alternatives=_rows(others, made, {}))


def _ran(graph: Any, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The story of a plan and of its runs, beside those of each device alone, in turns."""
    from ..api import InferenceSession
    from ..devices.registry import find_devices
    from ..report.story import tell
    from ..report.timing import interleave, percentile
    from ..runtime.trace import Trace

    given = feeds(graph, options, random_by_default=True)
    known = profile(options, [options.strategy], console)
    trace, shapes = Trace(), shapes_of(given)
    with ExitStack() as stack:
        names = list(dict.fromkeys([options.strategy, "cpu", *(["gpu"] if "gpu" in find_devices() else [])]))
        sessions = {}
        with Progress(console, "preparing") as tick:
            for name in names:
                asked = session_options(options, shapes, tick.of(name), baseline=name != options.strategy)
                sessions[name] = stack.enter_context(InferenceSession(graph, asked, device_profile=known, strategy=name))
                sessions[name].run(None, given)
        with Progress(console, "measuring", still=True) as tick:
            times = interleave({name: lambda s=s: s.run(None, given) for name, s in sessions.items()}, 1, options.iters, tick)
        chosen = sessions[options.strategy]
        traced = replace(chosen.options, enable_profiling=trace, progress=None)
        with InferenceSession(graph, traced, plan=replace(chosen.plan, board={})) as session, Progress(console, "tracing", still=True) as tick:
            for turn in range(options.iters + 1):
                session.run(None, given)
                tick(turn + 1, options.iters + 1)
            others = _others(session.graph, known, session.devices)
            measured = {s.plan.strategy: percentile(times[name], 50) for name, s in sessions.items()}
            told = tell(session.graph, session.plan, profile=known, trace=trace, alone={k: p for k, p in others.items() if k in ("cpu", "gpu")},
                        alternatives=_rows(others, session.plan, measured), offsets=session.memory.offsets, arena_bytes=session.memory.nbytes)
            with tempfile.TemporaryDirectory() as nowhere:  # a session that closes with a trace would write it into the current folder
                session.end_profiling(Path(nowhere) / "trace.json")
    return told


def _others(graph: Any, known: Any, devices: dict[str, Any]) -> dict[str, Any]:
    """Plans of the usual strategies, by name; none without a profile to price them by, and none for a GPU that is not there."""
    from .. import api

    if known is None:
        return {}
    names = [n for n in OTHERS if known.gpu is not None or n == "cpu"]
    return {name: api.plan_prepared(graph, strategy=name, profile=known, devices=devices or None) for name in names}


def _rows(others: dict[str, Any], made: Any, measured: dict[str, float]) -> list[dict[str, Any]]:
    """The alternatives with the plan itself, those that were measured first."""
    plans = {**{p.strategy: p for p in others.values()}, made.strategy: made}
    rows = [{"strategy": name, "predicted_ms": p.predicted_ms, "measured_ms": measured.get(name)} for name, p in plans.items()]
    rows += [{"strategy": name, "predicted_ms": None, "measured_ms": ms} for name, ms in measured.items() if name not in plans]
    return sorted(rows, key=lambda r: (r["measured_ms"] is None, r["measured_ms"] or r["predicted_ms"] or 0.0))
