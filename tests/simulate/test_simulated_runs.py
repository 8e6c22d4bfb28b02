"""The simulator against what must hold: the planner's own two clocks, laws of queues, and plans that nobody made with care."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coexec.cost.compose import CostModel
from coexec.errors import CoexecError, UsageError
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.partition.strategies.base import parse_strategy
from coexec.profiles import DeviceProfile
from coexec.runtime.schedule import Start, Wait
from coexec.simulate.clocks import Clock, Hold, Work
from coexec.simulate.run import Program, as_trace, simulate
from coexec.simulate.scenario import QUIET, Scenario, Spell, parse_scenario
from coexec.simulate.times import Predicted
from tests.partition.boards import Net, board, classifier, tangle
from tests.runtime.random_graphs import random_model, random_plan


def simulated(graph, profile, strategy="coexec", scenario=QUIET, counters=False, begin_us=0.0):
    plan = dataclasses.replace(parse_strategy(strategy).plan(graph, profile), counters=counters)
    cost = CostModel(profile)
    program = Program(graph, plan, cost.shared)
    return plan, program, simulate(program, Predicted(cost, graph, plan), scenario, begin_us)


@pytest.mark.parametrize("strategy", ["cpu", "gpu", "fixed:gpu=0.5", "fixed:gpu=0.3,axis=height", "flops", "greedy", "coexec"])
@pytest.mark.parametrize("graph", [classifier(), tangle()], ids=["classifier", "tangle"])
def test_it_agrees_with_the_planners_clocks_where_nothing_else_happens(graph, strategy):
    """Two descriptions of the same run, written apart. What only the simulator knows makes a run a little shorter (pieces that are started
    early) or longer (memory that is used again).

    Reading across sides costs nothing here: the planner charges it every time, the simulator once.
    """
    plain = board(crossing_gbs=1e9)
    plan, _, run = simulated(graph, dataclasses.replace(plain, cpu=dataclasses.replace(plain.cpu, crossing_gbs=1e9)), strategy)
    assert 0.95 < run.latency_us / (plan.predicted_ms * 1e3) < 1.1
    if strategy in ("cpu", "gpu"):
        assert run.latency_us == pytest.approx(plan.predicted_ms * 1e3, rel=1e-3)


def test_one_processor_takes_the_sum_of_its_pieces():
    graph, profile = classifier(), board(gpu=False)
    plan, program, run = simulated(graph, profile, "cpu")
    cost = CostModel(profile)
    pieces = sum(cost.kernel(n, s.region, "cpu").us for n in graph.nodes for s in program.steps if isinstance(s, Start) and s.node is n)
    copies = 2 * sum(program.copied_bytes) / 20e3
    assert run.latency_us == pytest.approx(pieces + copies) and run.busy_us == {"cpu": pytest.approx(pieces)} and run.waiting_us == 0


def test_contention_is_paid_only_while_both_work():
    graph = classifier()
    plain = board()
    slow = dataclasses.replace(plain, cpu=dataclasses.replace(plain.cpu, busy={"compute": 2.0, "memory": 2.0}))
    plan = parse_strategy("fixed:gpu=0.5").plan(graph, plain)
    runs = []
    for profile in (plain, slow):
        cost = CostModel(profile)
        runs.append(simulate(Program(graph, plan), _SlowCpu(cost, graph, plan, 2.0 if profile is slow else 1.0)))
    assert runs[1].busy_us["cpu"] > 1.05 * runs[0].busy_us["cpu"]
    assert runs[1].busy_us["cpu"] < 2 * runs[0].busy_us["cpu"], "alone, the CPU's pieces take their own time"
    assert runs[1].busy_us["gpu"] == pytest.approx(runs[0].busy_us["gpu"], rel=0.01)


class _SlowCpu(Predicted):
    """The profile's times, with every CPU piece slowed by company."""

    def __init__(self, cost, graph, plan, slow):
        super().__init__(cost, graph, plan)
        self.slow = slow

    def of(self, start):
        return super().of(start)._replace(slow=self.slow if start.device == "cpu" else 1.0)


def test_a_device_works_in_order_and_every_wait_ends_after_its_piece():
    plan, program, run = simulated(classifier(), board(sync_us=30.0), "fixed:gpu=0.5")
    gpu = [s for s in run.slices if s.track == "gpu"]
    assert [s.step.index for s in gpu] == sorted(s.step.index for s in gpu) and len(gpu) > 3
    assert all(a.stop_us <= b.start_us + 1e-9 for a, b in zip(gpu, gpu[1:]))
    done = {s.step.index: s.stop_us for s in gpu}
    waits = [s for s in run.slices if s.category == "wait"]
    assert waits and all(s.stop_us >= done[s.step.index] + 30.0 - 1e-6 for s in waits)
    assert run.waiting_us == pytest.approx(sum(s.stop_us - s.start_us for s in waits))
    host = sorted((s for s in run.slices if s.track in ("host", "cpu")), key=lambda s: s.start_us)
    assert all(a.stop_us <= b.start_us + 1e-6 for a, b in zip(host, host[1:])), "one thread enqueues, computes and waits"


def test_counters_keep_the_same_order_and_are_no_slower():
    graph, profile = classifier(6), board(launch_us=20.0)
    _, _, events = simulated(graph, profile, "fixed:gpu=0.5")
    _, program, counters = simulated(graph, profile, "fixed:gpu=0.5", counters=True)
    assert program.is_woven and counters.latency_us <= events.latency_us * 1.001
    assert counters.busy_us["cpu"] == pytest.approx(events.busy_us["cpu"]) and counters.busy_us["gpu"] == pytest.approx(events.busy_us["gpu"])


