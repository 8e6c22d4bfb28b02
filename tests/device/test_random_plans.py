"""The law on the real device: random graphs, random plans, both ways of sharing memory, kept in step by events and by counters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coexec import settings
from coexec.devices.opencl.handshake import possible
from coexec.devices.registry import find_devices
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import drop_dead_code, infer_and_fold, prepare
from coexec.ops.evaluate import evaluate
from coexec.runtime.check import run_checked
from coexec.runtime.executor import PreparedRun
from tests.gpus import gpu_that_shares
from tests.runtime.random_graphs import random_model, random_plan


@pytest.mark.parametrize(("sharing", "counters"), [("svm", False), ("svm", True), ("copy", False)])
def test_random_plans_equal_the_reference(sharing, counters):
    holds_on_random_plans(sharing, counters)


def holds_on_random_plans(sharing: str, counters: bool, examples: int = 40) -> None:
    """Random graphs under random plans on the device, memory shared that way, equal the reference; some must have used counters where asked."""
    with settings.override(sharing=sharing, opencl=gpu_that_shares(sharing)):
        devices = find_devices(need_gpu=True)
    counted = 0

    @hypothesis_settings(max_examples=examples, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 10))
    def holds(seed, size):
        rng = np.random.default_rng(seed)
        model = load_model(random_model(rng, size))
        graph = prepare(model)
        feeds = {"x": rng.standard_normal(model.inputs[0].shape).astype(np.float32)}
        reference = evaluate(prepare(model, passes=(infer_and_fold, drop_dead_code)), feeds)
        with settings.override(handshake=counters):
            prepared = PreparedRun(graph, random_plan(graph, rng), devices)
        nonlocal counted
        counted += prepared.handshake is not None
        for run in (prepared.run, prepared.run, lambda feeds: run_checked(prepared, feeds), prepared.run):  # a check counts nothing
            for name, found in run(feeds).items():
                peak = np.abs(reference[name]).max() if reference[name].size else 0
                np.testing.assert_allclose(found, reference[name], rtol=0, atol=1e-5 + 1e-4 * peak)
        prepared.close()

    holds()
    assert bool(counted) == (counters and possible(devices["gpu"].device, True))
