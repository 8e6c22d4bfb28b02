"""Several sessions and several threads at once for a long time, the GPU failing at random: every answer right, nothing growing.

    python -m tools.soak --runs 20000

Prints a JSON object: runs, wrong answers, errors, faults that were injected and seen; the share of all runs that each thread had, with the
median, 99th percentile and longest of its calls (milliseconds, waiting for others and getting over faults included); the slope of resident
memory over the second half (bytes a run); threads and descriptors at the start and at the end. Ends with 1 where a run was wrong or
failed, a thread had less than half of its share, memory grew by more than --slope bytes a run, or a descriptor leaked.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Silence:
    """Faults of a session whose device and host keep in step by words: a device that does not answer, whatever was to fail."""

    def __init__(self, session: Any):
        self._session, self._silent, self.fired = session, False, []

    def arm(self, point: str, how: Any) -> None:
        """The next run finds no answer, and is made again by events."""
        prepared = self._session._ready
        self._silent = True
        prepared.attempt = self._attempt

    def _attempt(self, feeds: Any) -> Any:
        prepared = self._session._ready
        if self._silent:
            self._silent = False
            self.fired.append("silence")
            return None
        return type(prepared).attempt(prepared, feeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20000, help="all threads together (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--fault-every", type=int, default=40, help="about one run in so many meets a fault (default: %(default)s)")
    parser.add_argument("--slope", type=float, default=1024.0, help="bytes a run that resident memory may grow (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop early after this long (default: %(default)s)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # a warning a fault is the point, not something to print

    import coexec
    from coexec import settings
    from coexec.api import random_feeds
    from coexec.api import session as session_module
    from coexec.devices.cpu.device import CpuDevice
    from coexec.devices.registry import gpu_device
    from tests.faults.faulty_device import Faults, FaultyDevice, fails, foreign
    from tests.runtime.random_graphs import random_model
    from tests.test_smoke import tiny_model

    models = [tiny_model(), random_model(np.random.default_rng(3), 8), random_model(np.random.default_rng(10), 8)]
    sessions, injectors, cases = [], [], []
    for model in models:
        faults = Faults()
        device = FaultyDevice(gpu_device(), faults)
        with mock.patch.object(session_module, "find_devices", lambda *_, d=device: {"cpu": CpuDevice(), "gpu": d}):
            sessions.append(coexec.InferenceSession(model, coexec.SessionOptions(device_retries=10**9), strategy="fixed:gpu=0.5"))
        injectors.append(faults)
        feeds = [random_feeds(model, seed=seed) for seed in range(4)]
        with coexec.InferenceSession(model, strategy="cpu") as alone:
            cases.append([(f, alone.run(None, f)) for f in feeds])

    with settings.override(wait="flag"):  # and two whose runs need no Python: in step by words, and by threads that share kernels
        sessions.append(coexec.InferenceSession(models[1], strategy="fixed:gpu=0.5"))
    sessions.append(coexec.InferenceSession(models[1], coexec.SessionOptions(intra_op_num_threads=2), strategy="cpu"))
    injectors += [Silence(sessions[-2]), Faults()]
    cases += [cases[1]] * 2

    lock, wrong, errors = threading.Lock(), [], []
    calls_ms: list[list[float]] = [[] for _ in range(options.threads)]
    taken, injected, samples = 0, 0, []
    ways = [("start", fails()), ("start", foreign), ("wait", fails()), ("wait", foreign), ("flush", fails()), ("compile", fails()),
            ("allocate", fails()), ("seal", foreign)]
    start = threads_before = fds_before = 0

    def work(mine: int) -> None:
        nonlocal taken, injected
        own = np.random.default_rng(mine + 1)
        while True:
            with lock:
                if taken >= options.runs or time.monotonic() - start > options.seconds:
                    return
                taken += 1
                if taken % 50 == 0:
                    samples.append((taken, resident_bytes()))
            which = int(own.integers(len(sessions)))
            if own.random() < 1 / options.fault_every:
                point, how = ways[int(own.integers(len(ways)))]
                injectors[which].arm(point, how)
                injected += 1
            feeds, expected = cases[which][int(own.integers(4))]
            begun = time.perf_counter()
            try:
                found = sessions[which].run(None, feeds)
            except Exception as error:
                errors.append(repr(error))
                continue
            calls_ms[mine].append((time.perf_counter() - begun) * 1e3)
            if not all(np.allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(b).max(initial=0)))) for a, b in zip(found, expected)):
                wrong.append(which)

    for session, tried in zip(sessions, cases):
        session.run(None, tried[0][0])
    start, threads_before, fds_before = time.monotonic(), threading.active_count(), descriptors()
    team = [threading.Thread(target=work, args=(i,)) for i in range(options.threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    seconds, fds_after, threads_after = time.monotonic() - start, descriptors(), threading.active_count()
    fired = sum(len(faults.fired) for faults in injectors)
    seen = sum(len(session.faults) for session in sessions)
    for session in sessions:
        session.close()
    half = samples[len(samples) // 2:]
    slope = float(np.polyfit(*np.array(half, float).T, 1)[0]) if len(half) > 2 else 0.0
    runs = sum(map(len, calls_ms))  # that ended, rightly or not
    shares = [len(calls) / max(1, runs) for calls in calls_ms]
    starved = min(shares) < 0.5 / options.threads
    report = {
        "runs": runs, "seconds": round(seconds, 1), "wrong": len(wrong), "errors": errors[:5], "error_count": len(errors), "armed": injected,
        "fired": fired, "faults_seen": seen, "shares": [round(share, 4) for share in shares],
        "calls_ms": [{"median": round(float(np.median(c)), 2), "p99": round(float(np.percentile(c, 99)), 2), "max": round(max(c), 2)}
                     for c in calls_ms if c],
        "resident_start_bytes": samples[0][1] if samples else 0,
        "resident_end_bytes": resident_bytes(), "slope_bytes_per_run": round(slope, 1), "threads": [threads_before, threads_after],
        "descriptors": [fds_before, fds_after],
    }
    print(json.dumps(report, indent=1))
    return 1 if wrong or errors or starved or slope > options.slope or fds_after > fds_before or threads_after > threads_before + len(sessions) else 0


if __name__ == "__main__":
    sys.exit(main())
