"""What company costs a piece goes with how long it reads from memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.api.between import company
from coexec.cost.compose import CostModel
from coexec.cost.contention import HIDDEN, busy_of, exposed, slower
from coexec.graph.ir import Graph, Node, TensorType, Value, constant
from coexec.partition.plan import Plan, on_one_device, pieces
from coexec.partition.strategies.base import preferred_axis, share
from coexec.profiles import DeviceProfile, Latency, UnitProfile
from coexec.regions import Region

from .boards import board


def of(shape: tuple[int, ...]) -> TensorType:
    return TensorType(np.dtype(np.float32), shape)


def product(rows: int, depth: int, columns: int, name: str = "p") -> Node:
    weights = constant("w", np.ones((depth, columns), np.float32))
    return Node("MatMul", (Value("x", of((rows, depth))), weights), (Value("y", of((rows, columns))),), name=name)


def learnt(*nodes: Node) -> DeviceProfile:
    """A board that knows the kernels of these nodes: 10 GFLOP/s, whatever they read."""
    plain = board()
    costs = CostModel(plain)

    def section(unit: str) -> UnitProfile:
        names = {costs.kernel_name(n, Region.whole(n.output.shape), unit) for n in nodes}
        return replace(getattr(plain, unit), latency={name: Latency({"fixed_us": 1.0, "us_per_mflop": 100.0}, 20) for name in names})

    return replace(plain, cpu=section("cpu"), gpu=section("gpu"))


def test_reads_beneath_arithmetic_wait_for_nobody():
    told = exposed(np.array([0.0, HIDDEN, 1.0, 5.0, 1.0]), np.array([100.0, 100.0, 100.0, 100.0, np.nan]), bandwidth_gbs=10.0)
    assert told.tolist() == [0.0, 0.0, 1.0, 1.0, 0.0], "a megabyte in 100 us is all that 10 GB/s give; of a piece that nobody knows nothing is said"
    half = exposed(np.array(0.6), np.array(100.0), bandwidth_gbs=10.0)
    assert half == pytest.approx((0.6 - HIDDEN) / (1 - HIDDEN))


@given(st.floats(1.0, 3.0), st.floats(1.0, 3.0), st.floats(0.0, 1.0))
def test_a_piece_is_slowed_down_by_no_more_than_the_dearest_of_both(compute, memory, waiting):
    told = float(slower({"compute": compute, "memory": memory}, np.array(waiting)))
    assert compute <= told <= max(compute, memory) + 1e-12
    assert slower({}, np.array(waiting)) == 1.0 and slower({"memory": memory}, np.array(0.0)) == 1.0


@given(st.floats(1.0, 1.5), st.floats(0.1, 1.4), st.lists(st.floats(0.4, 1.0), min_size=1, max_size=5))
def test_what_pieces_show_is_found_again(compute, more, waiting):
    waiting = [0.0, 0.0, *waiting]
    found = busy_of(waiting, [compute + more * x for x in waiting], most=5.0)
    assert found == pytest.approx({"compute": compute, "memory": compute + more})


def test_what_nothing_shows_is_not_told():
    assert busy_of([], [], 2.0) == busy_of([0.9], [1.8], 2.0) == {}
    assert busy_of([0.0, 0.1], [1.1, 1.7], 2.0) == {"compute": 1.1, "memory": 1.1}, "a tenth of waiting says too little of memory"
    assert busy_of([0.0, 0.3], [1.0, 1.3], 3.0) == pytest.approx({"compute": 1.0, "memory": 2.0})
    assert busy_of([0.0, 0.15, 1.0], [1.0, 1.6, 1.9], 3.0) == pytest.approx({"compute": 1.0, "memory": 1.9}), "what waits most says most"
    assert busy_of([0.0, 1.0], [0.9, 40.0], 2.0) == {"compute": 1.0, "memory": 2.0}


def test_weights_streamed_from_memory_are_what_company_slows_down():
    """A vector times 16 MB of weights is all reading; a square product is all arithmetic; of what is computed, not of weights, nothing is far."""
    thin, square = product(1, 2048, 2048), product(512, 512, 512)
    computed = Node("MatMul", (Value("x", of((1, 2048))), Value("w", of((2048, 2048)))), (Value("y", of((1, 2048))),), name="c")
    known, busy = learnt(thin, square, computed), {"compute": 1.1, "memory": 1.9}
    costs = CostModel(replace(known, cpu=replace(known.cpu, busy=busy), gpu=replace(known.gpu, busy=busy)))
    for unit in ("cpu", "gpu"):
        slow, arithmetic, near = (costs.busy(n, Region.whole(n.output.shape), unit) for n in (thin, square, computed))
        assert 1.3 < slow <= 1.9 and arithmetic == near == 1.1, (unit, slow, arithmetic, near)
        assert costs.waiting(thin, Region.whole((1, 2048)), unit) == pytest.approx((slow - 1.1) / 0.8)
        assert costs.waiting(square, Region.whole((512, 512)), unit) == 0.0
    assert CostModel(costs.profile, contention=False).busy(thin, Region.whole((1, 2048)), "cpu") == 1.0


def test_what_company_costs_is_told_apart_from_what_predictions_are_off():
    """Both units' pieces take 1.2 times as long as predicted by themselves; in company the GPU's half as much again."""
    nodes = [product(256, 256, 256, name) for name in "abcd"]
    graph = Graph("g", (), (nodes[0].output,), tuple(nodes))
    plan = Plan("g", "", "s", (*(share(n, preferred_axis(n, "columns"), 0.5) for n in nodes[:3]), on_one_device(nodes[3], "gpu")))
    alone = {(name, unit): 1.2 for name in "abcd" for unit in ("cpu", "gpu")}
    together = {(name, "gpu"): 1.8 for name in "abc"} | {(name, "cpu"): 1.1 for name in "abc"} | {("d", "gpu"): 40.0}

    def told(seen, by_itself, unit):
        return company(graph, plan, seen, by_itself, CostModel(learnt(*nodes)), unit)

    assert told(together, alone, "gpu")["compute"] == pytest.approx(1.5), "d has no other part, and does not count"
    assert told(together, alone, "cpu")["compute"] == 1.0, "nothing becomes faster by company"
    assert told({("d", "gpu"): 2.0}, alone, "gpu") == told(together, {}, "gpu") == {}
    assert {d for d, _ in pieces(nodes[0], plan["a"])} == {"cpu", "gpu"}
