"""Shows a plan that follows the machine: a session runs a model while, for a while, a competing load takes a core from one of its processors.

    python tools/watch_following.py models/resnet18.onnx                    PoCL: the load goes to the core that the "GPU" has for itself
    python tools/watch_following.py models/resnet18.onnx --core 0 --json    the load goes to the host's core

Three stretches of runs: alone, beside the load, alone again; each answer is compared with the first. Printed, for every few runs: their
median, the GPU's share of the output elements, and each change of plan. At the end: medians of each stretch, and beside them those of a
session that keeps its plan, which takes turns with the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

import coexec
from coexec.api import random_feeds

BUSY = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--profile", help="default: this machine's")
    parser.add_argument("--core", type=int, default=-1, help="where the load runs (default: the last, which an emulated GPU has)")
    parser.add_argument("--loads", type=int, default=1, help="how many loads there are")
    parser.add_argument("--runs", type=int, nargs=3, default=(40, 80, 120), help="of each stretch (default: 40 80 120)")
    parser.add_argument("--every", type=int, default=10, help="runs summed up in a line")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    core = sorted(os.sched_getaffinity(0))[options.core]
    feeds = random_feeds(options.model)
    say = (lambda *a: None) if options.json else (lambda *a: print(*a, flush=True))
    times: dict[str, list[list[float]]] = {"adapts": [[], [], []], "keeps": [[], [], []]}
    with coexec.InferenceSession(options.model, coexec.SessionOptions(adapt=True), device_profile=options.profile) as session, \
            coexec.InferenceSession(options.model, device_profile=options.profile) as other:
        expected, told, loads = session.run(None, feeds), 0, []
        shares = []
        try:
            for stretch, name in enumerate(("alone", "beside the load", "alone again")):
                loads = [subprocess.Popen([sys.executable, "-c", BUSY, str(core)]) for _ in range(options.loads)] if stretch == 1 else stop(loads)
                for number in range(1, options.runs[stretch] + 1):
                    times["adapts"][stretch].append(timed(session, feeds, expected))
                    times["keeps"][stretch].append(timed(other, feeds, expected))
                    for change in session.replans[told:]:
                        say(f"    planned again {change}")
                    told = len(session.replans)
                    if number % options.every == 0:
                        last = [statistics.median(times[who][stretch][-options.every:]) for who in ("adapts", "keeps")]
                        shares.append({"stretch": name, "run": number, "adapts_ms": last[0], "keeps_ms": last[1], "gpu_share": share(session)})
                        say(f"{name:16} run {number:4}: {last[0]:8.2f} ms (keeps its plan: {last[1]:8.2f} ms), "
                            f"{100 * shares[-1]['gpu_share']:3.0f} % on the GPU")
        finally:
            stop(loads)
        found = {who: [statistics.median(t[len(t) // 2:]) for t in times[who]] for who in times}
        say("median ms of the second half of each stretch (alone, beside the load, alone again):")
        for who, medians in found.items():
            say(f"  {who:6}", *(f"{ms:8.2f}" for ms in medians))
        if options.json:
            print(json.dumps({"model": options.model, "machine": platform.processor() or platform.machine(), "core": core, "medians_ms": found,
                              "lines": shares, "replans": [str(c) for c in session.replans],
                              "devices": {n: d.facts.name for n, d in session.devices.items()}}))
    return 0


def timed(session: coexec.InferenceSession, feeds: dict, expected: list) -> float:
    """Milliseconds of a run, whose answers are right."""
    began = time.perf_counter()
    found = session.run(None, feeds)
    taken = (time.perf_counter() - began) * 1e3
    for mine, right in zip(found, expected):
        assert np.abs(mine - right).max() <= 1e-3 * max(np.abs(right).max(), 1e-3), "a wrong answer"
    return taken


def share(session: coexec.InferenceSession) -> float:
    """The GPU's share of the elements that convolutions and products put out."""
    sizes = {n.name: n.output.type.size for n in session.graph.nodes if n.op_type in ("Conv", "MatMul", "Gemm", "ConvTranspose")}
    return sum(session.plan[name].ratio.get("gpu", 0.0) * size for name, size in sizes.items()) / max(1, sum(sizes.values()))


def stop(loads: list) -> list:
    for load in loads:
        load.kill()
        load.wait()
    return []


if __name__ == "__main__":
    sys.exit(main())
