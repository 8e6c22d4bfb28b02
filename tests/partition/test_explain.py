"""Why a node is where it is: the figures of the explanation are the cost model's, and the runners-up are the best of their kind."""

from __future__ import annotations

import pytest

from coexec.cost.compose import CostModel
from coexec.errors import UsageError
from coexec.ops import op_for
from coexec.partition.halos import keep_halos
from coexec.partition.plan import cut
from coexec.partition.strategies import parse_strategy
from coexec.partition.strategies.offers import places
from coexec.partition.wishes import Wishes
from coexec.report.explain import explain
from tests.partition.boards import board, classifier, tangle


@pytest.fixture(scope="module")
def graph():
    return classifier()


@pytest.fixture(scope="module", params=["one memory", "two memories"])
def where(request):
    return board() if request.param == "one memory" else board(transfer_gbs=4.0, map_us=10.0)


def test_each_way_is_a_whole_run_with_this_node_changed(graph, where):
    plan, cost = parse_strategy("coexec").plan(graph, where), CostModel(where)
    for node in [n for n in graph.nodes if n.op_type in ("Conv", "Gemm")]:
        told = explain(graph, plan, node.name, where)
        chosen, *others = told.ways
        assert chosen.partition.bounds == plan[node.name].bounds and chosen.run_ms == pytest.approx(plan.predicted_ms, rel=1e-5)
        assert [w.run_ms for w in others] == sorted(w.run_ms for w in others) and told.ways[0].label == "chosen"
        for way in others:
            parts = [way.partition if p.name == node.name else p for p in plan.partitions]
            assert way.run_ms == pytest.approx(cost.total_us(graph, keep_halos(graph, parts)) / 1e3, rel=1e-9)
        labels = {w.label for w in told.ways}
        single = len(set(plan[node.name].devices)) == 1
        assert labels >= ({"cpu only", "gpu only"} - ({f"{plan[node.name].devices[0]} only"} if single else set()))
        assert sum(label.startswith("by ") for label in labels) + ("other cut" in labels) >= 1
        assert chosen.alone_us == pytest.approx(cost.node(node, plan[node.name]).us)


def test_the_best_cut_of_an_axis_is_among_the_runners_up(graph, where):
    plan, cost = parse_strategy("cpu").plan(graph, where), CostModel(where)
    node = next(n for n in graph.nodes if n.op_type == "Conv")
    told = explain(graph, plan, node.name, where)
    for axis in op_for(node).split_axes(node):
        if axis.extent > axis.multiple:
            totals = [cost.total_us(graph, [cut(node, axis, (0, at, axis.extent), ("gpu", "cpu")) if p.name == node.name else p
                                            for p in plan.partitions]) for at in places(axis)]
            way = next(w for w in told.ways if w.label == f"by {axis.name}")
            assert way.run_ms == pytest.approx(min(totals) / 1e3, rel=1e-9)
    shorter = told.ways[1].run_ms < told.ways[0].run_ms
    assert ("shorter: strategy 'cpu' did not look at it" in told.why) == shorter


def test_the_parts_of_a_cost_add_up(graph):
    """A chain of one: the run is the launch, the longer side, the wait at the end, and what is copied in and out."""
    where = board(launch_us=7.0, sync_us=31.0)
    plan = parse_strategy("fixed:gpu=0.5").plan(graph, where)
    told = explain(graph, plan, graph.nodes[0].name, where)
    chosen = told.ways[0]
    assert chosen.launch_us == 7.0 and chosen.sync_us == 0 and chosen.gpu_us > 0 and chosen.cpu_us > 0
    assert chosen.alone_us == pytest.approx(7.0 + max(chosen.gpu_us, chosen.cpu_us) + 31.0)
    later = explain(graph, plan, graph.nodes[1].name, where).ways[0]
    assert later.sync_us > 0, "its rows of the halo are the GPU's"


def test_where_there_was_no_choice_the_reason_is_told():
    graph, where = tangle(), board()
    plan = parse_strategy("coexec").plan(graph, where)
    reasons = {n.op_type: explain(graph, plan, n.name, where) for n in graph.nodes}
    assert "fallback" in reasons["Det"].why and len(reasons["Det"].ways) == 1
    assert "there is no kernel for Abs" in reasons["Abs"].why
    forced = parse_strategy("coexec").plan(graph, where, wishes=Wishes({graph.nodes[0].name: "cpu"}))
    assert explain(graph, forced, graph.nodes[0].name, where).why.startswith("as asked for: forced; ")


def test_wishes_bind_the_runners_up_too(graph, where):
    plan = parse_strategy("coexec").plan(graph, where, wishes=Wishes(max_gpu_share=0.25))
    told = explain(graph, plan, graph.nodes[0].name, where)
    assert all(w.partition.ratio.get("gpu", 0) <= 0.25 for w in told.ways)


def test_an_unknown_node_suggests_a_name(graph, where):
    with pytest.raises(UsageError, match="did you mean"):
        explain(graph, parse_strategy("cpu").plan(graph, where), graph.nodes[0].name + "x", where)


def test_a_board_without_gpu(graph):
    where = board(gpu=False)
    assert explain(graph, parse_strategy("coexec").plan(graph, where), graph.nodes[0].name, where).why == "the profile has no GPU"
