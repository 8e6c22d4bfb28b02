"""What waiting for the GPU costs: every way of `COEXEC_WAIT`, beside one blocking finish() per operator, over whole models.

    python -m tools.bench_waits models/mobilenet_v2.onnx models/squeezenet_1_1.onnx --strategy fixed:gpu=0.5

From traced runs, the ways taking turns: the idle gap between the later of the two halves ending and the next piece starting (median and
p99, microseconds), and how long in a run neither processor works (median, microseconds). From runs without a trace: the whole run
(median, milliseconds). Tracing by events adds a few microseconds to each gap. Prints a table; --json also writes everything.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coexec import settings
from coexec.api import InferenceSession, SessionOptions, random_feeds
from coexec.devices.waits import WAYS
from coexec.runtime.executor import PreparedRun
from coexec.runtime.schedule import Flush, Start, Step, Wait
from coexec.runtime.trace import Span, Trace
from coexec.runtime.traced import run_traced

from .benching import machine, parser, versions

#: The way to beat: after every operator that the GPU has a part in, the host blocks until the GPU's queue is empty.
NAIVE = "finish per operator"


def naive_actions(prepared: PreparedRun) -> list[tuple[Step, Callable[[], Any]]]:
    """The same pieces with none of the schedule's waits, and a finish() behind each operator."""
    made = dict(prepared.actions)
    steps = [s for s in prepared.steps if s in made and not isinstance(s, (Wait, Flush))]
    out: list[tuple[Step, Callable[[], Any]]] = []
    for at, step in enumerate(steps):
        out.append((step, made[step]))
        if not isinstance(step, Start):
            continue
        following = steps[at + 1] if at + 1 < len(steps) else None
        same = isinstance(following, Start) and following.node.name == step.node.name
        far = [s for s, _ in out if isinstance(s, Start) and s.index >= 0]
        if step.index >= 0:
            out.append((Flush(step.device), prepared.queues[step.device].flush))
        if not same and far and far[-1].node.name == step.node.name:
            out.append((Wait(far[-1].device, far[-1].index), prepared.queues[far[-1].device].finish))
    return out


class Contender:
    """A model prepared with one way of waiting, traced or not."""

    def __init__(self, path: Path, strategy: str, profile: str | None, way: str, traced: bool):
        self.way, self.trace = way, Trace() if traced else None
        with settings.override(wait="event" if way == NAIVE else way):
            options = SessionOptions(enable_profiling=self.trace or False)
            self.session = InferenceSession(str(path), options, strategy=strategy, device_profile=profile)
        self.prepared = self.session._ready
        self.feeds = random_feeds(self.session.graph)
        if way == NAIVE:
            self.prepared.actions = naive_actions(self.prepared)
            self.prepared.hot = [action for _, action in self.prepared.actions]

    @property
    def possible(self) -> bool:
        return self.way != "flag" or self.prepared.handshake is not None

    def run(self) -> float:
        """Seconds of one run."""
        begun = time.perf_counter()
        if self.trace is None:
            self.prepared.run(self.feeds)
        else:
            run_traced(self.prepared, self.feeds, self.trace)
        return time.perf_counter() - begun


def gaps_us(trace: Trace, skip: int = 2) -> list[float]:
    """For each wait but the last of a run: from the later end of the two halves to the start of the next piece, 0 where one is at work."""
    found = []
    for run in range(skip, trace.runs):
        pieces, waits = of_run(trace, run)
        for wait in waits:
            far = [p.stop_us for p in pieces if p.track == "gpu" and p.args["node"] == wait.args.get("node")]
            near = [p.stop_us for p in pieces if p.track == "cpu" and p.stop_us <= wait.stop_us]
            ends = max([*far, *near[-1:]], default=None)
            following = [p.start_us for p in pieces if ends is not None and p.start_us >= ends]
            if ends is None or not following:
                continue
            busy = any(p.start_us < ends < p.stop_us for p in pieces)
            found.append(0.0 if busy else min(following) - ends)
    return found


def idle_us(trace: Trace, skip: int = 2) -> list[float]:
    """For each run: microseconds between its first and last piece in which neither processor is at one."""
    found = []
    for run in range(skip, trace.runs):
        pieces, _ = of_run(trace, run)
        idle, reached = 0.0, pieces[0].start_us
        for piece in pieces:
            idle += max(0.0, piece.start_us - reached)
            reached = max(reached, piece.stop_us)
        found.append(idle)
    return found


def of_run(trace: Trace, run: int) -> tuple[list[Span], list[Span]]:
    """The pieces and the waits of a run, by their start."""
    mine = sorted((s for s in trace.of("piece", "wait") if s.args.get("run") == run), key=lambda s: s.start_us)
    return [s for s in mine if s.category == "piece"], [s for s in mine if s.category == "wait"]


def measure(path: Path, strategy: str, profile: str | None, rounds: int) -> dict[str, dict[str, float]]:
    """By way: gap_p50_us, gap_p99_us, waits a run, idle_us and run_ms."""
    made: dict[str, dict[str, float]] = {}
    for traced in (False, True):
        all_of = [Contender(path, strategy, profile, way, traced) for way in (*WAYS, NAIVE)]
        rivals = [c for c in all_of if c.possible]
        times: dict[str, list[float]] = {c.way: [] for c in rivals}
        for turn in range(rounds + 2):
            for rival in rivals if turn % 2 else rivals[::-1]:
                took = rival.run()
                if turn >= 2:
                    times[rival.way].append(took)
        for rival in rivals:
            row = made.setdefault(rival.way, {})
            if not traced:
                row["run_ms"] = float(np.median(times[rival.way])) * 1e3
                continue
            gaps = gaps_us(rival.trace)
            row |= {"waits": len(gaps) / rounds, "gap_p50_us": float(np.median(gaps)) if gaps else 0.0,
                    "gap_p99_us": float(np.percentile(gaps, 99)) if gaps else 0.0,
                    "idle_us": float(np.median(idle_us(rival.trace)))}
        for rival in all_of:
            rival.session._trace = None  # nobody wants the files
            rival.session.close()
    return made


def main() -> int:
    options = parser(__doc__, 20, "runs of each way, with and without a trace").parse_args()
    report: dict[str, Any] = {"versions": versions(), "machine": machine(), "strategy": options.strategy, "models": {}}
    print(f"{'model':18} {'way':20} {'waits':>6} {'gap p50':>8} {'gap p99':>8} {'idle us':>8} {'run ms':>8}  idle beside {NAIVE}")
    for path in options.models:
        found = report["models"][path.stem] = measure(path, options.strategy, options.profile, options.rounds)
        for way, row in found.items():
            print(f"{path.stem:18} {way:20} {row['waits']:6.1f} {row['gap_p50_us']:8.1f} {row['gap_p99_us']:8.1f} {row['idle_us']:8.0f} "
                  f"{row['run_ms']:8.2f}"
                  f"  {found[NAIVE]['idle_us'] / max(row['idle_us'], 1e-9):.2f} times less", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
