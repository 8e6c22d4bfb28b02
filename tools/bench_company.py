#!/usr/bin/env python3
"""By how much pieces of real networks take longer beside a busy other unit, and how that goes with the time in which they read from memory.

    python tools/bench_company.py --profile p.yaml [--models-dir models] [--only NAME,...] [--strategy greedy] [--runs 10] [--json F]

Every network runs under the strategy's plan, the CPU with the threads that it has beside the GPU, and whole on each unit alone, in turns. Of each operator
that the plan cuts: what its piece took in company by what is predicted, over the same of the whole operator alone. `waits for memory` is what the
cost model says of the piece (`coexec.cost.contention.exposed`), and `busy` what such pieces make of it, beside what the profile has from its looks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from coexec.api import bind, cached_profile, default_shapes, load, plan_prepared, random_feeds  # noqa: E402
from coexec.api.between import MOST_COMPANY  # noqa: E402
from coexec.api.observation import ratios_seen  # noqa: E402
from coexec.cost.compose import CostModel  # noqa: E402
from coexec.cost.contention import busy_of  # noqa: E402
from coexec.devices.registry import find_devices, session_threads  # noqa: E402
from coexec.graph.ir import Graph  # noqa: E402
from coexec.partition.plan import pieces  # noqa: E402
from coexec.profiles import DeviceProfile, load_profile  # noqa: E402
from coexec.runtime.executor import PreparedRun  # noqa: E402
from coexec.runtime.trace import Trace  # noqa: E402
from coexec.runtime.traced import run_traced  # noqa: E402

#: Upper ends of the groups of pieces that the table has, by how much of their time waits for memory.
GROUPS = (0.0, 0.2, 0.5, 1.0)
#: Runs of each plan before those that count; pieces of fewer microseconds are mostly the clock's.
WARM, LEAST_US = 2, 8.0


def seen_in_company(name: str, graph: Graph, profile: DeviceProfile, strategy: str, runs: int) -> Iterator[dict[str, Any]]:
    """A row for each piece of the network's operators that the plan cuts."""
    devices, feeds, threads = find_devices(need_gpu=True), random_feeds(graph), profile.cpu.threads or 1
    costs = CostModel(replace(profile, cpu_alone=None))
    plans = {s: plan_prepared(graph, profile=profile, strategy=s, devices=devices, threads=threads) for s in (strategy, "cpu", "gpu")}
    traces = {s: Trace() for s in plans}
    with ExitStack() as stack:
        prepared = {s: stack.enter_context(closing(PreparedRun(graph, plan, devices, session_threads(devices, threads), trace=traces[s])))
                    for s, plan in plans.items()}
        seen: dict[str, Trace] = {s: Trace() for s in plans}
        for number in range(WARM + runs):
            for s, run in prepared.items():
                if number < WARM:
                    run.run(feeds)
                else:
                    run_traced(run, feeds, seen[s])
    taken = {s: ratios_seen(graph, plans[s], seen[s], costs) for s in plans}
    for node in graph.nodes:
        parts = dict(pieces(node, plans[strategy][node.name]))
        for unit, region in parts.items() if len(parts) > 1 else ():
            key, us = (node.name, unit), costs.kernel(node, region, unit).us
            if key in taken[strategy] and key in taken[unit] and us >= LEAST_US:
                yield {"model": name, "node": node.name, "unit": unit, "us": us, "waiting": costs.waiting(node, region, unit),
                       "longer": taken[strategy][key] / taken[unit][key]}


def table(rows: list[dict[str, Any]], profile: DeviceProfile) -> Iterator[str]:
    """Medians of the groups, and `busy`."""
    yield "| unit | " + " | ".join(f"waits for memory {'to ' if group else ''}{group:g}" for group in GROUPS) + " | busy, by these | busy in the profile |"
    yield "|---" * (len(GROUPS) + 3) + "|"
    for unit in ("cpu", "gpu"):
        mine, least, cells = [r for r in rows if r["unit"] == unit], -1.0, []
        for most in GROUPS:
            group = [r["longer"] for r in mine if least < r["waiting"] <= most]
            cells.append(f"{statistics.median(group):.2f} ({len(group)})" if group else "-")
            least = most
        found = busy_of([r["waiting"] for r in mine], [r["longer"] for r in mine], MOST_COMPANY)
        yield f"| {unit} | " + " | ".join([*cells, _told(found), _told(profile.unit(unit).busy)]) + " |"


def _told(busy: Any) -> str:
    return ", ".join(f"{bound} {factor:.2f}" for bound, factor in busy.items()) or "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", metavar="P.yaml", help="default: this machine's")
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models")
    parser.add_argument("--only", metavar="NAME,...", type=lambda t: t.split(","), default=[])
    parser.add_argument("--strategy", default="greedy", help="whose cuts (default: %(default)s, which cuts most)")
    parser.add_argument("--runs", type=int, default=10, help="that count, of each plan (default: %(default)s)")
    parser.add_argument("--json", metavar="F", type=Path)
    options = parser.parse_args()
    profile = load_profile(options.profile) if options.profile else cached_profile()
    rows: list[dict[str, Any]] = []
    for path in sorted(options.models_dir.glob("*.onnx")):
        if not options.only or path.stem in options.only:
            graph = load(str(path))
            rows += seen_in_company(path.stem, bind(graph, default_shapes(graph)), profile, options.strategy, options.runs)
            print(f"{path.stem}: {sum(r['model'] == path.stem for r in rows)} pieces", file=sys.stderr, flush=True)
    print("\n".join(table(rows, profile)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
