"""Plans over more than two devices: the same law, on the laziest devices, on thread groups, and with PoCL where it is there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coexec import settings as coexec_settings
from coexec.devices.cluster.device import ClusterDevice
from coexec.devices.cpu.device import CpuDevice, usable_cores
from coexec.devices.registry import find_devices, session_threads
from coexec.errors import DeviceError, UsageError
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import drop_dead_code, infer_and_fold, prepare
from coexec.ops.evaluate import evaluate
from coexec.runtime.executor import PreparedRun
from coexec.runtime.hazards import guard
from coexec.runtime.memory import plan_memory
from coexec.runtime.schedule import Start, Wait, schedule
from coexec.runtime.trace import Trace
from coexec.runtime.traced import run_traced

from .lazy_device import LazyDevice
from .random_graphs import random_model, random_plan
from .test_executor import close

THREE = ("cpu", "gpu", "little")


def case(seed, size=8):
    """A graph, a plan over three devices, feeds, and what the reference makes of them."""
    rng = np.random.default_rng(seed)
    model = load_model(random_model(rng, size))
    graph = prepare(model)
    plan = random_plan(graph, rng, parts=4, devices=THREE)
    feeds = {"x": rng.standard_normal(model.inputs[0].shape).astype(np.float32)}
    return graph, plan, feeds, evaluate(prepare(model, passes=(infer_and_fold, drop_dead_code)), feeds)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12), whims=st.tuples(*[st.sampled_from((0.0, 0.5, 1.0))] * 2))
def test_random_plans_over_three_devices_equal_the_reference(seed, size, whims):
    """Two devices that do nothing before they must, or run ahead of one another: no wait between them is missing."""
    graph, plan, feeds, reference = case(seed, size)
    mind = np.random.default_rng(seed)
    lazy = {name: LazyDevice(name=name, whim=None if eager == 0.0 else lambda eager=eager: mind.random() < eager)
            for name, eager in zip(THREE[1:], whims)}
    prepared = PreparedRun(graph, plan, {"cpu": CpuDevice(), **lazy})
    for _ in range(2):
        for name, found in prepared.run(feeds).items():
            close(found, reference[name])
    prepared.close()


@pytest.mark.parametrize("seed", range(12))
def test_thread_groups_and_the_gpu_that_is_here_compute_the_same(seed):
    graph, plan, feeds, reference = case(seed, 10)
    devices = {**find_devices(), "little": ClusterDevice((0,))}
    prepared = PreparedRun(graph, plan, devices)
    try:
        for _ in range(3):
            for name, found in prepared.run(feeds).items():
                close(found, reference[name])
    finally:
        prepared.close()


def test_memory_of_one_queue_is_not_written_by_another_before_it_is_done():
    """Where pieces of two queues use the same bytes for different values, a wait lies between them."""
    found = 0
    for seed in range(60):
        graph, plan, _, _ = case(seed, 12)
        steps = schedule(graph, plan, frozenset(THREE[1:]))
        memory = plan_memory(graph, steps)
        guarded = guard(steps, memory)
        found += sum(isinstance(s, Wait) for s in guarded) - sum(isinstance(s, Wait) for s in steps)
        waited = dict.fromkeys(THREE[1:], 0)
        uses = []
        for step in guarded:
            match step:
                case Wait(device=device, index=index):
                    waited[device] = max(waited[device], index)
                case Start(node=node, device=device, index=index):
                    for value in node.outputs:
                        if value not in memory.offsets:
                            continue
                        at, end = memory.offsets[value], memory.offsets[value] + value.type.nbytes
                        for other, number, other_value, start, stop in uses:
                            if other != device and other_value is not value and start < end and at < stop and _apart(step, other_value):
                                assert number <= waited[other], f"seed {seed}: {device} writes {value.name} over {other_value.name} of {other}"
                    if index >= 0:
                        uses += [(device, index, v, memory.offsets[v], memory.offsets[v] + v.type.nbytes)
                                 for v in (*node.inputs, *node.outputs) if v is not None and v in memory.offsets]
    assert found > 0


def _apart(step, value):
    """Whether the value is none of the step's own; joined values lie in their Concat's on purpose."""
    own = [v for v in (*step.node.inputs, *step.node.outputs) if v is not None]
    return step.node.op_type != "Concat" and all(value is not v for v in own)


def test_a_cluster_is_traced_like_a_device_whose_clock_nobody_knows():
    graph, plan, feeds, reference = case(3, 10)
    trace = Trace()
    prepared = PreparedRun(graph, plan, {"cpu": CpuDevice(), "gpu": LazyDevice(), "little": ClusterDevice((0,))}, trace=trace)
    try:
        for _ in range(2):
            for name, found in run_traced(prepared, feeds, trace).items():
                close(found, reference[name])
    finally:
        prepared.close()
    assert {s.track for s in trace.of("piece")} == {s.device for s in prepared.steps if isinstance(s, Start)}


def test_what_fails_on_the_cluster_is_told_to_whoever_waits():
    queue = ClusterDevice((0,)).queue()
    try:
        from coexec.devices.cluster.device import ClusterEvent

        event = queue.push(lambda: 1 / 0, ClusterEvent())
        with pytest.raises(DeviceError, match="second cluster.*ZeroDivisionError"):
            event.wait()
        assert event.done
        queue.push(lambda: None, ClusterEvent()).wait()
    finally:
        queue.close()


def test_threads_keep_off_an_emulated_gpus_cores_however_many_were_asked_for():
    def machine(cores: int, gpu_cores: int, emulated: bool) -> dict:
        named = {"cpu": (cores, False), "gpu": (gpu_cores, emulated)}
        return {name: SimpleNamespace(facts=SimpleNamespace(compute_units=units, emulated=fake)) for name, (units, fake) in named.items()}

    with coexec_settings.override(emulated_gpu_threads=1):
        assert [session_threads(machine(2, 2, True), wanted) for wanted in (0, 1, 2, 9)] == [1, 1, 1, 1]
        assert [session_threads(machine(8, 2, True), wanted) for wanted in (0, 3, 7, 8)] == [7, 3, 7, 7]
        assert session_threads(machine(1, 1, True), 2) == 1
        assert [session_threads(machine(2, 2, True), wanted, gpu_used=False) for wanted in (0, 1, 2)] == [2, 1, 2]
        assert [session_threads(machine(4, 9, False), wanted) for wanted in (0, 2, 4)] == [4, 2, 4], "a GPU of its own takes no cores"


def test_the_setting_names_the_cores():
    with coexec_settings.override(little_cores=(0,), opencl="none"):
        devices = find_devices()
        assert devices["little"].cores == (0,) and devices["little"].facts.compute_units == 1
        assert session_threads(devices) == max(1, usable_cores() - 1)
    assert "little" not in find_devices()
    read = coexec_settings.SETTINGS["little_cores"].parse
    assert read("0-2,5") == (0, 1, 2, 5)
    for wrong in ("", "a", "3-1", "1-", "-1"):
        with pytest.raises(ValueError, match="0-3"):
            read(wrong)


def test_a_wrong_list_of_cores_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("COEXEC_LITTLE_CORES", "big")
    with pytest.raises(UsageError, match="COEXEC_LITTLE_CORES"):
        coexec_settings.get("little_cores")
