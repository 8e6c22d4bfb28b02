"""A plan that follows the machine: one device is slowed down under a running session, the plan follows, and comes back after."""

from __future__ import annotations

import numpy as np
import pytest

import coexec
from coexec import settings
from coexec.api import following
from coexec.api import session as sessions
from coexec.api.following import LOOKS, PROBE_EVERY, WARM_UP, WINDOW
from coexec.errors import UsageError
from coexec.graph.onnx_import import load_model
from tests.partition.boards import Net, board

from .paced_device import PacedDevice

#: Runs in which a plan follows, those apart that pass while it is planned: the window fills, a few runs are traced, the next has the new plan.
FOLLOWS = WARM_UP + WINDOW + LOOKS + 1
#: Runs in which it comes back: until the next probe, and once more what it takes to follow, should the first plan not yet be the last.
RETURNS = PROBE_EVERY + WARM_UP + 1 + FOLLOWS


@pytest.fixture
def where():
    """Convolutions of some milliseconds on either side: what Python and the machine add is little beside it."""
    return board(0.3, 0.4, launch_us=20, sync_us=100)


@pytest.fixture
def model():
    net, x = Net(1, 8, 32, 32), "x"
    for _ in range(4):
        x = net.conv(x, 8, 8)
    return net.model(x)


@pytest.fixture
def devices(where, monkeypatch):
    made = {name: PacedDevice(name, where) for name in ("cpu", "gpu")}
    monkeypatch.setattr(sessions, "find_devices", lambda *a: dict(made))
    monkeypatch.setattr("coexec.api.guard._tried", lambda gpu: None)
    with settings.override(timeout=0):
        yield made


def gpu_share(plan):
    """Of the work, by the number of output elements (the operators are alike)."""
    return float(np.mean([p.ratio.get("gpu", 0.0) for p in plan.partitions]))


class Runs:
    """Runs a session, each answer compared with the right one."""

    def __init__(self, session, model):
        self.session = session
        self.feed = {"x": np.random.default_rng(0).standard_normal((1, 8, 32, 32)).astype(np.float32)}
        with coexec.InferenceSession(load_model(model), strategy="cpu") as reference:
            (self.expected,) = reference.run(None, self.feed)
        self.count = 0

    def until(self, true, at_most):
        """How many runs it takes."""
        for number in range(1, at_most + 1):
            (found,) = self.session.run(None, self.feed)
            self.count += 1
            for follower in self.session._followers:
                follower.settle()
            np.testing.assert_allclose(found, self.expected, rtol=1e-5, atol=1e-6)
            if true():
                return number
        pytest.fail(f"not within {at_most} runs: {self.session.plan}\n{list(map(str, self.session.replans))}")


@pytest.mark.parametrize("unit", ["gpu", "cpu"])
def test_the_plan_follows_a_device_that_slows_down_and_comes_back_after(unit, where, model, devices):
    options = coexec.SessionOptions(adapt=True)
    with coexec.InferenceSession(model, options, device_profile=where) as session:
        runs = Runs(session, model)
        before = gpu_share(session.plan)
        assert 0.4 < before < 0.7
        runs.until(lambda: runs.count == 2 * WINDOW + WARM_UP, 100)
        assert abs(gpu_share(session.plan) - before) < 0.1, "as predicted: nothing to do"
        devices[unit].slow = 4.0
        away = (lambda: gpu_share(session.plan) < before - 0.2) if unit == "gpu" else (lambda: gpu_share(session.plan) > before + 0.2)
        runs.until(away, FOLLOWS)
        change = session.replans[-1]
        assert 2.5 < change.ratios[unit] < 5.5 and change.after_ms < change.before_ms and change.nodes > 0 and str(change)
        devices[unit].slow = 1.0
        back = lambda: abs(gpu_share(session.plan) - before) < 0.1  # noqa: E731
        runs.until(back, RETURNS)
        runs.until(lambda: runs.count % (3 * WINDOW) == 0, 100)
        assert back(), "and stays"


def test_a_unit_that_was_given_up_is_found_again(where, model, devices):
    """Sixty times slower: nothing is left on the GPU, so no run tells of it."""
    with coexec.InferenceSession(model, coexec.SessionOptions(adapt=True), device_profile=where) as session:
        runs = Runs(session, model)
        devices["gpu"].slow = 60.0
        runs.until(lambda: session.plan.devices == {"cpu"}, FOLLOWS)
        devices["gpu"].slow = 1.0
        runs.until(lambda: gpu_share(session.plan) > 0.4, RETURNS)


def test_both_slowed_alike_change_nothing(where, model, devices):
    with coexec.InferenceSession(model, coexec.SessionOptions(adapt=True), device_profile=where) as session:
        runs, before = Runs(session, model), session.plan
        devices["gpu"].slow = devices["cpu"].slow = 2.0
        runs.until(lambda: runs.count == FOLLOWS, FOLLOWS)
        (follower,) = session._followers
        assert 1.5 < follower.corrections.usual["cpu"] < 2.6, "it looked"
        assert abs(gpu_share(session.plan) - gpu_share(before)) < 0.15


def test_a_session_that_does_not_adapt_stays(where, model, devices, monkeypatch):
    monkeypatch.setattr(following.Follower, "__init__", lambda *a, **k: pytest.fail("nobody asked"))
    with coexec.InferenceSession(model, device_profile=where) as session:
        before = session.plan
        devices["gpu"].slow = 4.0
        for _ in range(WINDOW + WARM_UP + LOOKS):
            session.run(None, {"x": np.zeros((1, 8, 32, 32), np.float32)})
        assert session.plan is before and session.replans == []


def test_a_plan_that_cannot_be_made_leaves_the_old_one(where, model, devices, monkeypatch, caplog):
    with coexec.InferenceSession(model, coexec.SessionOptions(adapt=True), device_profile=where) as session:
        runs, before = Runs(session, model), session.plan
        monkeypatch.setattr("coexec.api.choice.plan_prepared", lambda *a, **k: 1 / 0)
        devices["gpu"].slow = 4.0
        runs.until(lambda: "the plan stays as it is: ZeroDivisionError" in caplog.text, FOLLOWS)
        assert session.plan is before
        runs.until(lambda: True, 1)


def test_closing_in_the_middle_of_planning(where, model, devices):
    for after in (WARM_UP + WINDOW + LOOKS, WARM_UP + WINDOW + LOOKS + 1, WARM_UP + WINDOW + LOOKS + 4):
        session = coexec.InferenceSession(model, coexec.SessionOptions(adapt=True), device_profile=where)
        devices["gpu"].slow = 4.0
        for _ in range(after):
            session.run(None, {"x": np.zeros((1, 8, 32, 32), np.float32)})
        session.close()
        devices["gpu"].slow = 1.0


@pytest.mark.parametrize("more, said", [
    ({"strategy": "cpu"}, "strategy 'cpu', which predicts nothing"),
    ({"options": {"enable_profiling": True}}, "a traced session"),
])
def test_sessions_that_cannot_adapt_say_so(model, more, said):
    options = coexec.SessionOptions(adapt=True, **more.pop("options", {}))
    with pytest.raises(UsageError, match="cannot follow the machine") as raised:
        coexec.InferenceSession(model, options, **more)
    assert said in str(raised.value)


def test_a_saved_plan_is_not_adapted(where, model, devices):
    plan = coexec.plan(model, profile=where)
    with pytest.raises(UsageError, match="a saved plan"):
        coexec.InferenceSession(model, coexec.SessionOptions(adapt=True), plan=plan)
