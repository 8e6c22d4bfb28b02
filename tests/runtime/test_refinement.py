"""Plans that measurement corrected: on a device that takes the time it is told, far from what the profile says."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from coexec import InferenceSession, SessionOptions, settings
from coexec.api import refinement
from coexec.api.planning import plan_prepared, repredicted
from coexec.api.refinement import refine, remember, remembered
from coexec.cost.corrections import MOST_RATIO, Between, Corrections
from coexec.devices.cpu.device import CpuDevice
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.partition.strategies.base import parse_strategy
from coexec.profiles import save_profile
from tests.partition.boards import Net, board
from tests.test_smoke import tiny_model

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
    monkeypatch.setattr(refinement, "LATER_S", 0.0)


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


@pytest.mark.parametrize("wins", [1, 2])
def test_one_device_must_win_twice_to_leave_the_other_alone(graph, quick, monkeypatch, wins):
    """The second core was gone while it won for the first time."""
    profile, left = board(gpu_gflops=10_000.0), {"cpu": wins}

    def compare(runs, first, second, given):
        (alone,) = {"cpu", "gpu"} & second.plan.devices if len(second.plan.devices) == 1 else ("",)
        left[alone] = left.get(alone, 0) - 1
        return 2.0, 1.0 if left[alone] >= 0 else 3.0, True

    monkeypatch.setattr(refinement, "_compare", compare)
    made, tried = refine(graph, feeds(graph), {"cpu": CpuDevice(), "gpu": LazyDevice()}, profile, threads=1)
    assert made.devices == ({"cpu"} if wins == 2 else {"cpu", "gpu"})
    assert next(c.latency_ms for c in tried if c.name == "cpu") == (1.0 if wins == 2 else 3.0)


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
        with settings.override(threads=3):  # as the command line's --threads
            assert remembered(graph, profile, devices, 0) is None, "it was measured with other threads"
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


def test_a_remembered_plan_is_predicted_by_the_profile_at_hand(graph):
    """The machine may have been measured again since: what an old profile said is of other moments."""
    profile, other = board(), board(gpu_gflops=10_000.0)
    made = {name: plan_prepared(graph, profile=profile, strategy=name) for name in ("coexec", "gpu", "cpu")}
    for plan in made.values():
        assert repredicted(plan, graph, profile).predicted_ms == pytest.approx(plan.predicted_ms, rel=1e-6)
    old, new = made["gpu"], repredicted(made["gpu"], graph, other)
    assert new.partitions == old.partitions and new.predicted_ms < old.predicted_ms
    assert new.predicted_ms == pytest.approx(plan_prepared(graph, profile=other, strategy="gpu").predicted_ms, rel=1e-6)


class Disturbed:
    """Says of each moment whether two cores are there, then always that they are."""

    def __init__(self, *moments: bool):
        self.moments, self.asked, self.closed = list(moments), 0, False

    def is_there(self) -> bool:
        self.asked += 1
        return self.moments.pop(0) if self.moments else True

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("moments, patience_s, doubtful", [((), 10.0, False), ((False, True), 10.0, False), ((True, False, False), 10.0, False),
                                                           ((True, False), 0.0, True), ((False,) * 100, 0.3, True)])
def test_what_was_compared_while_a_core_was_missing_is_compared_again(graph, quick, monkeypatch, moments, patience_s, doubtful):
    monkeypatch.setattr(refinement, "PATIENT_S", patience_s)
    monkeypatch.setattr(refinement, "PAUSE_S", 0.01)
    told = Disturbed(*moments)
    monkeypatch.setattr(refinement, "company", lambda devices: told)
    _, tried = refine(graph, feeds(graph), {"cpu": CpuDevice(), "gpu": SlowDevice(0.002)}, board(gpu_gflops=10_000.0), threads=1)
    assert any(candidate.doubtful for candidate in tried) == doubtful and told.closed
    assert told.asked >= 2 * (len(tried) - 1) + len(moments) // 2 * (not doubtful)


def test_a_plan_in_doubt_is_said_to_be_and_not_remembered(tmp_path, monkeypatch, caplog, quick):
    monkeypatch.setattr(refinement, "PATIENT_S", 0.0)
    monkeypatch.setattr(refinement, "company", lambda devices: Disturbed(*(False,) * 100))
    profile = str(tmp_path / "board.yaml")
    save_profile(board(gpu_gflops=10_000.0), profile)
    with settings.override(cache_dir=tmp_path), InferenceSession(tiny_model(), SessionOptions(verify=True), device_profile=profile) as session:
        assert any(candidate.doubtful for candidate in session.candidates)
    assert not list(tmp_path.glob("plans/*")) and sum("not remembered" in r.getMessage() for r in caplog.records) == 1
