#!/usr/bin/env python3
"""How long it takes to make a session, and how much memory co-execution needs, beside ONNX Runtime and beside the CPU alone.

Every model gets a process of its own in which ONNX Runtime and coexec make sessions in turn, so that a slow minute of the machine meets
all of them; figures are medians. Caches are warm: a first, unmeasured session of each kind comes before (its time is printed as `first`).
Memory is measured in processes that make one session and run it: `peak` is the largest resident set less what it was after a session of
one small convolution (imports, drivers), `planned` is what the session knows of: activations, scratch memory and packed weights,
those that both devices read counted once.

    python tools/bench_creation.py models/vgg16.onnx models/resnet50.onnx
    python tools/bench_creation.py --models-dir models --rounds 7 --json creation.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")

STRATEGIES = ("cpu", "gpu", "coexec")
#: What co-execution is allowed: creation against ONNX Runtime's (imports are extra), memory against the CPU alone.
MOST_CREATION, MOST_MEMORY = 2.0, 1.26


class Phases:
    """Where the time of making a session goes: names to milliseconds, what a phase holds of another not counted twice."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._open: list[float] = []

    def of(self, name: str, function: Callable) -> Callable:
        """The function, timed as part of that phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._open.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - started
                inside = self._open.pop()
                self.ms[name] = self.ms.get(name, 0.0) + (took - inside) * 1e3
                if self._open:
                    self._open[-1] += took

        return timed


@contextmanager
def watched() -> Iterator[Phases]:
    """Times the parts of every session made meanwhile: parse, passes, plan, pack, compile."""
    from coexec.api import choice, session
    from coexec.devices.cpu.build import Packs
    from coexec.devices.opencl import host

    phases = Phases()
    places = [(session, "load", "parse"), (session, "bind", "passes"), (choice.PlanChoice, "_planned", "plan"), (Packs, "finish", "pack"),
              (host, "_filled", "pack"), (host, "once", "pack"), (session, "PreparedRun", "compile")]
    before = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, phase), function in zip(places, before):
        setattr(owner, name, phases.of(phase, function))
    try:
        yield phases
    finally:
        for (owner, name, _), function in zip(places, before):
            setattr(owner, name, function)


def import_all() -> float:
    """Imports all that a session of any strategy needs; milliseconds."""
    started = time.perf_counter()
    import coexec.api.session  # noqa: F401
    from coexec.devices.cpu import build
    from coexec.devices.opencl import builder
    from coexec.partition.strategies.base import strategies

    build._discover()
    builder.built_ops()
    strategies()
    return (time.perf_counter() - started) * 1e3


def time_creation(path: str, rounds: int) -> dict:
    """What a child of its own measures for one model."""
    found: dict[str, Any] = {"import_ms": import_all()}
    import onnxruntime

    import coexec

    def ours(strategy: str) -> tuple[float, dict[str, float]]:
        with watched() as phases:
            started = time.perf_counter()
            session = coexec.InferenceSession(path, strategy=strategy)
            took = (time.perf_counter() - started) * 1e3
        session.close()
        return took, phases.ms

    def theirs() -> tuple[float, dict[str, float]]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        started = time.perf_counter()
        made = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        took = (time.perf_counter() - started) * 1e3
        del made
        return took, {}

    makers = {"onnxruntime": theirs, **{s: (lambda s=s: ours(s)) for s in STRATEGIES}}
    times: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in makers}
    for _ in range(rounds + 1):
        for name, make in makers.items():
            times[name].append(make())
    for name, [first, *rest] in times.items():
        phases = {p: statistics.median(e[1].get(p, 0.0) for e in rest) for p in rest[0][1]}
        found[name] = {"ms": statistics.median(e[0] for e in rest), "first_ms": first[0], "phases_ms": phases}
        if name != "onnxruntime":
            found[name]["ratio"] = found[name]["ms"] / statistics.median(e[0] for e in times["onnxruntime"][1:])
    return found


def small_model() -> bytes:
    """One convolution: with it the device's driver, and what runs kernels, are loaded."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(np.ones((32, 16, 3, 3), np.float32), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def measure_memory(path: str, strategy: str) -> dict:
    """What a child of its own measures for one model and strategy: bytes, and the time of the process's first session."""
    import_all()
    import coexec
    from coexec.api import random_feeds
    from coexec.devices.registry import find_devices

    find_devices("none" if strategy == "cpu" else "")
    with coexec.InferenceSession(small_model(), strategy="cpu" if strategy == "cpu" else "fixed:gpu=0.5") as session:
        session.run(None, random_feeds(small_model()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    session = coexec.InferenceSession(path, strategy=strategy)
    took = (time.perf_counter() - started) * 1e3
    session.run(None, random_feeds(path))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    prepared = session._ready
    cpu = prepared.queues["cpu"]
    weights = {"cpu": cpu.scratch_bytes}
    if "gpu" in prepared.queues:
        queue, both = prepared.queues["gpu"], {id(packed) for packed in cpu._packs.held}
        own = (buffer.size for (owner, mine), buffer in queue._constants.values() if mine is not owner and id(owner) not in both)
        weights["gpu"] = sum(own) + queue.scratch.nbytes
    return {"peak_bytes": peak - before, "activations_bytes": session.peak_memory_bytes, "weights_bytes": weights, "first_ms": took,
            "planned_bytes": session.peak_memory_bytes + sum(weights.values())}


def child(*args: str) -> dict:
    """This file in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--child", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(args)}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(path: Path, rounds: int) -> dict:
    """Everything about one model."""
    found = child("time", str(path), str(rounds))
    memory = {s: child("memory", str(path), s) for s in ("cpu", "coexec")}
    ratios = {kind: memory["coexec"][f"{kind}_bytes"] / max(1, memory["cpu"][f"{kind}_bytes"]) for kind in ("peak", "planned")}
    return {**found, "memory": {**memory, "peak_ratio": ratios["peak"], "planned_ratio": ratios["planned"]}}


def show(name: str, found: dict) -> str:
    """A model's lines."""
    ort, memory = found["onnxruntime"], found["memory"]
    lines = [f"{name}: ONNX Runtime {ort['ms']:.0f} ms (first {ort['first_ms']:.0f}); imports {found['import_ms']:.0f} ms"]
    for strategy in STRATEGIES:
        one = found[strategy]
        phases = ", ".join(f"{p} {ms:.0f}" for p, ms in one["phases_ms"].items())
        most = MOST_CREATION * ort["ms"]
        over = "" if one["ms"] <= most else " within imports" if one["ms"] <= most + found["import_ms"] else " TOO SLOW"
        lines.append(f"  {strategy:7} {one['ms']:7.0f} ms  {one['ratio']:5.2f}x{over}  (first {one['first_ms']:.0f}; {phases})")
    mb = {s: memory[s]["peak_bytes"] / 1e6 for s in ("cpu", "coexec")}
    planned = {s: memory[s]["planned_bytes"] / 1e6 for s in ("cpu", "coexec")}
    worst = " TOO MUCH" if min(memory["peak_ratio"], memory["planned_ratio"]) > MOST_MEMORY else ""
    lines.append(f"  memory  co-executed over CPU alone: peak {mb['coexec']:.0f} / {mb['cpu']:.0f} MB = {memory['peak_ratio']:.2f}x, "
                 f"planned {planned['coexec']:.0f} / {planned['cpu']:.0f} MB = {memory['planned_ratio']:.2f}x{worst}")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, path, last = sys.argv[2:]
        print(json.dumps(time_creation(path, int(last)) if kind == "time" else measure_memory(path, last)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files")
    parser.add_argument("--models-dir", type=Path, help="every ONNX file of a folder (tools/make_models.py makes one)")
    parser.add_argument("--rounds", type=int, default=5, help="sessions of each kind per model (default: 5)")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    args = parser.parse_args()
    paths = [*args.models, *sorted(args.models_dir.glob("*.onnx") if args.models_dir else [])]
    if not paths or args.rounds < 1:
        parser.error("give ONNX files or --models-dir, and at least one round")
    from coexec.api import cached_profile

    cached_profile()  # made now, if need be: no child should measure the machine
    found = {}
    for path in paths:
        found[path.stem] = measure(path, args.rounds)
        print(show(path.stem, found[path.stem]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
