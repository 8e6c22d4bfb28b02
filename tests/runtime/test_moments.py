"""Whole runs are told as they would have been in usual moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coexec.api import InferenceSession, SessionOptions, random_feeds
from coexec.devices.registry import find_devices
from coexec.graph.ir import Graph, Node, TensorType, Value
from coexec.partition.strategies.base import parse_strategy
from coexec.report.moments import Moments, work_by_kernel
from tests.partition.boards import board, classifier

FACTS = {"reference_store_ns": 1.0, "reference_compute_ns": 1.0, "drift_compute_compute": 0.0, "drift_memory_store": 0.0}


def known(**more: float):
    """A board under whose facts every moment is as good as any other, but for what `more` says."""
    made = board(operators=("Conv", "Relu"))
    return replace(made, cpu=replace(made.cpu, facts={**FACTS, **more}), gpu=replace(made.gpu, facts={**FACTS, **more}), cpu_alone=None)


def test_work_is_told_by_processor_and_kernel():
    graph, profile = classifier(), known()
    for strategy, units in (("cpu", {"cpu"}), ("gpu", {"cpu", "gpu"}), ("fixed:gpu=0.5", {"cpu", "gpu"})):
        plan = parse_strategy(strategy).plan(graph, profile)
        work = work_by_kernel(plan, graph, profile)
        assert {unit for unit, _ in work} <= units and all(us > 0 for us in work.values())
        assert any(kernel.startswith("conv/") for _, kernel in work)


def test_a_concatenation_whose_inputs_are_written_in_place_is_no_work():
    """Else a plan for the GPU alone looked as if the CPU worked beside it."""
    x, a, b, y = (Value(name, TensorType(np.dtype(np.float32), (1, n, 8, 8))) for name, n in (("x", 4), ("a", 4), ("b", 4), ("y", 8)))
    nodes = Node("Relu", (x,), (a,), name="a"), Node("Sigmoid", (x,), (b,), name="b"), Node("Concat", (a, b), (y,), {"axis": 1}, name="y")
    graph, profile = Graph("beside", (x,), (y,), nodes), replace(known(), gpu=replace(known().gpu, operators=("Relu", "Sigmoid", "Concat")))
    for unit in ("cpu", "gpu"):
        work = work_by_kernel(parse_strategy(unit).plan(graph, profile), graph, profile)
        assert {u for u, _ in work} == {unit} and not any("concat" in kernel for _, kernel in work)


@pytest.mark.parametrize("strategy", ["cpu", "gpu", "fixed:gpu=0.5"])
def test_a_run_in_a_slow_moment_is_told_as_in_a_usual_one(strategy):
    graph, feeds = classifier(), None
    for exponent in (0.0, 1.0):
        profile = known(drift_compute_compute=exponent, drift_memory_store=exponent)
        with InferenceSession(graph, SessionOptions(), device_profile=board(operators=("Conv", "Relu")), strategy=strategy) as session, \
                Moments(profile, find_devices(need_gpu=True)) as moments:
            feeds = feeds or random_feeds(graph)
            found = moments.timer(session.plan, session.graph, cold=bool(exponent))(lambda s=session: s.run(None, feeds))
            assert found.ms > 0 and found.steady_ms == pytest.approx(found.ms / found.slowness)
            # No reference takes a nanosecond: by such facts every moment is thousands of times slower than a usual one.
            assert found.slowness == 1.0 if not exponent else found.slowness > 100
