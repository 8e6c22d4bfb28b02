"""Reports on imagined devices, whose times are known: the oracle finds the cut that balances them."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.devices.null.device import NullDevice
from coexec.graph.ir import Graph, Node, TensorType, Value
from coexec.partition.plan import Partition, Plan, pieces
from coexec.report import oracle as oracles
from coexec.report.oracle import geomean, oracle

KIND = TensorType(np.dtype(np.float32), (30,))
THREADS = {"cpu": 1, "gpu": 1}


def graph_of(op_type: str) -> Graph:
    x, y = Value("x", KIND), Value("y", KIND)
    return Graph("g", (x,), (y,), (Node(op_type, (x,), (y,), name="n"),))


def always(bounds, units):
    return lambda graph: Plan("g", graph.digest, "test", (Partition("n", "Relu", "length", bounds, units, 123.0),))


def null_devices(cost=0.0, declined=()):
    return {"cpu": NullDevice("cpu", cost, asynchronous=False), "gpu": NullDevice("gpu", cost, declined)}


@pytest.fixture
def imagined(monkeypatch):
    """An element takes 2 us on the CPU and 1 us on the GPU; a cut costs 3 us more. Counts how often each partition is timed."""
    timed = []

    def time(node, partitions, *_):
        timed.append([str(p) for p in partitions])
        parts = [[region.size * {"cpu": 2.0, "gpu": 1.0}[unit] for unit, region in pieces(node, p)] for p in partitions]
        return [max(p) + (3.0 if len(p) > 1 else 0.0) for p in parts]

    monkeypatch.setattr(oracles, "_time", time)
    return timed


def test_the_oracle_finds_the_balanced_cut_and_judges_the_chosen_one(imagined):
    graph = graph_of("Relu")
    found = oracle(graph, always((0, 15, 30), ("gpu", "cpu")), null_devices(), THREADS)
    assert found["ops"] == [{
        "name": "n", "op_type": "Relu", "cpu_us": 60.0, "gpu_us": 30.0, "oracle_us": 24.0, "chosen_us": 33.0, "predicted_us": 123.0,
        "oracle": "length 0|21|30 on gpu|cpu", "chosen": "length 0|15|30 on gpu|cpu",
    }]  # fmt: skip
    assert found["oracle_speedup_geomean"] == pytest.approx(30 / 24) and found["chosen_speedup_geomean"] == pytest.approx(30 / 33)
    *screened, final = imagined
    assert len(screened) == len({p for (p,) in screened}) == 11, "nine cuts and two devices alone, each once"
    assert len(final) == 4, "then both devices, the best and the chosen one in turns: the least of many noisy times is too good to be true"


def test_the_oracle_is_never_worse_than_what_was_chosen(imagined):
    graph = graph_of("Relu")
    (row,) = oracle(graph, always((0, 20, 30), ("gpu", "cpu")), null_devices(), THREADS)["ops"]
    assert row["oracle_us"] == row["chosen_us"] == 23.0, "20 of 30 is no tenth, and better than every tenth"


def test_an_operator_is_repeated_in_one_run_on_the_same_inputs():
    graph = graph_of("Relu")
    (node,) = graph.nodes
    plan_of_one = always((0, 15, 30), ("gpu", "cpu"))(graph)
    repeated, plan = oracles.in_a_row(node, plan_of_one["n"], 3)
    plan.check(repeated)
    assert len({n.name for n in repeated.nodes}) == len({n.output for n in repeated.nodes}) == 3
    assert all(n.inputs == node.inputs for n in repeated.nodes) and repeated.outputs == repeated.nodes[-1].outputs
    assert all(p.bounds == (0, 15, 30) and p.devices == ("gpu", "cpu") for p in plan.partitions)


def test_times_are_taken_on_the_devices():
    graph, costs = graph_of("Relu"), null_devices(0.002)
    (row,) = oracle(graph, always((0, 30), ("gpu",)), costs, THREADS, 0.001)["ops"]
    assert min(row["cpu_us"], row["gpu_us"], row["oracle_us"]) >= 1_900 and row["chosen_us"] == row["gpu_us"]


def test_operators_that_one_device_lacks_are_left_out():
    graph = graph_of("Relu")
    found = oracle(graph, always((0, 30), ("cpu",)), null_devices(declined=("Relu",)), THREADS)
    assert found == {"ops": [], "oracle_speedup_geomean": None, "chosen_speedup_geomean": None}


def test_geometric_mean():
    assert geomean([1.0, 4.0]) == pytest.approx(2.0) and geomean([]) is None
