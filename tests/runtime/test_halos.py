"""Rows that both sides compute: chains without a wait, right results, and halos that count for nothing where somebody reads across."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coexec import settings
from coexec.cost.compose import CostModel
from coexec.devices.registry import find_devices
from coexec.ops.evaluate import evaluate
from coexec.partition.halos import keep_halos
from coexec.partition.plan import Plan
from coexec.partition.strategies import parse_strategy
from coexec.runtime.check import run_checked
from coexec.runtime.executor import PreparedRun
from coexec.runtime.schedule import Wait, schedule
from tests.gpus import gpu_that_shares
from tests.partition.boards import Net, board

from .test_schedule import chain, plan_of, told

HALF = ("height", (0, 16, 32))


def cut(graph, *halos, made=HALF):
    plan = plan_of(graph, *[made] * len(graph.nodes))
    return replace(plan, partitions=tuple(replace(p, halo=h) for p, h in zip(plan.partitions, halos)))


def test_a_chain_of_growing_halos_waits_once():
    graph = chain((3, 3, 3), height=32)
    apart, together = cut(graph, (0, 0), (0, 0), (0, 0)), cut(graph, (2, 2), (1, 1), (0, 0))
    assert sum(isinstance(s, Wait) for s in schedule(graph, apart)) == 3
    assert told(schedule(graph, together)) == ["gpu:c0", "flush", "cpu:c0", "gpu:c1", "flush", "cpu:c1", "gpu:c2", "flush", "cpu:c2", "wait 3"]
    assert keep_halos(graph, together.partitions) == together.partitions


@pytest.mark.parametrize("halos", [((1, 2), (1, 1), (0, 0)), ((2, 1), (1, 1), (0, 0)), ((2, 2), (1, 1), (1, 1)), ((9, 0), (0, 0), (0, 0))])
def test_a_halo_that_does_not_reach_counts_for_nothing(halos):
    graph = chain((3, 3, 3), height=32)
    kept = [p.halo for p in keep_halos(graph, cut(graph, *halos).partitions)]
    assert kept in ([(0, 0), (1, 1), (0, 0)], [(2, 2), (1, 1), (0, 0)], [(0, 0), (0, 0), (0, 0)])
    assert kept[2] == (0, 0), "what leaves the graph is computed once"
    assert kept != list(halos)


def test_a_halo_needs_both_sides_and_readers_that_are_cut():
    graph = chain((3, 3), height=32)
    whole = plan_of(graph, HALF, "cpu")
    assert keep_halos(graph, [replace(whole["c0"], halo=(4, 4)), whole["c1"]])[0].halo == (0, 0)
    assert keep_halos(graph, [replace(whole["c0"], halo=(0, 16)), plan_of(graph, HALF, "gpu")["c1"]])[0].halo == (0, 16), "the GPU has it all"
    lonely = replace(plan_of(graph, ("height", (0, 32, 32)), "gpu")["c0"], halo=(2, 2))
    assert keep_halos(graph, [lonely, plan_of(graph, HALF, "gpu")["c1"]])[0].halo == (0, 0)


@pytest.mark.parametrize(("sharing", "counters"), [("svm", False), ("svm", True), ("copy", False)])
def test_rows_computed_twice_give_the_same_result(sharing, counters):
    with settings.override(sharing=sharing, opencl=gpu_that_shares(sharing)):
        devices = find_devices(need_gpu=True)
    net = Net(1, 4, 40, 24)
    a = net.conv("x", 4, 8)
    b = net.conv(net.conv(a, 8, 8, group=8), 8, 8, 1)
    graph = net.graph(net.conv(net("Add", a, b), 8, 4, strides=[2, 2]))
    halos = {"conv0": (3, 3), "conv1": (2, 2), "conv2": (2, 2), "conv4": (0, 0)}
    made = ("height", (0, 18, 40))
    plan = plan_of(graph, *[made] * (len(graph.nodes) - 1), ("height", (0, 9, 20)))
    plan = replace(plan, partitions=tuple(replace(p, halo=halos[p.name]) for p in plan.partitions))
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 4, 40, 24)).astype(np.float32)}
    with settings.override(handshake=counters):
        prepared = PreparedRun(graph, plan, devices)
    assert [p.halo for p in prepared.plan.partitions] == list(halos.values())
    assert sum(isinstance(s, Wait) for s in prepared.steps) == 1
    expected = evaluate(graph, feeds)
    for _ in range(20):
        for name, found in prepared.run(feeds).items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-6)
    run_checked(prepared, feeds)
    prepared.close()


def test_plans_say_what_is_computed_twice(tmp_path):
    graph = chain((3, 3), height=32)
    plan = cut(graph, (1, 1), (0, 0))
    assert "height 0|16|32 on gpu|cpu with 1+1 twice" in str(plan)
    plan.save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json").partitions == plan.partitions
    Plan.load(tmp_path / "p.json").check(graph)


def test_halos_are_planned_where_waits_are_dear():
    graph = chain((3, 3, 3, 1, 3, 3), height=64, channels=64)
    profile = board(30, 30, sync_us=300.0)
    plans = {spec: parse_strategy(spec).plan(graph, profile) for spec in ("coexec", "coexec:chains=false")}
    assert any(any(p.halo) for p in plans["coexec"].partitions)
    assert plans["coexec"].predicted_ms < plans["coexec:chains=false"].predicted_ms
    assert 2 * len(plans["coexec"].chains) <= len(plans["coexec:chains=false"].chains)
    waits = {spec: sum(isinstance(s, Wait) for s in schedule(graph, plan)) for spec, plan in plans.items()}
    assert 2 * waits["coexec"] <= waits["coexec:chains=false"]
    assert plans["coexec"].predicted_ms * 1e3 == pytest.approx(CostModel(profile).total_us(graph, plans["coexec"].partitions), rel=1e-6)
