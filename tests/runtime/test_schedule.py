"""The order of things, asserted on lists: no device is involved."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.ops import op_for
from coexec.partition.plan import Plan, cut, on_one_device
from coexec.runtime.bands import in_bands
from coexec.runtime.hazards import guard
from coexec.runtime.hoist import hoist
from coexec.runtime.memory import MemoryPlan, plan_memory
from coexec.runtime.schedule import Flush, Move, Start, Wait, schedule


def chain(kernels=(1, 1, 3), height=8, channels=4):
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((channels, channels, k, k)).astype(np.float32), f"w{i}") for i, k in enumerate(kernels)]
    nodes = [helper.make_node("Conv", [f"t{i}", f"w{i}"], [f"t{i + 1}"], name=f"c{i}", pads=[k // 2] * 4) for i, k in enumerate(kernels)]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, height, 8]) for n in ("t0", f"t{len(kernels)}")]
    return prepare(load_model(helper.make_model(helper.make_graph(nodes, "chain", info[:1], info[1:], weights))))


def plan_of(graph, *choices):
    made = []
    for node, choice in zip(graph.nodes, choices):
        if isinstance(choice, str):
            made.append(on_one_device(node, choice))
        else:
            axis, bounds = choice
            made.append(cut(node, op_for(node).axis(node, axis), bounds, ("gpu", "cpu")))
    return Plan("m", graph.digest, "test", tuple(made))


def told(steps, moves=False):
    """The steps as short words."""
    words = []
    for step in steps:
        match step:
            case Start(node=node, device=device):
                words.append(f"{device}:{node.name}")
            case Wait(index=index):
                words.append(f"wait {index}")
            case Flush():
                words.append("flush")
            case Move(value=value, region=region, to_host=to_host) if moves:
                words.append(f"{'down' if to_host else 'up'} {value.name} {region[2]}")
    return words


def test_one_device_waits_once():
    graph = chain()
    assert told(schedule(graph, plan_of(graph, "gpu", "gpu", "gpu"))) == ["gpu:c0", "gpu:c1", "gpu:c2", "flush", "wait 3"]
    assert told(schedule(graph, plan_of(graph, "cpu", "cpu", "cpu"))) == ["cpu:c0", "cpu:c1", "cpu:c2"]


def test_the_gpu_starts_first_and_pointwise_cuts_of_one_height_need_no_wait():
    graph = chain((1, 1, 1))
    half = ("height", (0, 4, 8))
    steps = schedule(graph, plan_of(graph, half, half, half))
    assert told(steps) == ["gpu:c0", "flush", "cpu:c0", "gpu:c1", "flush", "cpu:c1", "gpu:c2", "flush", "cpu:c2", "wait 3"]


def test_a_halo_makes_the_cpu_wait_for_the_piece_that_wrote_it_only():
    graph = chain((1, 3))
    half = ("height", (0, 4, 8))
    steps = schedule(graph, plan_of(graph, half, half))
    # the gpu's second piece is enqueued before the cpu waits for the first: the device never idles
    assert told(steps) == ["gpu:c0", "flush", "cpu:c0", "gpu:c1", "flush", "wait 1", "cpu:c1", "wait 2"]


def test_moves_name_exactly_the_rows_that_are_missing():
    graph = chain((1, 3))
    half = ("height", (0, 4, 8))
    words = told(schedule(graph, plan_of(graph, half, half)), moves=True)
    assert [w for w in words if w[:2] in ("up", "do")] == ["up t0 0:4", "up t1 4:5", "down t1 3:4", "down t2 0:4"]


def test_a_channel_cut_needs_everything_of_the_other_side():
    graph = chain((1, 1))
    half = ("channel", (0, 2, 4))
    assert told(schedule(graph, plan_of(graph, half, half))) == ["gpu:c0", "flush", "cpu:c0", "gpu:c1", "flush", "wait 1", "cpu:c1", "wait 2"]


def test_empty_pieces_start_nothing():
    graph = chain((1,))
    assert told(schedule(graph, plan_of(graph, ("height", (0, 0, 8))))) == ["cpu:c0"]
    assert told(schedule(graph, plan_of(graph, ("height", (0, 8, 8))))) == ["gpu:c0", "flush", "wait 1"]


def overlaps(graph, steps):
    """Pairs of values whose memory overlaps."""
    memory = plan_memory(graph, steps)
    spans = [(at, at + v.type.nbytes, v) for v, at in memory.offsets.items()]
    return {frozenset((a.name, b.name)) for i, (s, e, a) in enumerate(spans) for t, f, b in spans[i + 1:] if s < f and t < e}


def test_memory_of_a_gpu_piece_is_kept_until_a_later_piece_was_started():
    graph = chain((1, 1, 1, 1))
    on_cpu = overlaps(graph, schedule(graph, plan_of(graph, *["cpu"] * 4)))
    on_gpu = overlaps(graph, schedule(graph, plan_of(graph, *["gpu"] * 4)))
    assert frozenset(("t0", "t2")) in on_cpu
    assert frozenset(("t0", "t2")) not in on_gpu and frozenset(("t0", "t3")) in on_gpu


def test_the_host_waits_before_it_writes_into_memory_that_a_piece_still_uses():
    graph = chain((1, 1, 1, 1))
    half = ("height", (0, 4, 8))
    steps = schedule(graph, plan_of(graph, half, half, half, half))
    memory = plan_memory(graph, steps)
    assert "wait 1" not in told(steps)
    guarded = guard(steps, memory)
    found = told(guarded)
    assert found.index("gpu:c2") < found.index("wait 1") < found.index("cpu:c2")  # c2's output lies where c0's input lay
    apart = MemoryPlan({v: i * 4096 for i, v in enumerate(memory.offsets)}, 4096 * len(memory.offsets))
    assert told(guard(steps, apart)) == told(steps)
    before = {(s.node.name, s.device): s for s in steps if isinstance(s, Start)}
    for step in guarded:
        if isinstance(step, Start) and step.after >= 0:
            assert guarded[step.after] is steps[before[step.node.name, step.device].after]


def dense(batch=1):
    """x -> a, b; then concat(a, b), concat(concat, c) as in DenseNet."""
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 3, 4, 4]) for n in ("x",)]
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="a"), helper.make_node("Abs", ["x"], ["b"], name="b"),
             helper.make_node("Concat", ["a", "b"], ["ab"], name="ab", axis=1), helper.make_node("Neg", ["ab"], ["c"], name="c"),
             helper.make_node("Concat", ["ab", "c"], ["abc"], name="abc", axis=1), helper.make_node("Exp", ["abc"], ["y"], name="y")]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 12, 4, 4])]
    return prepare(load_model(helper.make_model(helper.make_graph(nodes, "dense", info, out))))


def test_concatenations_of_one_image_cost_nothing():
    graph = dense()
    half = ("height", (0, 2, 4))
    steps = schedule(graph, plan_of(graph, half, half, "cpu", half, "cpu", half))
    assert told(steps) == ["gpu:a", "flush", "cpu:a", "gpu:b", "flush", "cpu:b", "gpu:c", "flush", "cpu:c", "gpu:y", "flush", "cpu:y", "wait 4"]
    offsets = {v.name: at for v, at in plan_memory(graph, steps).offsets.items()}
    assert offsets["a"] == offsets["ab"] == offsets["abc"]
    assert offsets["b"] == offsets["a"] + 3 * 16 * 4 and offsets["c"] == offsets["a"] + 6 * 16 * 4


def test_concatenations_of_a_batch_are_copies():
    graph = dense(batch=2)
    assert "cpu:ab" in told(schedule(graph, plan_of(graph, *["cpu"] * 6)))


def test_pieces_that_need_nothing_of_the_host_are_started_early():
    graph = chain((3, 1, 1, 3))
    half = ("height", (0, 4, 8))
    steps = schedule(graph, plan_of(graph, half, half, half, half))
    assert told(steps).index("cpu:c0") < told(steps).index("gpu:c1")
    early = told(hoist(graph, steps))
    assert early.index("gpu:c1") < early.index("cpu:c0") and early.index("gpu:c2") < early.index("cpu:c1")  # 1x1 kernels: its own rows
    assert early.index("gpu:c3") > early.index("cpu:c2")  # a 3x3 kernel reads the host's row
    for device in ("cpu", "gpu"):
        assert [w for w in early if w.startswith(device)] == [w for w in told(steps) if w.startswith(device)]


def test_what_is_started_early_still_comes_after_what_it_reads():
    graph = chain((3, 1, 1, 3))
    half = ("height", (0, 4, 8))
    steps = hoist(graph, schedule(graph, plan_of(graph, half, half, half, half)))
    for at, step in enumerate(steps):
        if isinstance(step, Start) and step.after >= 0:
            assert step.after < at and isinstance(steps[step.after], Start) and steps[step.after].device == "cpu"
            assert steps[step.after].node.output in step.node.inputs


def test_bands_compute_every_row_once_and_none_before_its_inputs():
    graph = chain((1, 3, 1, 3), height=32)
    steps = schedule(graph, plan_of(graph, *["cpu"] * 4))
    banded = in_bands(steps, cache_bytes=1024)
    assert len(banded) > 2 * len(steps)
    written = {}
    for step in banded:
        needed = op_for(step.node).regions_read(step.node, step.region)[0][2]
        source = step.node.inputs[0]
        assert source in graph.inputs or needed.stop <= written[source], "rows are read before they are there"
        assert step.region[2].start == written.get(step.node.output, 0), "a row is computed twice, or left out"
        written[step.node.output] = step.region[2].stop
    assert all(written[n.output] == 32 for n in graph.nodes)
    assert in_bands(steps, cache_bytes=1 << 20) == steps
