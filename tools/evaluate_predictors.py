"""How well a profile predicts whole networks that took no part in making it: operators, cut pieces, and whole runs.

    python tools/evaluate_predictors.py --profile p.yaml --models-dir /tmp/models [--only resnet18,vgg16] [--table p.csv] [--json out.json]

Operators are timed twice, minutes apart: first one network after the other, and after all whole runs once more. Prints, per unit, how many
predictions lie within 5, 10 and 15 %, the mean error, and the noise floor (how often both timings of a kernel lie within 10 % of their mean);
and how well the first timing predicts the second; of what was measured as it would have been in the profile's usual moments, and of what the clock
said; what others predict by (FLOPs-linear, CoDL's linear form, a forest per kernel, extra-trees), fitted to the measurements beside the profile,
on the same operators (those whose very shape was sampled are left out); how long fitting takes; the worst kernels and operators; and whole models,
predicted and measured, under the plans of strategies cpu, gpu and coexec. The models are those of tools/make_models.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from coexec.api import InferenceSession, SessionOptions, load, random_feeds
from coexec.devices.base import Device
from coexec.devices.registry import find_devices
from coexec.profiles import load_profile
from coexec.profiling.from_table import fit_profile_from_table
from coexec.profiling.table import read_table
from coexec.report.evaluation import PASSES, Passes, Sample, baselines, by_kernel, judge, query_us, samples_of, timed, worst
from coexec.report.moments import Moments, Run
from coexec.report.timing import interleave, percentile

STRATEGIES = ("cpu", "gpu", "coexec")


def whole_model(path: Path, profile: Any, iters: int, devices: Mapping[str, Device]) -> tuple[dict[str, dict[str, float]], Any]:
    """Per strategy: predicted and measured milliseconds (medians), error, half the spread of the measured ones, planning time.

    Predictions are of usual moments. Before and after every run the reference kernels of the plan's processors are timed, and what the profile
    says of them tells how much longer the plan's kernels take in that moment (`slowness`): `measured_ms` is without that, `clocked_ms` with it.
    """
    graph = load(path)
    feeds = random_feeds(graph)
    with ExitStack() as stack:
        sessions = {s: stack.enter_context(InferenceSession(graph, SessionOptions(), device_profile=profile, strategy=s)) for s in STRATEGIES}
        moments = stack.enter_context(Moments(profile, devices))
        timers = {name: moments.timer(session.plan, session.graph) for name, session in sessions.items()}
        runs: dict[str, list[Run]] = {s: [] for s in STRATEGIES}
        interleave({name: lambda n=name, s=session: runs[n].append(timers[n](lambda: s.run(None, feeds))) for name, session in sessions.items()},
                   2, iters)
        found = {}
        for name, session in sessions.items():
            kept, predicted = runs[name][2:], session.plan.predicted_ms  # the first runs are slower
            ms = [run.steady_ms for run in kept]
            measured = percentile(ms, 50)
            found[name] = {"predicted_ms": predicted, "measured_ms": measured, "error": predicted / measured - 1,
                           "spread": (percentile(ms, 75) - percentile(ms, 25)) / 2 / measured, "clocked_ms": percentile([run.ms for run in kept], 50),
                           "slowness": percentile([run.slowness for run in kept], 50), "planning_ms": session.plan.planning_ms,
                           "nodes": len(session.graph.nodes)}
        return found, sessions["coexec"].graph


def combined(passes: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians of what several passes say of a model, by strategy: what a moment does to a machine may last for minutes."""
    found = {s: {k: percentile([one[s][k] for one in passes], 50) for k in passes[0][s]} for s in passes[0]}
    return {s: {**f, "error": f["predicted_ms"] / f["measured_ms"] - 1} for s, f in found.items()}


def percent(share: float | None) -> str:
    return "      -" if share is None else f"{share:7.1%}"


