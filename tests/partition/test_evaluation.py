"""How operators are judged: in the order of their network, and by medians."""

from __future__ import annotations

import pytest

from coexec.devices.null.device import NullDevice
from coexec.report import evaluation
from coexec.report.evaluation import PASSES, Took, candidates, measure_operators

from .boards import board, classifier


def test_an_operator_is_timed_beside_the_neighbours_that_it_has_in_its_network(monkeypatch):
    graph, orders, asked = classifier(), [], []

    def timed(device, wanted, threads, order, tell):
        asked[:] = wanted
        orders.append(order)
        return [Took(1.0, "kernel")] * len(wanted)

    monkeypatch.setattr(evaluation, "time_pieces", timed)
    measure_operators("m", graph, board(), {unit: NullDevice(unit, 1e-5) for unit in ("cpu", "gpu")}, 1)
    nodes = list(candidates(graph))
    assert [node for node, cut, _ in asked if not cut] == nodes == [node for node, _, _ in asked[:len(nodes)]], "first all that are whole"
    neighbours = {(i, (i + 1) % len(asked)) for i in range(len(asked))}
    assert len(orders) == 2 * 2 * PASSES and all(set(zip(order, order[1:])) <= neighbours for order in orders)
    assert len({order[0] for order in orders}) > 1, "each pass begins elsewhere"


def test_a_pass_in_a_bad_moment_does_not_count(monkeypatch):
    moments = iter([1.0] * (2 * PASSES - 1) + [100.0])
    monkeypatch.setattr(evaluation, "time_pieces", lambda device, wanted, *more: [Took(us, "kernel") for us in [next(moments)] for _ in wanted])
    found = measure_operators("m", classifier(), board(gpu=False), {"cpu": NullDevice("cpu", 1e-5, asynchronous=False)}, 1)
    assert found and all((s.measured_us, s.again_us) == pytest.approx((1.0, 1.0)) for s in found)
