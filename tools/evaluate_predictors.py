"""How well a profile predicts whole networks that took no part in making it: operators, cut pieces, and whole runs.

    python tools/evaluate_predictors.py --profile p.yaml --models-dir /tmp/models [--only resnet18,vgg16] [--table p.csv] [--json out.json]

Prints, per unit, how many predictions lie within 5, 10 and 15 %, the mean error, and the noise floor (how often a second measurement of
the same kernel lies within 10 % of the first); what others predict by (FLOPs-linear, CoDL's linear form, a forest per kernel, extra-trees),
fitted to the measurements beside the profile, on the same operators (those whose very shape was sampled are left out); how long fitting
takes; the worst kernels and operators; and whole
models, predicted and measured, under the plans of strategies cpu, gpu and coexec. The models are those of tools/make_models.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from coexec.api import InferenceSession, SessionOptions, load, random_feeds
from coexec.devices.base import Device
from coexec.devices.registry import find_devices
from coexec.profiles import load_profile
from coexec.profiling.fit import fit_profile_from_table
from coexec.profiling.rounds import NoClock, Round
from coexec.profiling.steady import TOLERANCE, Steadiness, good_moment
from coexec.profiling.table import read_table
from coexec.report.evaluation import Sample, baselines, by_kernel, judge, measure_operators, query_us, worst
from coexec.report.timing import percentile

STRATEGIES = ("cpu", "gpu", "coexec")
#: Fewer runs in good moments tell no median.
LEAST_GOOD = 3


def whole_model(path: Path, profile: Any, iters: int, devices: Mapping[str, Device]) -> tuple[dict[str, dict[str, float]], Any]:
    """Per strategy: predicted and measured milliseconds (median), error, half the spread of the measured ones, planning time.

    As kernels are timed, so are runs: between readings of the reference kernels of the plan's processors that are good ones, where three runs or
    more are (`good`: how many; in the table, the number behind `+-`), else at any time. `drift`: the reference kernels' time beside those runs
    by what they took in the profile's good moments (median; in the table behind the number of good runs).
    """
    graph = load(path)
    feeds = random_feeds(graph)
    sessions = {s: InferenceSession(graph, SessionOptions(), device_profile=profile, strategy=s) for s in STRATEGIES}
    gates: dict[str, Round] = {}
    try:
        # All cores at once too: two virtual ones may share a real one for a while, which none by itself sees.
        for unit, device, section in (("cpu", devices["cpu"], profile.cpu), ("gpu", devices.get("gpu"), profile.gpu),
                                      ("cpu_alone", devices["cpu"], profile.cpu_alone)):
            if device is not None and section is not None:
                with suppress(NoClock):
                    gates[unit] = Round(device, [], section.threads or 1, Steadiness(good_moment(section)))
        used = {"cpu": ("cpu_alone",) if "cpu_alone" in gates else ("cpu",), "gpu": ("gpu",), "coexec": ("cpu", "gpu")}
        good: dict[str, list[bool]] = {s: [] for s in STRATEGIES}
        drift: dict[str, list[float]] = {s: [] for s in STRATEGIES}

        def reading(name: str) -> float:
            """The worst of the references of that plan's units, by what it takes in a good moment."""
            asked = [gate for unit, gate in gates.items() if unit in used[name]]
            return max([1.0, *((gate.reading(), gate.steady.ratio)[1] for gate in asked)])

        times = {s: [] for s in STRATEGIES}
        for turn in range(2 + iters):
            for name in STRATEGIES[turn % 3:] + STRATEGIES[:turn % 3]:
                before = reading(name)
                begun = time.perf_counter()
                sessions[name].run(None, feeds)
                took = (time.perf_counter() - begun) * 1e3
                after = reading(name)
                if turn >= 2:  # the first runs are slower
                    times[name].append(took)
                    good[name].append(max(before, after) <= TOLERANCE)
                    drift[name].append(max(before, after))
        found = {}
        for name, session in sessions.items():
            kept = [ms for ms, fine in zip(times[name], good[name]) if fine]
            kept = kept if len(kept) >= LEAST_GOOD else times[name]
            measured, predicted = percentile(kept, 50), session.plan.predicted_ms
            spread = (percentile(kept, 75) - percentile(kept, 25)) / 2 / measured
            found[name] = {"predicted_ms": predicted, "measured_ms": measured, "error": predicted / measured - 1, "spread": spread,
                           "planning_ms": session.plan.planning_ms, "nodes": len(session.graph.nodes), "good": sum(good[name]),
                           "drift": percentile(drift[name], 50),
                           "all_ms": times[name]}
        return found, sessions["coexec"].graph
    finally:
        for gate in gates.values():
            gate.close()
        for session in sessions.values():
            session.close()


def show_operators(samples: list[Sample], others: dict[str, dict[str, Any]]) -> None:
    """Figures by unit, beside those of others' ways to predict, the worst kernels, the worst operators."""
    print(f"{'unit':5} {'predicted by':14} {'count':>6} {'5 %':>7} {'10 %':>7} {'15 %':>7} {'mean':>7} {'floor':>7}")
    for by, judged in {"this profile": judge(samples), **others}.items():
        for unit, j in judged.items():
            print(f"{unit:5} {by:14} {j['count']:6} {j['within_5pct']:7.1%} {j['within_10pct']:7.1%} {j['within_15pct']:7.1%} "
                  f"{j['mape']:6.1f}% {j['noise_floor_within_10pct']:7.1%}")
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
    parser.add_argument("--iters", type=int, default=10, help="runs of each whole model and strategy (default: %(default)s)")
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
    models: dict[str, Any] = {}
    for path in paths:
        print(path.stem, file=sys.stderr, flush=True)
        if options.skip_models:
            with InferenceSession(str(path), device_profile=profile, strategy="cpu") as session:
                graph = session.graph
        else:
            models[path.stem], graph = whole_model(path, profile, options.iters, devices)
        if not options.skip_operators:
            samples += measure_operators(path.stem, graph, profile, devices, 1, 0.01)
            print(f"  {query_us(profile, graph):.0f} us a prediction in a batch of a thousand", file=sys.stderr)
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
        heads = [f"{s + ' predicted':>17} {'measured':>9} {'error':>7} {'+-':>5} good drift" for s in STRATEGIES]
        print(f"\n{'model':22} {' '.join(heads)}  planning")
        for name, found in models.items():
            print(f"{name:22} " + " ".join(f"{f['predicted_ms']:14.2f} ms {f['measured_ms']:9.2f} {f['error']:+7.1%} "
                                            f"{f['spread']:5.1%} {f['good']:4} {f['drift']:5.2f}"
                                            for f in found.values())
                  + f"  {found['coexec']['planning_ms']:.0f} ms, {found['coexec']['nodes']} nodes")
    if options.json:
        told = {"models": models, "devices": judge(samples), "baselines": others, "ops": [vars(s) for s in samples]}
        Path(options.json).write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
