"""Strategy `clusters`: three processors are never predicted worse than the best two, and its plans compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import coexec
from coexec import settings
from coexec.api.simulation import simulate_plan, simulate_strategies
from coexec.devices.cluster.device import ClusterDevice
from coexec.devices.cpu.device import CpuDevice
from coexec.devices.registry import find_devices
from coexec.errors import UsageError
from coexec.ops.evaluate import evaluate
from coexec.partition.plan import Plan
from coexec.partition.strategies.base import parse_strategy
from coexec.partition.strategies.clusters import Clusters, _far, _pairs
from coexec.partition.strategies.coexec import Coexec
from coexec.profiles import UnitProfile, from_yaml, load_profile, to_yaml
from coexec.runtime.executor import PreparedRun
from coexec.simulate.judge import judging
from tests.runtime.lazy_device import LazyDevice

from .boards import Net, board, classifier, tangle

ROOT = Path(__file__).resolve().parents[2]


def three(little_gflops=60.0, gpu=True, **more):
    """A board with a second cluster."""
    plain = board(gpu=gpu, **more)
    latency = {name: replace(fit, terms={**fit.terms, "us_per_mflop": 1e3 / little_gflops}) for name, fit in plain.cpu.latency.items()}
    return replace(plain, little=UnitProfile("imagined little cpu", little_gflops, 10.0, threads=2, launch_us=2.0, sync_us=8.0, latency=latency))


def branches():
    net = Net(1, 16, 28, 28)
    a, b = net.conv("x", 16, 64, 5), net("Relu", net.conv("x", 16, 32, 1))
    return net.graph(net("Concat", net.conv(a, 64, 32), b, axis=1))


@pytest.mark.parametrize("graph", [classifier(6), tangle(), branches()], ids=["classifier", "tangle", "branches"])
@pytest.mark.parametrize("profile", [three(), three(gpu=False), three(5.0), three(400.0), three(sync_us=2000.0),
                                     three(transfer_gbs=2.0, map_us=80.0)],
                         ids=["plain", "no gpu", "feeble", "strong", "slow waits", "two memories"])  # fmt: skip
def test_three_are_never_predicted_worse_than_the_best_two(graph, profile):
    plan = parse_strategy("clusters").plan(graph, profile, judging=judging)
    plan.check(graph)
    mine = simulate_plan(graph, plan, profile).simulated_ms
    assert plan.predicted_ms == pytest.approx(mine, abs=1e-5) and plan.strategy == "clusters"
    for pair, names, supports in _pairs(graph, profile, None):
        two = Clusters._named(Coexec().plan(graph, pair, supports, judging=judging), names, profile)
        assert mine <= simulate_plan(graph, two, profile).simulated_ms + 1e-6


def test_three_are_faster_where_each_has_something_to_give():
    found = simulate_strategies(classifier(6), three(100.0, gpu_gflops=100.0), ("cpu", "gpu", "coexec", "clusters"))
    assert found["clusters"].simulated_ms < 0.85 * found["coexec"].simulated_ms
    assert found["clusters"].plan.devices == {"cpu", "gpu", "little"} and set(found["clusters"].run.busy_us) == {"cpu", "gpu", "little"}


def test_two_clusters_without_a_gpu_share_the_work():
    profile = load_profile(ROOT / "profiles" / "rk3399-two-clusters.yaml")
    found = simulate_strategies(classifier(6), profile, ("cpu", "clusters"))
    assert found["clusters"].simulated_ms < 0.6 * found["cpu"].simulated_ms and found["clusters"].plan.devices <= {"cpu", "little"}


def test_without_a_second_cluster_it_is_coexec():
    graph, profile = classifier(), board()
    plan, other = parse_strategy("clusters").plan(graph, profile, judging=judging), parse_strategy("coexec").plan(graph, profile)
    assert plan.partitions == other.partitions and plan.strategy == "clusters"
    with pytest.raises(UsageError, match="profile"):
        Clusters().plan(graph)


@pytest.mark.parametrize("seed", range(3))
def test_its_plans_compute_the_same_on_three_devices(seed, tmp_path):
    graph = (classifier(4, 32, 24), tangle(), branches())[seed]
    coexec_plan = coexec.plan(graph, profile=three(100.0), strategy="clusters")
    coexec_plan.save(tmp_path / "p.json")
    plan = Plan.load(tmp_path / "p.json")
    rng = np.random.default_rng(seed)
    feeds = {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
    reference = evaluate(graph, feeds)
    run = PreparedRun(graph, plan, {"cpu": CpuDevice(), **find_devices(), "little": ClusterDevice((0,))})
    try:
        for _ in range(3):
            for name, found in run.run(feeds).items():
                np.testing.assert_allclose(found, reference[name], rtol=0, atol=1e-4 * max(1.0, np.abs(reference[name]).max()))
    finally:
        run.close()
    assert "little" in plan.devices or seed, "the plan of the classifier uses all three"


def test_a_plan_for_a_cluster_that_is_not_here_runs_on_the_cpu():
    graph = classifier(2, 32, 32)
    plan = Clusters().plan(graph, three(100.0, gpu=False), judging=judging)
    assert "little" in plan.devices
    run = PreparedRun(graph, plan, {"cpu": CpuDevice()})
    feeds = {v.name: np.ones(v.shape, np.float32) for v in graph.inputs}
    try:
        assert run.plan.devices == {"cpu"} and any("no device 'little'" in p.note for p in run.plan.partitions)
        for name, found in run.run(feeds).items():
            np.testing.assert_allclose(found, evaluate(graph, feeds)[name], rtol=1e-3, atol=1e-6)
    finally:
        run.close()


def test_a_session_with_a_second_cluster_runs_such_a_plan(tmp_path):
    graph = classifier(3, 32, 32)
    plan = replace(coexec.plan(graph, profile=three(100.0), strategy="clusters"), board={})  # it was made for an imagined one
    x = np.random.default_rng(0).standard_normal(graph.inputs[0].shape).astype(np.float32)
    with settings.override(little_cores=(0,)):
        with coexec.InferenceSession(graph, coexec.SessionOptions(check=True, strict=True), plan=plan) as session:
            assert session.plan.devices == plan.devices >= {"cpu", "little"}
            found, = session.run(None, {graph.inputs[0].name: x})
    np.testing.assert_allclose(found, evaluate(graph, {graph.inputs[0].name: x})[graph.outputs[0].name], rtol=1e-3, atol=1e-6)


def test_a_second_cluster_that_a_plan_leaves_alone_changes_nothing():
    graph, profile = classifier(2, 16, 16), board()
    plan = replace(parse_strategy("fixed:gpu=0.5").plan(graph, profile), counters=True)
    kept = []
    for more in ({}, {"little": ClusterDevice((0,))}):
        run = PreparedRun(graph, plan, {"cpu": CpuDevice(), "gpu": LazyDevice(whim=lambda: True), **more})
        kept.append((run.handshake is not None, run.memory.nbytes))
        run.close()
    assert kept[0] == kept[1] and kept[0][0]


def test_a_profile_keeps_its_second_cluster():
    profile = three()
    assert from_yaml(to_yaml(profile)) == profile and profile.unit("little").launch_us == 2.0
    assert set(_far(profile.little, tangle()).operators) >= {"Conv", "Det"}
