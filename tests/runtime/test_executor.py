"""The law above all others: for every graph and every legal plan, co-executed == reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coexec.devices.cpu.device import CpuDevice
from coexec.errors import DeviceError, PlanMismatch
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import drop_dead_code, infer_and_fold, prepare
from coexec.ops.evaluate import evaluate
from coexec.runtime.check import run_checked
from coexec.runtime.executor import PreparedRun
from coexec.runtime.schedule import Start

from .lazy_device import LazyDevice
from .random_graphs import random_model, random_plan


def close(found, reference):
    peak = np.abs(reference).max() if reference.size else 0
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-5 + 1e-4 * peak)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), shared=st.booleans(), size=st.integers(1, 12), one_by_one=st.booleans())
def test_random_plans_equal_the_reference_on_the_laziest_device(seed, shared, size, one_by_one):
    rng = np.random.default_rng(seed)
    model = load_model(random_model(rng, size))
    graph = prepare(model)
    feeds = {"x": rng.standard_normal(model.inputs[0].shape).astype(np.float32)}
    reference = evaluate(prepare(model, passes=(infer_and_fold, drop_dead_code)), feeds)
    prepared = PreparedRun(graph, random_plan(graph, rng), {"cpu": CpuDevice(), "gpu": LazyDevice(shared)}, one_by_one=one_by_one)
    for _ in range(2):  # the second run finds the first one's memory
        for name, found in prepared.run(feeds).items():
            close(found, reference[name])
    for name, found in run_checked(prepared, feeds, rtol=1e-4).items():
        close(found, reference[name])
    prepared.close()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12), eagerness=st.sampled_from((0.0, 0.3, 0.7, 1.0)), steps=st.booleans(),
       tells=st.booleans(), one_by_one=st.booleans())
def test_random_plans_equal_the_reference_on_a_device_that_runs_ahead(seed, size, eagerness, steps, tells, one_by_one):
    """Kept in step by counters, of their own or within pieces: no gate is missing, none holds for ever, however fast or slow the device is."""
    rng, mind = np.random.default_rng(seed), np.random.default_rng(seed)
    model = load_model(random_model(rng, size))
    graph = prepare(model)
    plan = random_plan(graph, rng)
    feeds = {"x": rng.standard_normal(model.inputs[0].shape).astype(np.float32)}
    reference = evaluate(prepare(model, passes=(infer_and_fold, drop_dead_code)), feeds)
    devices = {"cpu": CpuDevice(), "gpu": LazyDevice(whim=lambda: mind.random() < eagerness, steps=steps, tells=tells)}
    prepared = PreparedRun(graph, plan, devices, one_by_one=one_by_one)
    assert (prepared.handshake is not None) == ({s.device for s in prepared.steps if isinstance(s, Start)} == {"cpu", "gpu"})
    for run in (prepared.run, prepared.run, lambda feeds: run_checked(prepared, feeds, rtol=1e-4), prepared.run):
        for name, found in run(feeds).items():
            close(found, reference[name])
    prepared.close()


def made(seed=0, size=6):
    rng = np.random.default_rng(seed)
    graph = prepare(load_model(random_model(rng, size)))
    return graph, random_plan(graph, rng), {"x": rng.standard_normal(graph.inputs[0].shape).astype(np.float32)}


def test_a_node_the_device_declines_goes_to_the_cpu_with_a_note():
    graph, _, feeds = made(3)
    from coexec.partition.plan import Plan, on_one_device
    kind = graph.nodes[0].op_type
    plan = Plan("m", graph.digest, "gpu", tuple(on_one_device(n, "gpu") for n in graph.nodes))
    devices = {"cpu": CpuDevice(), "gpu": LazyDevice(declined=frozenset({kind}))}
    prepared = PreparedRun(graph, plan, devices)
    moved = prepared.plan[graph.nodes[0].name]
    assert moved.devices == ("cpu",) and moved.note == "gpu: not wanted"
    for name, found in prepared.run(feeds).items():
        close(found, evaluate(graph, feeds)[name])
    with pytest.raises(DeviceError, match="not wanted"):
        PreparedRun(graph, plan, devices, strict=True)


def test_a_plan_for_another_model_is_refused():
    graph, plan, _ = made(1)
    other, _, _ = made(2)
    with pytest.raises(PlanMismatch, match="another model"):
        PreparedRun(other, plan, {"cpu": CpuDevice(), "gpu": LazyDevice()})


def test_memory_is_reused():
    """A chain of equal layers needs two buffers, not one each."""
    from onnx import TensorProto, helper
    nodes = [helper.make_node("Relu" if i % 2 else "Abs", [f"t{i}"], [f"t{i + 1}"]) for i in range(10)]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, 16, 16]) for n in ("t0", "t10")]
    graph = prepare(load_model(helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:]))))
    from coexec.partition.plan import Plan, on_one_device
    plan = Plan("m", graph.digest, "cpu", tuple(on_one_device(n, "cpu") for n in graph.nodes))
    prepared = PreparedRun(graph, plan, {"cpu": CpuDevice()})
    assert prepared.memory.nbytes == 2 * 8 * 16 * 16 * 4
