"""Every strategy makes a legal plan of every graph; options are checked; the default is never predicted worse than one device alone."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from coexec import api
from coexec.cost.compose import CostModel
from coexec.errors import UsageError
from coexec.graph.ir import Node
from coexec.ops import op_for
from coexec.partition.chains import chains
from coexec.partition.plan import on_one_device, pieces
from coexec.partition.strategies import parse_strategy, strategies
from coexec.partition.strategies.base import FALLBACK_NOTE, VIEW_NOTE
from coexec.partition.strategies.coexec import LEAST_GAIN
from coexec.profiles import DeviceProfile
from tests.partition.boards import KERNELS, Net, board, classifier, tangle

SPECS = ("cpu", "gpu", "fixed:gpu=0.5", "fixed:gpu=0", "fixed:gpu=1", "fixed:gpu=0.37,axis=channel", "flops", "greedy", "greedy:window=0", "coexec",
         "coexec:width=1", "coexec:chains=false,branches=false,contention=false", "coexec:steps=4,axis=channel")
BOARDS = {
    "near": board(), "slow gpu": board(gpu_gflops=2.0), "slow cpu": board(cpu_gflops=2.0), "dear wait": board(sync_us=5000.0),
    "two memories": board(map_us=20.0, transfer_gbs=4.0), "no gpu": board(gpu=False), "few kernels": board(operators=("Conv",)),
}


@pytest.fixture(scope="module", params=[classifier, tangle])
def graph(request):
    return request.param()


@pytest.mark.parametrize("where", BOARDS)
@pytest.mark.parametrize("spec", SPECS)
def test_every_plan_is_legal_and_priced(graph, spec, where):
    profile = BOARDS[where]
    plan = parse_strategy(spec).plan(graph, profile)
    plan.check(graph)
    assert [p.name for p in plan.partitions] == [n.name for n in graph.nodes]
    assert plan.strategy == parse_strategy(spec).spec and plan.profile == profile.name
    assert plan.predicted_ms > 0
    for node, partition in zip(graph.nodes, plan.partitions):
        if op_for(node).is_view:
            assert (partition.axis, partition.devices, partition.note, partition.predicted_us) == (None, ("cpu",), VIEW_NOTE, 0)
        else:
            assert partition.predicted_us > 0, "an unknown cost is never zero"
        if "gpu" in partition.devices:
            assert profile.gpu is not None and node.op_type in profile.gpu.operators
            assert partition.devices[0] == "gpu", "the GPU's piece comes first"
    assert [n for chain in plan.chains for n in chain] == [n.name for n in graph.nodes]


@pytest.mark.parametrize("where", BOARDS)
def test_coexec_is_never_predicted_worse_than_one_device(graph, where):
    best = {s: parse_strategy(s).plan(graph, BOARDS[where]).predicted_ms for s in ("cpu", "gpu", "coexec")}
    assert best["coexec"] <= min(best["cpu"], best["gpu"])


def test_coexec_gains_where_the_two_are_alike_and_keeps_away_where_they_are_not():
    graph = classifier()
    predicted = {s: parse_strategy(s).plan(graph, board(100, 100)).predicted_ms for s in ("cpu", "gpu", "fixed:gpu=0.5", "coexec")}
    assert predicted["coexec"] < 0.62 * min(predicted["cpu"], predicted["gpu"])
    assert predicted["coexec"] <= predicted["fixed:gpu=0.5"]
    assert parse_strategy("coexec").plan(graph, board(sync_us=1e6)).devices == {"cpu"}
    assert parse_strategy("coexec").plan(graph, board(cpu_gflops=0.01, gpu_gflops=1000)).partitions[0].devices == ("gpu",)


def test_without_a_profile_plans_are_not_priced():
    plan = parse_strategy("fixed:gpu=0.25").plan(classifier())
    assert plan.predicted_ms is None and all(p.predicted_us is None for p in plan.partitions)
    assert plan.partitions[1].bounds == (0, 14, 56) and plan.partitions[1].ratio == {"gpu": 0.25, "cpu": 0.75}
    for spec in ("flops", "greedy", "coexec"):
        with pytest.raises(UsageError, match="needs a device profile"):
            parse_strategy(spec).plan(classifier())


def test_nodes_that_are_nobodys_choice_say_why():
    graph = tangle()
    plan = parse_strategy("gpu").plan(graph, board())
    notes = {p.op_type: p.note for p in plan.partitions}
    assert notes["Det"] == FALLBACK_NOTE
    assert notes["Abs"] == "gpu: there is no kernel for Abs"
    assert notes["Conv"] == ""
    refused = parse_strategy("gpu").plan(graph, board(), lambda node: "too odd" if node.op_type == "Concat" else None)
    assert {p.op_type for p in refused.partitions if p.note == "gpu: too odd"} == {"Concat"}
    assert next(p for p in refused.partitions if p.op_type == "Abs").devices == ("gpu",), "the device knows better than the profile"
    assert parse_strategy("gpu").plan(graph, board(gpu=False), lambda node: None).devices == {"cpu"}
    doubles = replace(board(), gpu=replace(board().gpu, dtypes=("float16",)))
    assert next(p for p in parse_strategy("gpu").plan(graph, doubles).partitions if p.op_type == "Conv").note == "gpu: it has no float32"


def test_fixed_rounds_to_legal_cuts_and_prefers_the_axis_named():
    net = Net(1, 12, 9, 9)
    graph = net.graph(net.conv(net.conv("x", 12, 12, group=3), 12, 10))
    grouped, dense = parse_strategy("fixed:gpu=0.5,axis=channel").plan(graph, board()).partitions
    assert (grouped.axis, grouped.bounds) == ("channel", (0, 8, 12)), "groups of four channels are not cut"
    assert (dense.axis, dense.bounds) == ("channel", (0, 5, 10))
    assert parse_strategy("fixed:gpu=1").plan(graph, board()).partitions[1].bounds == (0, 9, 9)
    assert parse_strategy("fixed:gpu=0.5,axis=heads").plan(graph, board()).partitions[0].axis == "height"
    assert [r for _, r in pieces(graph.nodes[1], parse_strategy("fixed:gpu=0").plan(graph).partitions[1])][0].shape == (1, 10, 9, 9)


def test_flops_divides_channels_by_peak_rates():
    plan = parse_strategy("flops").plan(classifier(), board(cpu_gflops=50, gpu_gflops=150))
    assert plan.partitions[1].axis == "channel" and plan.partitions[1].bounds == (0, 48, 64)


@pytest.mark.parametrize("text,words", [
    ("coexce", "did you mean coexec"), ("", "unknown strategy"), ("fixed:gpo=0.5", "did you mean gpu"), ("fixed:gpu=half", "a number"),
    ("fixed:gpu=2", "from 0 to 1"), ("fixed:gpu=nan", "from 0 to 1"), ("fixed:gpu=", "no value"), ("fixed:", "after the colon"),
    ("fixed:gpu=0.5,gpu=0.5", "twice"), ("fixed:axis=hight", "did you mean height"), ("cpu:gpu=1", "no options"),
    ("coexec:width=-1", "from 0 to"), ("coexec:width=1.5", "whole number"), ("coexec:steps=1", "from 2 to"),
    ("coexec:axis=hight", "did you mean height"), ("coexec:chains=maybe", "true or false"),
])
def test_parse_strategy_refuses(text, words):
    with pytest.raises(UsageError, match=words):
        parse_strategy(text)


def test_a_strategy_is_a_value_that_prints_as_its_spec():
    assert set(strategies()) >= {"coexec", "cpu", "fixed", "flops", "gpu", "greedy"}
    for text in SPECS:
        strategy = parse_strategy(text)
        assert strategy.spec == str(strategy) == text and parse_strategy(strategy.spec) == strategy
        assert strategy == type(strategy)(**strategy.__dict__)
    with pytest.raises(FrozenInstanceError):
        parse_strategy("fixed").gpu = 0.1
    assert parse_strategy("fixed").spec == "fixed:gpu=0.5"
    assert [parse_strategy(s).needs_gpu for s in SPECS[:5]] == [False, True, True, False, True]
    assert [parse_strategy(s).uses_gpu for s in SPECS[:5]] == [False, True, True, False, True]


def test_chains_end_where_the_cpu_reads_what_the_gpu_wrote():
    net = Net(1, 4, 16, 16)
    x = net.conv("x", 4, 8)  # 0
    y = net("Abs", x)        # 1
    z = net.conv(y, 8, 8)    # 2
    graph = net.graph(net("Neg", z))
    names = [n.name for n in graph.nodes]

    def made(*wanted):
        return [on_one_device(n, w) if isinstance(w, str) else replace(on_one_device(n, "cpu"), axis="height", bounds=w,
                                                                       devices=("gpu", "cpu"))
                for n, w in zip(graph.nodes, wanted)]

    assert chains(graph, made("gpu", "gpu", "gpu", "gpu")) == (tuple(names),)
    assert chains(graph, made("cpu", "gpu", "gpu", "gpu")) == (tuple(names),)
    assert chains(graph, made("gpu", "cpu", "gpu", "cpu")) == ((names[0],), tuple(names[1:3]), (names[3],))
    halves = (0, 8, 16)
    assert chains(graph, made(halves, halves, halves, halves)) == (tuple(names[:2]), tuple(names[2:])), "only a halo makes the sides wait"
    assert chains(graph, made(halves, (0, 9, 16), halves, halves)) == (tuple(names[:2]), tuple(names[2:])), "the GPU waits for nobody"
    assert chains(graph, made(halves, (0, 7, 16), halves, halves)) == ((names[0],), tuple(names[1:])), "its own rows need no wait"


def test_predicted_time_grows_with_waits_launches_and_transfers():
    graph = classifier()
    plan = parse_strategy("fixed:gpu=0.5").plan(graph, board())
    base = CostModel(board()).total_us(graph, plan.partitions)
    waits = len(plan.chains)
    assert CostModel(board(sync_us=130.0)).total_us(graph, plan.partitions) == pytest.approx(base + 100 * waits, abs=100)
    assert CostModel(board(launch_us=15.0)).total_us(graph, plan.partitions) > base
    assert CostModel(board(map_us=10.0, transfer_gbs=1.0)).total_us(graph, plan.partitions) > base


def test_a_gpu_chain_is_paid_for_one_wait():
    net = Net(1, 8, 32, 32)
    x = "x"
    for _ in range(6):
        x = net.conv(x, 8, 8)
    graph = net.graph(x)
    profile = board(launch_us=0.0, sync_us=1000.0)
    plan = parse_strategy("gpu").plan(graph, profile)
    cost = CostModel(profile)
    kernels = sum(cost.kernel(n, pieces(n, p)[0][1], "gpu").us for n, p in zip(graph.nodes, plan.partitions))
    assert plan.predicted_ms * 1e3 == pytest.approx(kernels + 1000, abs=10), "one wait, and copies of input and output"


def test_planning_loads_no_device():
    """A laptop plans for a phone."""
    import subprocess
    import sys

    code = ("import sys; from coexec.partition.strategies import strategies; strategies(); "
            "bad = [m for m in sys.modules if m.startswith(('coexec.devices', 'coexec.runtime', 'pyopencl', 'numba', 'sklearn', 'scipy'))]; "
            "assert not bad, bad")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_supports_is_asked_about_native_nodes_only():
    asked: list[Node] = []
    graph = tangle()
    parse_strategy("gpu").plan(graph, board(), lambda node: asked.append(node))
    assert asked and {n.op_type for n in asked} <= {*KERNELS, "Abs", "Slice"}


def test_profile_is_the_only_knowledge_of_the_board():
    profile: DeviceProfile = board()
    first, second = (parse_strategy("coexec").plan(classifier(), profile) for _ in range(2))
    assert first.partitions == second.partitions, "planning is deterministic"


def test_a_plan_for_one_cpu_thread_does_not_count_on_two():
    """A board whose two CPU threads are faster than one and the GPU: whoever asks for one thread must get both devices."""
    one = board(cpu_gflops=100.0, gpu_gflops=100.0, launch_us=1.0, sync_us=5.0)
    two = board(cpu_gflops=500.0).cpu
    both = replace(one, cpu=replace(one.cpu, threads=1), cpu_alone=two)
    graph = classifier()
    assert api.plan_prepared(graph, profile=both).devices == {"cpu"}
    made = api.plan_prepared(graph, profile=both, threads=1)
    assert made.devices == {"cpu", "gpu"}
    assert made.predicted_ms == api.plan_prepared(graph, profile=replace(both, cpu_alone=None)).predicted_ms


def test_more_threads_than_an_emulated_gpu_leaves_cores_are_of_use_without_it_only():
    """Whoever asks for both cores where the GPU needs one of them gets them in plans of the CPU alone: never both cores and the GPU."""
    one = board(cpu_gflops=100.0, gpu_gflops=100.0, launch_us=1.0, sync_us=5.0)
    both = replace(one, cpu=replace(one.cpu, threads=1), cpu_alone=board(cpu_gflops=500.0).cpu)
    graph = classifier()
    for strategy in ("cpu", "greedy", "coexec"):
        asked, default = (api.plan_prepared(graph, profile=both, strategy=strategy, threads=threads) for threads in (2, 0))
        assert (asked.partitions, asked.predicted_ms) == (default.partitions, default.predicted_ms)
    assert api.plan_prepared(graph, profile=both, threads=2).devices == {"cpu"}


def test_an_emulated_gpu_is_used_where_it_gains_more_than_predictions_are_off():
    """Seventy boards, from one whose GPU hardly helps: what its default gives up is never more than its share of the time."""
    lost = []
    for share in range(1, 71):
        known = board(100.0, 100.0 * share / 70, launch_us=2, sync_us=5)
        emulated = replace(known, gpu=replace(known.gpu, emulated=True), cpu_alone=known.cpu)
        graph = classifier()
        both, usual, real = (parse_strategy(spec).plan(graph, profile) for spec, profile in
                             (("coexec:least_gain=0", emulated), ("coexec", emulated), ("coexec", known)))
        alone = min(parse_strategy(s).plan(graph, emulated).predicted_ms for s in ("cpu", "gpu"))
        assert both.partitions == real.partitions, "a GPU of its own is used wherever that pays"
        assert usual.predicted_ms in (both.predicted_ms, alone)
        assert (usual.predicted_ms == both.predicted_ms) == (both.predicted_ms < (1 - LEAST_GAIN) * alone or both.predicted_ms == alone)
        lost.append(usual.predicted_ms > both.predicted_ms)
        apart = parse_strategy("coexec").plan(graph, replace(emulated, cpu_alone=None))
        assert apart.partitions == real.partitions, "on a core that the CPU leaves alone anyway it is a GPU of its own"
    assert 0 < sum(lost) < len(lost)
    with pytest.raises(UsageError, match="least_gain"):
        parse_strategy("coexec:least_gain=1")
