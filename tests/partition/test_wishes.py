"""What a user may ask of a plan besides speed: each wish is kept, the best plan under it is found, and contradictions are one line."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import coexec
from coexec.cost.compose import CostModel
from coexec.errors import PlanMismatch, UsageError
from coexec.partition.plan import Plan, on_one_device
from coexec.partition.strategies import parse_strategy
from coexec.partition.strategies.base import Situation
from coexec.partition.strategies.frontier import Objective, Search
from coexec.partition.strategies.offers import Limits, Offers
from coexec.partition.wishes import Wishes
from tests.partition.boards import board, classifier, tangle
from tests.partition.test_exactness import random_board, random_dag


def powered(profile, cpu_w=4.0, gpu_w=2.0, idle_w=0.5):
    return replace(profile, cpu=replace(profile.cpu, power_w=cpu_w, idle_w=idle_w), gpu=replace(profile.gpu, power_w=gpu_w, idle_w=idle_w))


@pytest.fixture(scope="module")
def graph():
    return classifier()


@pytest.fixture(scope="module")
def where():
    return powered(board())


def asked(graph, profile, strategy="coexec", **wishes):
    return parse_strategy(strategy).plan(graph, profile, wishes=Wishes(**wishes))


@pytest.mark.parametrize("strategy", ["cpu", "gpu", "fixed:gpu=0.5", "flops", "greedy", "coexec"])
def test_what_is_forced_stays_there_under_every_strategy(graph, where, strategy):
    conv = next(n.name for n in graph.nodes if n.op_type == "Conv")
    for device in ("cpu", "gpu"):
        made = asked(graph, where, strategy, force={conv: device})
        assert made[conv].devices == (device,) and made[conv].note == "forced" and made.wishes.force == {conv: device}


def test_the_others_are_planned_around_what_is_forced(graph):
    """Forcing one node of a chain to the far side moves its neighbours, where waits are dear."""
    where = board(100, 100, sync_us=500)
    free = asked(graph, where)
    conv = [n.name for n in graph.nodes if n.op_type == "Conv"][1]
    forced = asked(graph, where, force={conv: "gpu"})
    naive = replace(free, partitions=tuple(on_one_device(graph.node(p.name), "gpu") if p.name == conv else p for p in free.partitions))
    assert forced.predicted_ms < CostModel(where).total_us(graph, naive.partitions) / 1e3


@pytest.mark.parametrize("strategy", ["gpu", "fixed:gpu=0.9", "flops", "greedy", "coexec"])
@pytest.mark.parametrize("most", [0.0, 0.3, 0.75])
def test_no_operator_gives_the_gpu_more_than_its_share(graph, where, strategy, most):
    made = asked(graph, where, strategy, max_gpu_share=most)
    assert all(p.ratio.get("gpu", 0.0) <= most for p in made.partitions)
    assert most == 0 or strategy in ("gpu", "greedy") or any(p.ratio.get("gpu", 0.0) > 0 for p in made.partitions)


def test_the_least_energy_of_every_plan_is_found():
    """Every plan of small graphs, priced by the cost model; among them plans that are slower and take less."""
    rng = np.random.default_rng(5)
    differs = 0
    for _ in range(25):
        graph = random_dag(rng, int(rng.integers(1, 4)))
        profile = powered(random_board(rng, 0.03), *rng.uniform(1, 10, 2))
        situation = Situation(graph, profile, wishes=Wishes(objective="energy"))
        ways = Offers(situation.cost, graph, [None] * len(graph.nodes), Limits(steps=4, chains=False)).ways
        power = situation.cost.power
        found = Search(situation.cost, graph, ways, True, Objective(power.idle_w, power.cpu_w, power.gpu_w)).run(10_000)
        plans = [[w.partition for w in plan] for plan in product(*ways)]
        least = min(situation.cost.energy_uj(graph, p) for p in plans)
        assert found.value == pytest.approx(least, rel=1e-9)
        quickest = min(plans, key=lambda p: situation.cost.total_us(graph, p))
        differs += situation.cost.energy_uj(graph, quickest) > least * 1.01
    assert differs > 5, "energy is another question than latency"


def test_energy_is_weighed_against_time_and_said_to_be_modelled(graph, where):
    quick, lean = asked(graph, where), asked(graph, where, objective="energy")
    cost = CostModel(where)
    assert lean.energy_mj == pytest.approx(cost.energy_uj(graph, lean.partitions) / 1e3, rel=1e-5)
    assert lean.energy_mj <= cost.energy_uj(graph, quick.partitions) / 1e3 and lean.predicted_ms >= quick.predicted_ms
    assert lean.objective == "energy" and "mJ (modelled)" in str(lean) and "--objective energy" in str(lean)
    with pytest.raises(UsageError, match="no cpu.power_w"):
        asked(graph, board(), objective="energy")
    with pytest.raises(UsageError, match="'greedy' cannot plan for that objective"):
        asked(graph, where, "greedy", objective="energy")


def test_a_plan_keeps_within_the_memory_limit(graph, where):
    free = asked(graph, where)
    least = asked(graph, where, "cpu").memory_bytes
    assert free.memory_bytes > least, "cut nodes pack some weights twice"
    tight = asked(graph, where, memory_bytes=(least + free.memory_bytes) // 2)
    assert tight.memory_bytes <= tight.wishes.memory_bytes and free.predicted_ms <= tight.predicted_ms
    with pytest.raises(UsageError, match="no plan needs as little memory"):
        asked(graph, where, memory_bytes=least // 2)
    with pytest.raises(UsageError, match="strategy 'flops' needs more memory than the limit"):
        asked(graph, where, "flops", memory_bytes=least // 2)


@pytest.mark.parametrize("wishes, said", [
    ({"force": {"conv0": "cpu"}, "max_gpu_share": 1.5}, "largest share of an operator is wrong"),
    ({"max_gpu_share": float("nan")}, "largest share of an operator is wrong"),
    ({"objective": "enrgy"}, "did you mean energy"),
    ({"force": {"conv0": "npu"}}, "cannot force node 'conv0'"),
    ({"memory_bytes": 0}, "memory limit is wrong"),
    ({"memory_bytes": "2G"}, "memory limit is wrong"),
    ({"force": {"conv0": "gpu"}, "max_gpu_share": 0}, "two wishes contradict one another"),
])
def test_wishes_without_a_meaning_are_one_line(wishes, said):
    with pytest.raises(UsageError) as raised:
        Wishes(**wishes)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_nodes_that_cannot_be_forced_say_why():
    graph = tangle()
    by_type = {n.op_type: n.name for n in graph.nodes}
    for op_type, said in (("Det", "no kernel"), ("Concat", ""), ("Abs", "there is no kernel for Abs")):
        if said:
            with pytest.raises(UsageError, match=f"cannot force node '{by_type[op_type]}' to the gpu.*{said}"):
                asked(graph, board(), force={by_type[op_type]: "gpu"})
    with pytest.raises(UsageError, match="did you mean"):
        asked(graph, board(), force={by_type["Softmax"][:-1] + "x": "cpu"})
    with pytest.raises(UsageError, match="there is no GPU|the profile has no GPU"):
        asked(graph, board(gpu=False), force={by_type["Softmax"]: "gpu"})


def test_energy_and_memory_are_not_promised_without_a_profile(graph):
    with pytest.raises(UsageError, match="only a device profile tells energy and memory"):
        parse_strategy("cpu").plan(graph, None, wishes=Wishes(memory_bytes=1 << 30))


def test_plans_remember_their_wishes(graph, where, tmp_path):
    conv = graph.nodes[0].name
    made = asked(graph, where, force={conv: "cpu"}, max_gpu_share=0.5, objective="energy", memory_bytes=1 << 30)
    made.save(tmp_path / "p.json")
    again = Plan.load(tmp_path / "p.json")
    assert again.wishes == made.wishes and again == made
    assert str(made.wishes) == f"--force {conv}=cpu --max-gpu-share 0.5 --objective energy --memory-limit {1 << 30}"
    data = made.to_dict()
    for broken in ({"force": [1]}, {"objective": "speed"}, {"max_gpu_share": "much"}, {"force": {conv: "tpu"}}):
        with pytest.raises(PlanMismatch, match="key 'wishes' is wrong"):
            Plan.from_dict({**data, "wishes": broken})


def test_plans_of_before_wishes_are_read(graph, where):
    data = asked(graph, where).to_dict()
    del data["wishes"]
    assert not Plan.from_dict(data).wishes


def test_coexec_plan_takes_every_wish(graph, where):
    conv = graph.nodes[0].name
    made = coexec.plan(graph, profile=where, force={conv: "cpu"}, max_gpu_share=0.5, objective="energy", memory_limit=1 << 30)
    assert made.wishes == Wishes({conv: "cpu"}, 0.5, "energy", 1 << 30) and made[conv].devices == ("cpu",)


def test_a_session_takes_every_wish():
    from coexec.api.session import SessionOptions

    options = SessionOptions(max_gpu_share=0.25, memory_limit=1 << 20)
    assert options.wishes == Wishes(max_gpu_share=0.25, memory_bytes=1 << 20)
    with pytest.raises(UsageError, match="largest share"):
        coexec.InferenceSession(b"", SessionOptions(max_gpu_share=2))
