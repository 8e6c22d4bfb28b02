"""Judges a profile on whole models: how well it predicts their operators and their run time, beside how well measurements repeat."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import options as shared
from .console import Console, milliseconds, table
from .profile import show_accuracy
from .progress import Progress
from .session import profile

HELP = "how well a profile predicts whole models"
EXAMPLES = (
    "coexec evaluate resnet18.onnx mobilenet_v2.onnx --profile p.yaml",
    "coexec evaluate resnet18.onnx --profile p.yaml --baselines p.csv",
)
NOTES = """Judge a profile by models that took no part in fitting it. The noise floor says how often a second timing of the same kernel falls within
10 % of the first: a prediction cannot be better than that."""


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser, many=True)
    shared.planning(parser)
    parser.add_argument("--iters", metavar="N", type=shared.positive, default=10, help="runs of each whole model (default: %(default)s)")
    parser.add_argument("--baselines", metavar="T.csv", help="also judge what others predict by, fitted to this table of the profile's timings")
    parser.add_argument("--seed", metavar="N", type=shared.count, default=0, help="of the made-up inputs (default: %(default)s)")


def execute(options: argparse.Namespace, console: Console) -> int:
    from ..profiling.table import read_table
    from ..report.evaluation import baselines, judge, query_us

    rows = read_table(options.baselines) if options.baselines else []
    known = profile(options, [options.strategy], console)
    samples, models, queries = [], {}, []
    for path in options.model:
        name = Path(path).stem if Path(path).stem not in models else path
        found, models[name], graph = _one(name, path, known, options, console)
        samples += found
        if known is not None:
            queries.append(query_us(known, graph))
    judged = judge(samples)
    others = baselines(samples, rows, known) if rows and known is not None else {}
    console.emit(
        {
            "profile": getattr(known, "name", None),
            "strategy": options.strategy,
            "devices": judged,
            **({"baselines": others} if rows else {}),
            "models": models,
            "predict_us_per_query": sum(queries) / len(queries) if queries else None,
            "ops": [vars(s) for s in samples],
        }
    )
    show_accuracy(judged, console, others)
    rows = [
        (name, milliseconds(m["predicted_ms"]), milliseconds(m["measured_ms"]), "-" if m["error"] is None else f"{100 * m['error']:+.1f} %",
         milliseconds(m["clocked_ms"]), f"{m['slowness']:.2f}")
        for name, m in models.items()
    ]
    console.result(table(rows, ("model", "predicted ms", "measured ms", "error", "clocked ms", "slowness")))
    return 0


def _one(name: str, path: str, known: Any, options: argparse.Namespace, console: Console) -> tuple[list[Any], dict[str, Any], Any]:
    """Samples of the model's operators, its whole time predicted and measured, and its prepared graph."""
    from ..api import InferenceSession, SessionOptions, default_shapes, load, random_feeds
    from ..report.evaluation import measure_operators
    from ..report.timing import percentile

    graph = load(path)
    shapes = default_shapes(graph, {k: v for k, v in options.shape if any(k == i.name for i in graph.inputs)})
    given = random_feeds(graph, shapes, options.seed)
    with ExitStack() as stack:
        with Progress(console, "preparing") as tick:
            settings = SessionOptions(**shared.wished(options), shapes=shapes, progress=tick.of(name))
            session = stack.enter_context(InferenceSession(graph, settings, device_profile=known, strategy=options.strategy))
            session.run(None, given)
        with Progress(console, "measuring", still=True) as tick:
            runs = _runs(session, given, known, options.iters, tick.of(name))
        predicted, prepared = session.plan.predicted_ms, session.graph
        devices, threads = session.devices, session.threads
    measured = percentile([run.steady_ms for run in runs], 50)
    told = {"predicted_ms": predicted, "measured_ms": measured, "error": None if predicted is None else predicted / measured - 1,
            "clocked_ms": percentile([run.ms for run in runs], 50), "slowness": percentile([run.slowness for run in runs], 50)}
    with Progress(console, "evaluating", still=True) as tick:
        samples = [] if known is None else measure_operators(name, prepared, known, devices, threads, progress=tick)
    return samples, told, prepared


def _runs(session: Any, given: Any, known: Any, iters: int, tick: Any) -> list[Any]:
    """So many runs, each beside what moment it was measured in where the profile tells, with nothing of the session's in the caches."""
    from ..report.moments import Moments, Run
    from ..report.timing import interleave

    if known is None:
        return [Run(ms, 1.0) for ms in interleave({"": lambda: session.run(None, given)}, 1, iters, tick)[""]]
    found = []
    with Moments(known, session.devices) as moments:
        timed = moments.timer(session.plan, session.graph, cold=True)
        for number in range(1 + iters):  # the first is slower
            found.append(timed(lambda: session.run(None, given)))
            tick(number, 1 + iters)
    return found[1:]
