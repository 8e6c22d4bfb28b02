"""Whether choosing what to time next is worth it: profiles of equal cost, adaptive and at random, judged on whole networks.

    python tools/compare_sampling.py --models-dir models [--seconds 60] [--rounds 3] [--only resnet18,mobilenet_v2] [--json out.json]

In every round each way measures for as long, from nothing, the two one after the other in turns; operators of the networks, whole and cut,
which neither saw, are timed once at the end, twice each as `evaluate_predictors.py` does. Printed are the shares of predictions within 10 %,
and the mean error, by unit, way and round. A round takes twice the seconds and a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from coexec.api import bind, default_shapes, load
from coexec.cost.compose import CostModel
from coexec.devices.registry import find_devices
from coexec.profiling.run import profile_devices
from coexec.report.evaluation import Sample, candidates, judge, measure_operators

WAYS = {"adaptive": True, "random": False}


def profiles(seconds: float, rounds: int) -> dict[str, list[Any]]:
    """By way, a profile of every round, and how many timings it is made of."""
    devices, made = find_devices(), {way: [] for way in WAYS}
    for number in range(rounds):
        for way in list(WAYS)[::1 if number % 2 == 0 else -1]:
            print(f"round {number + 1} of {rounds}: {way}, {seconds:.0f} s", file=sys.stderr, flush=True)
            made[way].append(profile_devices(devices["cpu"], devices.get("gpu"), time_budget_s=seconds, adaptive=WAYS[way], seed=1 + number))
    return made


def again(samples: list[Sample], graphs: dict[str, Any], profile: Any) -> list[Sample]:
    """The same timings, predicted by another profile."""
    costs, found = CostModel(profile), []
    nodes = {(name, node.name): node for name, graph in graphs.items() for node in candidates(graph)}
    for s in samples:
        told = costs.kernel(nodes[s.model, s.node], s.region, s.unit)
        found.append(replace(s, predicted_us=told.us, estimated=told.estimated))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, required=True, help="where tools/make_models.py put its models")
    parser.add_argument("--only", default="", help="names of models, with commas between them (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="what each profile may measure for (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=3, help="profiles of each way (default: %(default)s)")
    parser.add_argument("--json", help="everything in numbers, to this file")
    options = parser.parse_args()
    wanted = {w for w in options.only.split(",") if w}
    graphs = {p.stem: load(str(p)) for p in sorted(options.models_dir.glob("*.onnx")) if not wanted or p.stem in wanted}
    if not graphs:
        print(f"no models in {options.models_dir}: make them with tools/make_models.py", file=sys.stderr)
        return 2
    graphs = {name: bind(graph, default_shapes(graph)) for name, graph in graphs.items()}
    made, samples = profiles(options.seconds, options.rounds), []
    for name, graph in graphs.items():
        print(name, file=sys.stderr, flush=True)
        samples += measure_operators(name, graph, made["adaptive"][0][0], find_devices(), 1)
    told: dict[str, list[dict[str, Any]]] = {}
    print(f"{'way':10} {'round':>5} {'timings':>8} {'unit':5} {'count':>6} {'5 %':>7} {'10 %':>7} {'15 %':>7} {'mean':>7} {'floor':>7}")
    for way, profiled in made.items():
        for number, (profile, rows) in enumerate(profiled):
            judged = judge(again(samples, graphs, profile))
            told.setdefault(way, []).append({"timings": len(rows), **judged})
            for unit, j in judged.items():
                print(f"{way:10} {number + 1:5} {len(rows):8} {unit:5} {j['count']:6} {j['within_5pct']:7.1%} {j['within_10pct']:7.1%} "
                      f"{j['within_15pct']:7.1%} {j['mape']:6.1f}% {j['noise_floor_within_10pct']:7.1%}")
    for unit in told["adaptive"][0].keys() - {"timings"}:
        means = {way: (statistics.fmean(r[unit]["within_10pct"] for r in rounds), statistics.fmean(r[unit]["mape"] for r in rounds))
                 for way, rounds in told.items()}
        print(f"{unit}: " + ", ".join(f"{way} {near:.1%} within 10 %, mean error {off:.1f} %" for way, (near, off) in means.items()))
    if options.json:
        Path(options.json).write_text(json.dumps({"seconds": options.seconds, "ways": told}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
