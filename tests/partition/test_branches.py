"""Parallel branches on different processors: found where that is the best plan of all, and used in networks that fork."""

from __future__ import annotations

from itertools import product

from coexec.cost.compose import CostModel
from coexec.partition.strategies import parse_strategy
from coexec.partition.strategies.base import Situation
from coexec.partition.strategies.offers import Limits, Offers
from tests.partition.boards import Net, board


def fork(left: int = 2, right: int = 2):
    """An operator, two chains of pointwise convolutions of a single pixel beside one another, and their product: a piece of one reads all of
    its input, whoever made it.
    """
    net = Net(1, 256, 1, 1)
    start = net.conv("x", 256, 256, 1)
    ends = []
    for depth in (left, right):
        x = start
        for _ in range(depth):
            x = net.conv(x, 256, 256, 1)
        ends.append(x)
    return net.graph(net("Mul", *ends))


def where(**more):
    """Waits are dear: a chain that both sides work at pays for each of its operators."""
    return board(0.1, 0.1, launch_us=2, sync_us=300, ready_us=100.0, **more)


def branches(graph):
    """The nodes of both chains, by what they start from."""
    mul = next(n for n in graph.nodes if n.op_type == "Mul")
    found = []
    for value in mul.inputs:
        chain = []
        while value in graph.producers and graph.producers[value].inputs[0] not in graph.inputs:
            chain.append(graph.producers[value].name)
            value = graph.producers[value].inputs[0]
        found.append(chain)
    return found


def test_each_branch_has_a_processor_of_its_own_where_that_is_best():
    graph, profile = fork(), where()
    plan = parse_strategy("coexec:fewer_waits=0").plan(graph, profile)
    on = [{d for name in chain for d in plan[name].devices} for chain in branches(graph)]
    assert sorted(map(sorted, on)) == [["cpu"], ["gpu"]], str(plan)
    assert plan.gap == 0
    cost = CostModel(profile)
    situation = Situation(graph, profile)
    ways = Offers(situation.cost, graph, [None] * len(graph.nodes), Limits(steps=2, chains=False)).ways
    least = min(cost.total_us(graph, [w.partition for w in p]) for p in product(*ways))
    assert plan.predicted_ms * 1e3 <= least * (1 + 1e-6), "no plan in halves is better"


def test_leaving_branches_out_costs_what_they_are_good_for():
    graph, profile = fork(3, 3), where()
    with_them, without = (parse_strategy(s).plan(graph, profile) for s in ("coexec", "coexec:branches=false"))
    assert with_them.predicted_ms < 0.9 * without.predicted_ms
    alone = min(parse_strategy(s).plan(graph, profile).predicted_ms for s in ("cpu", "gpu"))
    assert with_them.predicted_ms < 0.75 * alone
