"""What the planner's claims rest on: regret against every plan of small graphs, a mixed-integer program, planning times, waits, ablations.

    python tools/check_planner.py --profile board.yaml                       everything that needs no device
    python tools/check_planner.py --profile board.yaml --only regret,waits   a part of it
    python tools/check_planner.py --only measured                            end to end on this machine, in turns (minutes)
    python tools/check_planner.py --only measured --models vgg16 --json F    a model at a time: F keeps those of before, the tables show all

Parts: regret (random graphs with forks and joins, ratios in tenths), milp (chains, SciPy's HiGHS), time (planning, the thirteen models and
made chains up to 2,000 nodes), waits (of a run, with and without chains), ablation (predicted), measured (the same, run), oracle (each
operator by itself in every sensible cut, as `coexec bench --oracle`). The page of the results is docs/planner.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from coexec.api import bind, cached_profile, default_shapes, load  # noqa: E402
from coexec.graph.ir import Graph  # noqa: E402
from coexec.partition.strategies.base import parse_strategy  # noqa: E402
from coexec.profiles import DeviceProfile, load_profile  # noqa: E402
from coexec.runtime.schedule import Wait, schedule  # noqa: E402
from coexec.simulate.judge import judging  # noqa: E402

PARTS = ("regret", "milp", "time", "waits", "ablation", "measured", "oracle")
#: What is left out, by the strategy's own options.
ABLATIONS = {"coexec": "coexec:least_gain=0", "axis height only": "coexec:least_gain=0,axis=height",
             "axis channel only": "coexec:least_gain=0,axis=channel", "no chains": "coexec:least_gain=0,chains=false",
             "no branches": "coexec:least_gain=0,branches=false", "no contention": "coexec:least_gain=0,contention=false",
             "greedy": "greedy", "flops": "flops"}


def models(wanted: list[str]) -> Iterator[tuple[str, Graph]]:
    """The made models (`tools/make_models.py`), prepared."""
    for path in sorted((ROOT / "models").glob("*.onnx")):
        if not wanted or path.stem in wanted:
            graph = load(str(path))
            yield path.stem, bind(graph, default_shapes(graph))


def geomean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def regret(options: argparse.Namespace, profile: DeviceProfile | None) -> dict[str, Any]:
    """Every plan in tenths of random graphs of up to 8 operators, on random boards."""
    from tests.partition.exhaustive import best, tables
    from tests.partition.test_exactness import TENTHS, random_board, random_dag, searched

    rng, worst, unproved, sizes = np.random.default_rng(options.seed), 0.0, 0, []
    for _ in range(options.graphs):
        graph, board = random_dag(rng, int(rng.integers(1, 9))), random_board(rng)
        found, ways, cost = searched(graph, board, TENTHS)
        us, _, _ = best(tables(graph, cost, ways), prune=len(graph.nodes) > 4)
        worst = max(worst, found.value / us - 1)
        unproved += found.bound < found.value * (1 - 1e-9)
        sizes.append(len(graph.nodes))
    return {"graphs": options.graphs, "operators": [min(sizes), max(sizes)], "worst_regret": worst, "not_proved": unproved}


def milp(options: argparse.Namespace, profile: DeviceProfile | None) -> dict[str, Any]:
    """Chains of up to 5 operators as a mixed-integer program."""
    from tests.partition.exhaustive import tables
    from tests.partition.test_exactness import TENTHS, program, random_board, random_dag, searched

    rng, worst = np.random.default_rng(options.seed + 1), 0.0
    count = max(1, options.graphs // 10)
    for _ in range(count):
        graph, board = random_dag(rng, int(rng.integers(2, 6)), chain=True), random_board(rng)
        found, ways, cost = searched(graph, board, TENTHS)
        worst = max(worst, abs(found.value / program(tables(graph, cost, ways)) - 1))
    return {"chains": count, "largest_difference": worst, "solver": "scipy.optimize.milp (HiGHS), to 1e-6 of the objective"}


def chain_graph(nodes: int) -> Graph:
    """A made network of that many operators in the manner of MobileNet: pointwise, depthwise, a pooling now and then."""
    from tests.partition.boards import Net

    net, x = Net(1, 32, 56, 56), "x"
    while len(net.nodes) < nodes:
        kind = len(net.nodes) % 5
        x = (net.conv(x, 32, 32, 3, group=32) if kind == 1 else net("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4) if kind == 4
             else net.conv(x, 32, 32, 1 if kind != 3 else 3))
    return net.graph(x)


def milliseconds(prepare: Callable[[], Any], work: Callable[[Any], Any], times: int) -> tuple[float, float, Any]:
    """The median, the least, and what came out of working on what was prepared anew each time."""
    taken = []
    for _ in range(times):
        fresh = prepare()
        began = time.perf_counter()
        found = work(fresh)
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken), min(taken), found


def planning_time(options: argparse.Namespace, profile: DeviceProfile) -> dict[str, Any]:
    """Planning alone, the model prepared already; nothing is kept from one time to the next."""
    strategy, rows = parse_strategy("coexec"), []
    for name, graph in models(options.models):
        median, least, plan = milliseconds(lambda n=name: dict(models([n]))[n], lambda g: strategy.plan(g, profile), 5)
        rows.append({"model": name, "nodes": len(graph.nodes), "ms": median, "least_ms": least, "gap": plan.gap})
    for nodes in (75, 150, 300, 500, 1000, 2000):
        median, least, plan = milliseconds(lambda n=nodes: chain_graph(n), lambda g: strategy.plan(g, profile), 3)
        rows.append({"model": f"made chain of {nodes}", "nodes": len(plan.partitions), "ms": median, "least_ms": least, "gap": plan.gap})
    return {"rows": rows}


def waits(options: argparse.Namespace, profile: DeviceProfile) -> dict[str, Any]:
    """Waits of a run: as planned; if each operator with a GPU piece shared its output at its own end, with no chains at all; and as planned
    without cuts that suit their neighbours', where a run still waits only for what it reads. The CPU has as many cores without an emulated GPU as
    beside it: with all, most plans would leave the GPU alone, and those have no waits to tell of.
    """
    profile, rows = profile.with_threads(profile.cpu.threads or 1), []
    for name, graph in models(options.models):
        plans = [parse_strategy(spec).plan(graph, profile, judging=judging) for spec in ("coexec", "coexec:chains=false", *options.strategies)]
        counts = [sum(isinstance(step, Wait) for step in schedule(graph, plan)) for plan in plans]
        each = [sum("gpu" in p.devices for p in plan.partitions) for plan in plans]
        others = {spec: {"waits": counts[at], "each_by_itself": each[at], "longer": plans[at].predicted_ms / plans[0].predicted_ms}
                  for at, spec in enumerate(options.strategies, 2)}
        rows.append({"model": name, "waits": counts[0], "each_by_itself": each[0], "chains_false": counts[1],
                     "ms": [plan.predicted_ms for plan in plans], "others": others})
    return {"rows": rows}


def ablation(options: argparse.Namespace, profile: DeviceProfile) -> dict[str, Any]:
    """Predicted times, as the whole cost model tells them, over those of coexec; the CPU with as many cores without an emulated GPU as beside it."""
    profile, rows = profile.with_threads(profile.cpu.threads or 1), []
    for name, graph in models(options.models):
        times = {label: parse_strategy(spec).plan(graph, profile, judging=judging).predicted_ms
                 for label, spec in {**ABLATIONS, "cpu": "cpu", "gpu": "gpu"}.items()}
        rows.append({"model": name, **times})
    return {"rows": rows}


def measured(options: argparse.Namespace, profile: DeviceProfile) -> dict[str, Any]:
    """Medians of runs, every strategy in turn. `cpu 1T`: the CPU alone with as many cores as it has beside the GPU; `cpu` with all of them."""
    from contextlib import ExitStack

    from coexec import InferenceSession, SessionOptions
    from coexec.api import random_feeds
    from coexec.report.timing import interleave

    specs = {"coexec": "coexec", **{k: ABLATIONS[k] for k in options.strategies or ABLATIONS if k != "coexec"}, "cpu": "cpu", "gpu": "gpu",
             "cpu 1T": "cpu"}
    rows = []
    for name, graph in models(options.models):
        feeds = random_feeds(graph)
        with ExitStack() as stack:
            sessions = {label: stack.enter_context(InferenceSession(
                graph, SessionOptions(intra_op_num_threads=1 if label == "cpu 1T" else 0, verify=options.verify and label == "coexec"),
                device_profile=profile, strategy=spec)) for label, spec in specs.items()}
            times = interleave({label: lambda s=s, feeds=feeds: s.run(None, feeds) for label, s in sessions.items()}, 3, options.rounds)
            predicted = {label: s.plan.predicted_ms for label, s in sessions.items()}
        rows.append({"model": name, **{label: statistics.median(t) for label, t in times.items()}, "predicted_coexec": predicted["coexec"]})
        print(f"{name}: " + ", ".join(f"{k} {v:.2f}" for k, v in rows[-1].items() if k != "model"), file=sys.stderr, flush=True)
    return {"rows": rows, "rounds": options.rounds}


def oracle(options: argparse.Namespace, profile: DeviceProfile) -> dict[str, Any]:
    """Operators that can be cut and take more than five times the wait (from starting a piece on the GPU to hearing of its end, less what it takes
    itself): the cut planned for each beside the best of those measured. The CPU has as many
    cores without the GPU as beside it: with all, it would leave nothing to gain from a GPU that is emulated on one of them.
    """
    from coexec.devices.registry import find_devices
    from coexec.report.oracle import inside_runs
    from coexec.report.oracle import oracle as measure_all

    rows, threads, gpu = [], profile.cpu.threads or 1, profile.gpu
    profile, devices, wait_us = profile.with_threads(threads), find_devices(), gpu.launch_us + gpu.begin_us + gpu.sync_us
    devices["gpu"] = devices["gpu"].used_by(gpu.sharing, gpu.waiting)  # as sessions with that profile do
    strategy, board = parse_strategy("coexec"), inside_runs(profile)
    for name, graph in models(options.models):
        found = measure_all(graph, lambda g: strategy.plan(g, board, judging=judging), devices, {"cpu": threads, "gpu": threads}, 0.01)["ops"]
        large = [r for r in found if min(r["cpu_us"], r["gpu_us"]) > 5 * wait_us]
        single = [min(r["cpu_us"], r["gpu_us"]) for r in large]
        rows.append({"model": name, "operators": len(found), "large": len(large),
                     "best": geomean([s / r["oracle_us"] for s, r in zip(single, large)]),
                     "chosen": geomean([s / r["chosen_us"] for s, r in zip(single, large)]),
                     **{name: geomean([1 / (1 / r["cpu_us"] + 1 / r["gpu_us"]) / r[which] for r in large])
                        for name, which in (("balance", "chosen_us"), ("best_balance", "oracle_us"))}, "ops": found})
    return {"rows": rows}


WORK = {"regret": regret, "milp": milp, "time": planning_time, "waits": waits, "ablation": ablation, "measured": measured, "oracle": oracle}


def tables(found: dict[str, Any]) -> Iterator[str]:
    """The tables of docs/planner.md."""
    if "regret" in found:
        r = found["regret"]
        yield (f"{r['graphs']} random graphs of {r['operators'][0]} to {r['operators'][1]} operators: worst regret {r['worst_regret']:.1e}, "
               f"{r['not_proved']} not known to be the best.")
    if "milp" in found:
        yield f"{found['milp']['chains']} random chains: largest difference {found['milp']['largest_difference']:.1e} ({found['milp']['solver']})."
    if "time" in found:
        yield from _table(("graph", "nodes", "median ms", "least ms", "gap"),
                          [(r["model"], r["nodes"], f"{r['ms']:.0f}", f"{r['least_ms']:.0f}", _percent(r["gap"])) for r in found["time"]["rows"]])
    if "waits" in found:
        yield from _table(("model", "waits", "each operator by itself", "planned with chains=false"),
                          [(r["model"], r["waits"], r["each_by_itself"], r["chains_false"]) for r in found["waits"]["rows"]])
        some = [r for r in found["waits"]["rows"] if r["each_by_itself"]]
        halved = sum(2 * r["waits"] <= r["each_by_itself"] for r in some)
        yield (f"At most half of those of each operator by itself on {halved} of {len(some)}; "
               f"{len(found['waits']['rows']) - len(some)} plans leave the GPU alone.")
        for spec in found["waits"]["rows"][0]["others"]:
            told = [r["others"][spec] for r in found["waits"]["rows"]]
            yield (f"{spec}: on {sum(2 * t['waits'] <= t['each_by_itself'] for t in told)} of {len(told)}, predicted to take "
                   f"{100 * (geomean([t['longer'] for t in told]) - 1):+.1f} % in the geometric mean.")
    for part, what in (("ablation", "predicted"), ("measured", "measured")):
        if part in found:
            rows = found[part]["rows"]
            labels = [label for label in rows[0] if label not in ("model", "predicted_coexec")]
            yield from _table(("model", *(f"{label}, ms {what}" if label == "coexec" else label for label in labels)),
                              [(r["model"], f"{r['coexec']:.2f}", *(f"{r[label] / r['coexec']:.2f}" for label in labels if label != "coexec"))
                               for r in rows]
                              + [("geometric mean", "", *(f"{geomean([r[label] / r['coexec'] for r in rows]):.3f}" for label in labels
                                                          if label != "coexec"))])
    if "measured" in found:
        gains = {r["model"]: min(r["cpu 1T"], r["gpu"]) / r["coexec"] for r in found["measured"]["rows"]}
        worst = min(gains, key=gains.__getitem__)
        yield (f"Over the best single device with a core to itself: {geomean(list(gains.values())):.2f}x in the geometric mean, least "
               f"{gains[worst]:.2f}x ({worst}).")
    if "oracle" in found:
        rows = found["oracle"]["rows"]
        yield from _table(("model", "operators", "large", "best gain", "chosen gain", "of the best", "balance", "of the best cuts"),
                          [(r["model"], r["operators"], r["large"], f"{r['best']:.3f}", f"{r['chosen']:.3f}",
                            f"{100 * r['chosen'] / r['best']:.1f} %", f"{r['balance']:.3f}", f"{r['best_balance']:.3f}") for r in rows]
                          + [("geometric mean", "", "", f"{geomean([r['best'] for r in rows]):.3f}", f"{geomean([r['chosen'] for r in rows]):.3f}",
                              f"{100 * geomean([r['chosen'] / r['best'] for r in rows]):.1f} %",
                              *(f"{geomean([r[b] for r in rows]):.3f}" for b in ("balance", "best_balance")))])


def _percent(gap: float | None) -> str:
    return "-" if gap is None else f"{100 * gap:.1f} %"


def _table(head: tuple, rows: list[tuple]) -> Iterator[str]:
    yield ""
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", metavar="P.yaml", help="default: this machine's")
    parser.add_argument("--only", metavar="PART,...", type=lambda t: t.split(","), default=[p for p in PARTS if p not in ("measured", "oracle")])
    parser.add_argument("--models", metavar="NAME,...", type=lambda t: t.split(","), default=[])
    parser.add_argument("--graphs", type=int, default=400, help="random graphs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--rounds", type=int, default=15, help="of `measured` (default: %(default)s)")
    parser.add_argument("--strategies", metavar="NAME,...", type=lambda t: t.split(","), default=[],
                        help="of `measured`, besides coexec, cpu, gpu; of `waits`, beside coexec")
    parser.add_argument("--verify", action="store_true", help="of `measured`: the plan of coexec is checked and corrected by measurement first")
    parser.add_argument("--json", metavar="F.json", help="write everything there, and keep the rows of other models that are there already")
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    profile = load_profile(options.profile) if options.profile else cached_profile() if set(options.only) - {"regret", "milp"} else None
    file = Path(options.json) if options.json else None
    known = json.loads(file.read_text()) if file is not None and file.exists() else {}
    for part in options.only:
        made = WORK[part](options, profile)
        if "rows" in made:
            now = {r["model"] for r in made["rows"]}
            before = known.get(part, {}).get("rows", [])
            made["rows"] = sorted([r for r in before if r["model"] not in now] + made["rows"],
                                  key=lambda r: (r["nodes"] if "nodes" in r else 0, r["model"]))
        known[part] = made
        print("\n".join(tables({part: made})), flush=True)
    if file is not None:
        file.write_text(json.dumps({**known, "profile": getattr(profile, "name", None)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
