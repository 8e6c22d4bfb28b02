"""What tracing a run costs, and what a run takes of memory and copies, over whole models.

    python -m tools.bench_trace models/mobilenet_v2.onnx models/bert_mini.onnx

A session without and one with a trace take turns, three such pairs one after the other; the median run of each, milliseconds, and how much longer
the traced one takes (percent; the median of the ratios of neighbours in time). Writing spans down happens between runs and is told apart
(`between`, milliseconds a run). Bytes of activations: copied between the two memories in a run, planned at most, and measured by then. Prints a
table; --json also writes everything.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from coexec.api import InferenceSession, SessionOptions, random_feeds
from coexec.runtime.trace import Trace
from coexec.runtime.traced import run_traced

from .benching import machine, parser, versions


#: So many pairs of sessions: where in memory a session's arrays lie makes one a few percent quicker than another.
PAIRS = 3


def measure(path: Path, strategy: str, profile: str | None, rounds: int) -> dict[str, float]:
    """A model's row."""
    rows = [_pair(path, strategy, profile, rounds) for _ in range(PAIRS)]
    told = rows[-1][1]
    taken, runs, between = (np.concatenate([row[0][name] for row in rows]) for name in ("plain", "traced", "between"))
    return {"plain_ms": float(np.median(taken)) * 1e3, "traced_ms": float(np.median(runs)) * 1e3,
            "cost_percent": float(np.median(runs / taken - 1)) * 100, "between_ms": float(np.median(between)) * 1e3, **told}


def _pair(path: Path, strategy: str, profile: str | None, rounds: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Seconds of the runs of two sessions that take turns, and what the session without a trace says of itself."""
    trace = Trace()
    plain = InferenceSession(str(path), strategy=strategy, device_profile=profile)
    traced = InferenceSession(str(path), SessionOptions(enable_profiling=trace), plan=plain.plan, device_profile=profile)
    feeds, taken = random_feeds(plain.graph), {"plain": [], "traced": []}
    ways = {"plain": lambda: plain._ready.run(feeds), "traced": lambda: run_traced(traced._ready, feeds, trace)}
    try:
        for turn in range(rounds + 3):
            for name in ("plain", "traced") if turn % 2 else ("traced", "plain"):
                begun = time.perf_counter()
                ways[name]()
                took = time.perf_counter() - begun
                if turn >= 3:
                    taken[name].append(took)
        runs = np.array([span.duration_us / 1e6 for span in trace.of("run")][-rounds:])
        return {"plain": np.array(taken["plain"]), "traced": runs, "between": np.array(taken["traced"]) - runs}, {
            "copied_bytes_per_run": plain.copied_bytes_per_run, "planned_bytes": plain.peak_memory_bytes,
            "measured_bytes": plain.measured_memory_bytes, "waits": sum(type(s).__name__ == "Wait" for s in plain._ready.steps),
        }
    finally:
        traced._trace = None  # nobody wants the file
        for session in (plain, traced):
            session.close()


def main() -> int:
    options = parser(__doc__, 40, "runs with and without a trace").parse_args()
    report: dict[str, Any] = {"versions": versions(), "machine": machine(), "strategy": options.strategy, "models": {}}
    print(f"{'model':20} {'plain ms':>9} {'traced ms':>9} {'cost %':>7} {'between ms':>10} {'waits':>5} {'copied':>7} "
          f"{'planned MB':>10} {'measured MB':>11}")
    for path in options.models:
        row = report["models"][path.stem] = measure(path, options.strategy, options.profile, options.rounds)
        print(f"{path.stem:20} {row['plain_ms']:9.2f} {row['traced_ms']:9.2f} {row['cost_percent']:7.1f} {row['between_ms']:10.2f} "
              f"{row['waits']:5.0f} {row['copied_bytes_per_run']:7.0f} {row['planned_bytes'] / 1e6:10.2f} "
              f"{(row['measured_bytes'] or float('nan')) / 1e6:11.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
