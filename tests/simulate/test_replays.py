"""A simulation fed with what a traced run showed takes as long as that run: on a device whose times are made up, and on this machine's CPU."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import numpy as np
import pytest

from coexec.api.observation import between
from coexec.cost.compose import CostModel
from coexec.cost.corrections import Between
from coexec.devices.registry import find_devices
from coexec.partition.strategies.base import parse_strategy
from coexec.runtime.executor import PreparedRun
from coexec.runtime.trace import Trace
from coexec.runtime.traced import run_traced
from coexec.simulate.run import Program, as_trace, simulate
from coexec.simulate.times import Measured, Predicted, overheads_of
from tests.partition.boards import board, classifier

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("validate_simulation", ROOT / "tools" / "validate_simulation.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.mark.parametrize("strategy", ["cpu", "gpu", "fixed:gpu=0.5", "greedy", "coexec"])
def test_a_replay_of_a_simulated_run_takes_as_long(strategy):
    graph, profile = classifier(), board(launch_us=7.0, sync_us=25.0, ready_us=3.0, busy={"compute": 1.3, "memory": 1.5})
    plan, cost = parse_strategy(strategy).plan(graph, profile), CostModel(profile)
    program = Program(graph, plan, cost.shared)
    first = simulate(program, Predicted(cost, graph, plan))
    trace = as_trace(program, first)
    again = simulate(program, Measured(trace.spans, {"gpu": Between(7.0, 0.0, 25.0, 3.0)}, overheads_of(cost)))
    assert again.latency_us == pytest.approx(first.latency_us, rel=1e-3)
    assert again.busy_us == pytest.approx(first.busy_us, rel=1e-3) and again.waiting_us == pytest.approx(first.waiting_us, abs=1.0)


def test_a_replay_of_a_run_on_this_machine_takes_as_long():
    """Not a race against the clock: what the run's own pieces add up to, whatever they took. On a busy machine much may lie between them,
    and a GPU's share of that is the driver's: tools/validate_simulation.py judges those.
    """
    graph, profile = classifier(3, 48, 80), board(operators=("Conv", "Relu"))
    devices = find_devices()
    plan = parse_strategy("cpu").plan(graph, profile)
    trace, feeds = Trace(), {v.name: np.ones(v.shape, np.float32) for v in graph.inputs}
    run = PreparedRun(graph, plan, devices, 1, trace=trace)
    try:
        for _ in range(9):
            run_traced(run, feeds, trace)
        ratios, cost = [], CostModel(profile)
        for number in range(2, 9):
            one = tool._only(trace, number)
            measured = Measured(one.spans, {"gpu": between(one, statistics.mean)}, overheads_of(cost))
            took = next(s.duration_us for s in one.spans if s.category == "run")
            ratios.append(simulate(Program(graph, run.plan), measured).latency_us / took)
    finally:
        run.close()
    assert 0.5 < max(ratios) and statistics.median(ratios) < 1.05, "it may lack what lies between pieces, but adds nothing"


def test_summaries_count_what_they_say():
    row = {"spread": 0.0, "planned_ms": 1.0, "traced_ms": 1.0}
    rows = [{**row, "model": "m", "strategy": s, "measured_ms": m, "clocked_ms": m, "predicted_ms": p, "replayed_ms": r, "own_error": o}
            for s, m, p, r, o in (("cpu", 10.0, 10.4, 10.0, 0.01), ("gpu", 20.0, 9.0, 21.9, -0.12), ("coexec", 10.2, 10.0, 10.2, 0.0))]
    told = tool.summary(rows)
    assert told["predicted"]["within_5pct"] == 2 and told["predicted"]["worst_error"] == pytest.approx(0.55)
    assert told["replayed"]["within_10pct"] == 3 and told["own"]["within_10pct"] == 2
    assert (told["predicted"]["pairs_in_order"], told["predicted"]["pairs"]) == (0, 2), "cpu and coexec are too near one another to be ranked"
    assert (told["replayed"]["pairs_in_order"], told["replayed"]["pairs"]) == (2, 2)
    assert "| m | `gpu` | 20.00 |" in tool.table(rows)