def test_two_memories_cost_their_moves():
    graph = classifier()
    _, _, shared = simulated(graph, board(), "gpu")
    _, _, apart = simulated(graph, board(transfer_gbs=1.0, map_us=50.0), "gpu")
    moved = [s for s in apart.slices if s.name.startswith(("upload", "download"))]
    assert moved and apart.latency_us > shared.latency_us + 50
    assert sum(s.stop_us - s.start_us for s in moved) >= 50 * len(moved) + graph.inputs[0].type.nbytes / 1e3


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_any_plan_of_any_graph_ends(seed):
    rng = np.random.default_rng(seed)
    graph = prepare(load_model(random_model(rng)))
    plan = random_plan(graph, rng)
    cost = CostModel(board())
    for counters in (False, True):
        program = Program(graph, dataclasses.replace(plan, counters=counters))
        run = simulate(program, Predicted(cost, graph, plan))
        started = [s for s in program.steps if isinstance(s, Start)]
        assert len([s for s in run.slices if s.category == "piece"]) >= len(started)
        assert run.latency_us + 1e-6 >= max(run.busy_us.values(), default=0.0)


def test_a_hang_is_an_error_and_no_endless_loop():
    def waits_for_ever():
        yield Work(5.0)
        yield Hold(lambda: False)

    with pytest.raises(CoexecError, match="hangs"):
        Clock().play(waits_for_ever(), [])


def test_scenarios_slow_a_unit_from_then_on():
    graph, profile = classifier(), board()
    _, _, quiet = simulated(graph, profile, "cpu")
    half = parse_scenario(["throttle:cpu,to=0.5"])
    _, _, slow = simulated(graph, profile, "cpu", half)
    assert slow.latency_us == pytest.approx(2 * quiet.latency_us)
    middle = Scenario((Spell("cpu", 0.5, quiet.latency_us / 2),))
    _, _, later = simulated(graph, profile, "cpu", middle)
    assert later.latency_us == pytest.approx(1.5 * quiet.latency_us)
    _, _, afterwards = simulated(graph, profile, "cpu", Scenario((Spell("cpu", 0.5, 0.0, 1e6),)), begin_us=2e6)
    assert afterwards.latency_us == pytest.approx(quiet.latency_us)
    _, _, other = simulated(graph, profile, "cpu", parse_scenario(["load:gpu,share=0.9"]))
    assert other.latency_us == pytest.approx(quiet.latency_us)


def test_scenarios_are_read_as_they_are_written():
    found = parse_scenario(["throttle:gpu,to=0.6,after=2s", "load:cpu,share=0.25,from=150ms,until=1m"])
    assert found.spells == (Spell("gpu", 0.6, 2e6), Spell("cpu", 0.75, 150e3, 60e6))
    assert found.speed("gpu", 1e6) == 1.0 and found.speed("gpu", 3e6) == 0.6 and found.next_change_us(0.0) == 150e3


@pytest.mark.parametrize("text", ["heat:gpu,to=0.5", "throttle:npu,to=0.5", "throttle:gpu", "throttle:gpu,to=1.5", "throttle:gpu,to=x",
                                  "load:cpu,to=0.5", "load:cpu,share=0.5,from=soon", "load:cpu,share=0.5,from=2s,until=1s", "", "throttle:"])
def test_a_wrong_scenario_is_one_clear_line(text):
    with pytest.raises(UsageError) as found:
        parse_scenario([text])
    assert "\n" not in str(found.value) and ("expected" in str(found.value) or "known" in str(found.value) or "found" in str(found.value))


def test_a_simulated_trace_opens_like_a_measured_one_and_says_that_it_is_simulated(tmp_path):
    plan, program, run = simulated(classifier(), board(), "fixed:gpu=0.5")
    as_trace(program, run).save(tmp_path / "t.json")
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["otherData"]["simulated"] is True and found["otherData"]["strategy"] == plan.strategy
    spans = [e for e in found["traceEvents"] if e["ph"] == "X"]
    assert {"piece", "enqueue", "wait", "copy", "run"} == {e["cat"] for e in spans}
    whole = next(e for e in spans if e["cat"] == "run")
    assert whole["dur"] == pytest.approx(run.latency_us, abs=0.01)
    assert sum(e["ph"] == "s" for e in found["traceEvents"]) == sum(e["ph"] == "f" for e in found["traceEvents"]) > 2
    pieces = [e["args"] for e in spans if e["cat"] == "piece"]
    assert all({"node", "device", "region", "cut", "flops"} <= set(a) for a in pieces if a["op_type"] == "Conv")


def test_a_hundred_and_fifty_nodes_take_less_than_a_second():
    import time

    net, x = Net(1, 8, 32, 32), "x"
    for _ in range(150):
        x = net.conv(x, 8, 8)
    graph = net.graph(x)
    plan = parse_strategy("fixed:gpu=0.5").plan(graph, board())
    began = time.process_time()
    cost = CostModel(board())
    program = Program(graph, plan)
    simulate(program, Predicted(cost, graph, plan))
    assert len(graph.nodes) == 150 and any(isinstance(s, Wait) for s in program.steps)
    assert time.process_time() - began < 1.0


def test_a_profile_without_a_gpu_simulates_too():
    profile: DeviceProfile = board(gpu=False)
    assert simulated(classifier(), profile, "coexec")[2].busy_us.keys() == {"cpu"}
