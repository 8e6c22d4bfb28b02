"""Plans that measurement corrected: on a device that takes the time it is told, far from what the profile says."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from coexec import settings
from coexec.api import refinement
from coexec.api.refinement import refine, remember, remembered
from coexec.cost.corrections import MOST_RATIO, Between, Corrections
from coexec.devices.cpu.device import CpuDevice
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.partition.strategies.base import parse_strategy
from tests.partition.boards import Net, board

from .lazy_device import LazyDevice, LazyQueue


class SlowQueue(LazyQueue):
    def advance(self, count: int) -> None:
        waiting = count > self.executed
        super().advance(count)
        if waiting:
            time.sleep(self.device.seconds)


class SlowDevice(LazyDevice):
    """Right answers, `seconds` later than need be, for every wait that finds work undone."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def queue(self, threads: int = 1) -> SlowQueue:
        return SlowQueue(self)


@pytest.fixture
def graph():
    net = Net(1, 8, 64, 64)
    x = "x"
    for _ in range(3):
        x = net.conv(x, 8, 8)
    return prepare(load_model(net.model(x)))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(refinement, "COMPARE_S", 0.05)
    monkeypatch.setattr(refinement, "TRACED", 3)


def feeds(graph):
    return {v.name: np.ones(v.shape, np.float32) for v in graph.inputs}


def test_a_gpu_that_is_far_slower_than_its_profile_says_is_left_alone(graph, quick):
    profile = board(gpu_gflops=10_000.0)
    devices = {"cpu": CpuDevice(), "gpu": SlowDevice(0.02)}
    assert "gpu" in parse_strategy("coexec").plan(graph, profile).devices
    made, tried = refine(graph, feeds(graph), devices, profile, threads=1)
    assert made.devices == {"cpu"}
    assert made.measured_ms is not None and made.measured_ms < 20
    assert tried[0].name == "coexec" and all(c.latency_ms > 0 for c in tried[1:])


def test_corrections_change_a_plan_and_nothing_else(graph):
    profile = board()
    plain = parse_strategy("coexec").plan(graph, profile)
    assert parse_strategy("coexec").plan(graph, profile, corrections=Corrections()).partitions == plain.partitions
    slow = Corrections().seen({(n.name, "gpu"): 7.0 for n in graph.nodes})
    corrected = parse_strategy("coexec").plan(graph, profile, corrections=slow)
    share = [sum(p.ratio.get("gpu", 0.0) for p in plan.partitions) for plan in (plain, corrected)]
    assert share[1] < share[0] and corrected.predicted_ms > plain.predicted_ms


def test_ratios_are_bounded_and_settle_between_what_was_seen():
    once = Corrections().seen({("a", "cpu"): 4.0, ("b", "cpu"): 1e9, ("c", "gpu"): 0.5}, Between(launch_us=7.0))
    assert once.of("b", "cpu") == MOST_RATIO and once.of("other", "gpu") == 0.5 and once.between.launch_us == 7.0
    assert once.of("other", "cpu") == (4.0 + MOST_RATIO) / 2 and Corrections().of("a", "cpu") == 1.0
    again = once.seen({("a", "cpu"): 1.0})
    assert again.of("a", "cpu") == 2.0 and again.between.launch_us == 7.0


def test_a_kept_plan_is_found_again_and_damage_is_not(graph, tmp_path):
    profile, devices = board(), {"cpu": CpuDevice(), "gpu": LazyDevice()}
    plan = parse_strategy("coexec").plan(graph, profile)
    with settings.override(cache_dir=tmp_path):
        assert remembered(graph, profile, devices, 0) is None
        path = remember(plan, graph, profile, devices, 0)
        assert remembered(graph, profile, devices, 0).partitions == plan.partitions
        assert remembered(graph, profile, devices, 3) is None and remembered(graph, board(sync_us=1.0), devices, 0) is not None
        with settings.override(storage="image"):
            assert remembered(graph, profile, devices, 0) is None, "it was measured in another memory"
        whole = path.read_text()
        for text in (whole[:50], "[]", "{}", json.dumps({"format": 1, "plan": {}}), "[" * 100_000, whole.replace(graph.digest, "0" * 16)):
            path.write_text(text)
            assert remembered(graph, profile, devices, 0) is None
        path.unlink()
        path.parent.rmdir()
        path.parent.write_text("in the way")
        assert remember(plan, graph, profile, devices, 0) is None
