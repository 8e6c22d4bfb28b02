"""Reports on imagined devices, whose times are known: the oracle finds the cut that balances them."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.devices.null.device import NullDevice
from coexec.graph.ir import Graph, Node, TensorType, Value
from coexec.partition.plan import Partition, Plan
from coexec.report.oracle import geomean, oracle

KIND = TensorType(np.dtype(np.float32), (30,))


def graph_of(op_type: str) -> Graph:
    x, y = Value("x", KIND), Value("y", KIND)
    return Graph("g", (x,), (y,), (Node(op_type, (x,), (y,), name="n"),))


def devices(cpu_s: float, gpu_s: float, declined=()):
    def takes(seconds):
        return lambda node, region: seconds * region.size / 30

    return {"cpu": NullDevice("cpu", takes(cpu_s), asynchronous=False), "gpu": NullDevice("gpu", takes(gpu_s), declined)}


def planned(graph: Graph, bounds, units) -> Plan:
    return Plan("g", graph.digest, "test", (Partition("n", "Relu", "length", bounds, units, 123.0),))


def test_the_oracle_finds_the_balanced_cut_and_judges_the_chosen_one():
    graph = graph_of("Relu")
    found = oracle(graph, planned(graph, (0, 30), ("cpu",)), devices(0.016, 0.008), {"cpu": 1, "gpu": 1}, 0.001)
    (row,) = found["ops"]
    assert (row["name"], row["op_type"], row["predicted_us"]) == ("n", "Relu", 123.0)
    assert row["cpu_us"] > 15_500 and 7_900 < row["gpu_us"] < row["cpu_us"] and row["chosen_us"] == row["cpu_us"]
    assert row["oracle_us"] < 0.9 * row["gpu_us"] and row["oracle"] in ("length 0|18|30 on gpu|cpu", "length 0|21|30 on gpu|cpu")
    assert found["oracle_speedup_geomean"] == pytest.approx(row["gpu_us"] / row["oracle_us"])
    assert found["chosen_speedup_geomean"] == pytest.approx(row["gpu_us"] / row["cpu_us"])


def test_operators_that_one_device_lacks_are_left_out():
    graph = graph_of("Relu")
    found = oracle(graph, planned(graph, (0, 30), ("cpu",)), devices(0, 0, ("Relu",)), {"cpu": 1, "gpu": 1})
    assert found == {"ops": [], "oracle_speedup_geomean": None, "chosen_speedup_geomean": None}


def test_geometric_mean():
    assert geomean([1.0, 4.0]) == pytest.approx(2.0) and geomean([]) is None