def show_operators(samples: list[Sample], others: dict[str, dict[str, Any]]) -> None:
    """Figures by unit, beside those of others' ways to predict, the worst kernels, the worst operators."""
    print(f"{'unit':5} {'predicted by':14} {'count':>6} {'5 %':>7} {'10 %':>7} {'15 %':>7} {'mean':>7} {'floor':>7}")
    clocked = judge([s.as_clocked for s in samples])
    first = {unit: {**j, "noise_floor_within_10pct": None} for unit, j in judge(
        [replace(s, predicted_us=s.measured_us, measured_us=s.again_us) for s in samples]).items()}
    for by, judged in {"this profile": judge(samples), "as clocked": clocked, "first timing": first, **others}.items():
        for unit, j in judged.items():
            print(f"{unit:5} {by:14} {j['count']:6} {j['within_5pct']:7.1%} {j['within_10pct']:7.1%} {j['within_15pct']:7.1%} "
                  f"{j['mape']:6.1f}% {percent(j['noise_floor_within_10pct'])}")
    print("\nkernels, worst first")
    for (unit, kernel), j in by_kernel(samples).items():
        print(f"  {unit:4} {kernel:36} {j['count']:4}  within 10 %: {j['within_10pct']:6.1%}  mean {j['mape']:6.1f}%  "
              f"floor {j['noise_floor_within_10pct']:6.1%}")
    print("\noperators, worst first")
    for s in worst(samples, 15):
        print(f"  {s.unit:4} {s.model:20} {s.node[-28:]:28} {s.cut:16} {s.implementation:34} {s.predicted_us:9.1f} {s.truth_us:9.1f} us "
              f"{s.error:+7.1%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True, help="the profile to judge")
    parser.add_argument("--models-dir", type=Path, required=True, help="where tools/make_models.py put its models")
    parser.add_argument("--table", type=Path, help="the measurements behind the profile (default: beside it, as .csv)")
    parser.add_argument("--only", default="", help="names of models, with commas between them (default: all)")
    parser.add_argument("--iters", type=int, default=10, help="runs of each whole model and strategy in a pass (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="passes over the whole models; the median counts (default: %(default)s)")
    parser.add_argument("--skip-operators", action="store_true", help="whole models only")
    parser.add_argument("--skip-models", action="store_true", help="operators only")
    parser.add_argument("--json", help="everything in numbers, to this file")
    options = parser.parse_args()
    profile, devices = load_profile(options.profile), find_devices()
    wanted = {w for w in options.only.split(",") if w}
    paths = sorted(p for p in options.models_dir.glob("*.onnx") if not wanted or p.stem in wanted)
    if not paths:
        print(f"no models in {options.models_dir}: make them with tools/make_models.py", file=sys.stderr)
        return 2
    samples: list[Sample] = []
    first: dict[str, Passes] = {}
    models: dict[str, Any] = {}
    for path in paths:
        print(path.stem, file=sys.stderr, flush=True)
        if options.skip_models:
            with InferenceSession(str(path), device_profile=profile, strategy="cpu") as session:
                graph = session.graph
        else:
            told, graph = whole_model(path, profile, options.iters, devices)
            models[path.stem] = [told]
        if not options.skip_operators:
            first[path.stem] = timed(path.stem, graph, profile, devices, 1, PASSES)
            print(f"  {query_us(profile, graph):.0f} us a prediction in a batch of a thousand", file=sys.stderr)
    for path in [p for _ in range(options.passes - 1) for p in paths if models]:
        models[path.stem].append(whole_model(path, profile, options.iters, devices)[0])
    for path in [p for p in paths if p.stem in first]:  # the second time, much later: moments differ more than a moment's timings
        with InferenceSession(str(path), device_profile=profile, strategy="cpu") as session:
            samples += samples_of(path.stem, session.graph, profile, first[path.stem],
                                  timed(path.stem, session.graph, profile, devices, 1, PASSES))
    models = {name: combined(passes) for name, passes in models.items()}
    table, others = options.table or Path(options.profile).with_suffix(".csv"), {}
    if samples and table.exists():
        rows = read_table(table)
        seen = {r.shape_key for r in rows}
        fresh = [s for s in samples if (s.op_type, "float32", *s.shape.values()) not in seen]
        print(f"{len(samples) - len(fresh)} of {len(samples)} operators have a shape that was sampled too: left out", file=sys.stderr)
        samples = fresh
        begun = time.perf_counter()
        fit_profile_from_table(rows)
        print(f"fitting {len(rows)} rows: {time.perf_counter() - begun:.1f} s", file=sys.stderr)
        others = baselines(samples, rows, profile)
    elif samples:
        print(f"no measurements at {table}: no baselines (see --table)", file=sys.stderr)
    if samples:
        show_operators(samples, others)
    if models:
        heads = [f"{s + ' predicted':>17} {'measured':>9} {'error':>7} {'+-':>5} {'slow':>5}" for s in STRATEGIES]
        print(f"\n{'model':22} {' '.join(heads)}  planning")
        for name, found in models.items():
            print(f"{name:22} " + " ".join(f"{f['predicted_ms']:14.2f} ms {f['measured_ms']:9.2f} {f['error']:+7.1%} "
                                            f"{f['spread']:5.1%} {f['slowness']:5.2f}"
                                            for f in found.values())
                  + f"  {found['coexec']['planning_ms']:.0f} ms, {found['coexec']['nodes']:.0f} nodes")
    if options.json:
        clocked = judge([s.as_clocked for s in samples])
        told = {"models": models, "devices": judge(samples), "as_clocked": clocked, "baselines": others, "ops": [vars(s) for s in samples]}
        Path(options.json).write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
