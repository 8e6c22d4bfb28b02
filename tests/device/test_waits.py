"""Ways of waiting: all give the same answers, a poll learns when to look and never burns a core for long, a profile says which is used."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest

import coexec
from coexec import settings
from coexec.api.validation import validate
from coexec.devices import waits
from coexec.devices.base import Device, DeviceFacts, Event
from coexec.devices.opencl.handshake import possible
from coexec.devices.registry import find_devices, gpu_device
from coexec.errors import DeviceError, UsageError
from coexec.profiles import DeviceProfile, Latency, UnitProfile, from_yaml, to_yaml
from coexec.profiling import ways
from coexec.profiling.measure import Bench
from coexec.regions import Region
from coexec.runtime.schedule import Start
from coexec.runtime.weave import Hear, Stepping, Sync
from tests.ops.law import Const, make_node
from tests.test_smoke import tiny_model

from .test_random_plans import holds_on_random_plans

X = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)


class Later(Event):
    """Done at a moment of the clock; counts who looked and who slept on it."""

    def __init__(self, seconds: float, error: Exception | None = None):
        self.at, self.error = time.perf_counter() + seconds, error
        self.looks = self.waits = 0

    @property
    def done(self) -> bool:
        self.looks += 1
        return time.perf_counter() >= self.at

    def wait(self) -> None:
        self.waits += 1
        while time.perf_counter() < self.at:
            time.sleep(0.0005)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("way", ["poll", "finish"])
def test_random_plans_equal_the_reference_however_one_waits(way):
    with settings.override(wait=way):
        holds_on_random_plans("svm", counters=False, examples=15)


def test_the_flag_is_used_where_it_is_asked_for():
    with settings.override(wait="flag"), coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
        expected = session.run(None, {"x": X})[0]
        assert (session._ready.handshake is not None) == possible(session.devices["gpu"].device, True)
    with settings.override(wait="event"), coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert session._ready.handshake is None


def test_a_way_that_was_asked_for_goes_before_the_plan():
    with coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
        session.run(None, {"x": X})
        counted = replace(session.plan, counters=True)
        works = possible(session.devices["gpu"].device, True)
    for way, expected in (("", works), ("flag", works), ("event", False)):
        with settings.override(wait=way), coexec.InferenceSession(tiny_model(), plan=counted) as session:
            session.run(None, {"x": X})
            assert (session._ready.handshake is not None) == expected, way


def test_a_convolution_tells_itself_that_it_is_done():
    from tests.faults.test_waits_and_maps import needs_flags  # which takes its profiles from here

    needs_flags()
    with settings.override(wait="flag"), coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
        run = session._ready
        pieces = {s.index: run.kernels[s] for s in run.steps if isinstance(s, Start) and s.index >= 0}
        able = {i for i, kernel in pieces.items() if kernel.can_tell}
        heard = {s.index for s, *_ in run.in_step if isinstance(s, Hear)}
        assert able & heard, "no piece that somebody waits for could tell"
        assert {s.start.index for s, *_ in run.in_step if isinstance(s, Stepping) and s.tells} == able & heard
        assert {s.signal for s, *_ in run.in_step if isinstance(s, (Sync, Stepping))} - {0} == heard - able, "others are told of by what follows"
        words = run.handshake
        for _ in range(3):
            session.run(None, {"x": X})
            assert words.heard[0] == max(heard) and words._ended[0] == 0, "all groups of the last piece had ended, and are counted anew"


def test_light_operators_keep_themselves_in_step_and_tell_too():
    """None needs a gate or a signal of its own to be started; results are those of the kernels' own tests."""
    gpu = find_devices(need_gpu=True)["gpu"]
    assert gpu.facts.emulated, "elsewhere a work-item owns no core"
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 6, 4, 20), (20,)))
    cases = [("Add", [x, x], {}), ("Transpose", [x], {"perm": [0, 2, 1, 3]}), ("Pad", [x, Const(np.array([0, 0, 1, 1, 0, 0, 1, 1]))], {}),
             ("Softmax", [x], {"axis": -1}), ("LayerNormalization", [x, Const(w), Const(w)], {"axis": -1}), ("GlobalAveragePool", [x], {}),
             ("Concat", [x, x], {"axis": 1})]
    for op_type, inputs, attributes in cases:
        node, _ = make_node(op_type, inputs, attributes)
        with Bench(gpu, node, Region.whole(node.output.shape)) as bench:
            assert bench.kernel.can_step and bench.kernel.can_tell, op_type


def test_a_run_in_step_can_be_traced_and_checked():
    with settings.override(wait="flag"):
        session = coexec.InferenceSession(tiny_model(), coexec.SessionOptions(enable_profiling=True), strategy="fixed:gpu=0.5")
        assert validate(tiny_model(), strategy="fixed:gpu=0.5", feeds={"x": X}, per_op=True)["ok"]
    with session:
        found = [session.run(None, {"x": X})[0] for _ in range(3)]
        np.testing.assert_array_equal(found[0], found[2])
        os.unlink(session.end_profiling())


def test_a_poll_sleeps_through_most_of_what_it_has_seen_before():
    poll = waits.Poll()
    for _ in range(12):
        event = Later(0.01)
        poll(event)
        assert event.done and event.waits == 1
    assert 0.005 < poll.expected_s < 0.012
    assert event.looks < 200, "it looked all the time"


def test_a_poll_gives_up_the_core_where_it_takes_long():
    event = Later(0.05)
    waits.Poll()(event)
    begun, looks = time.perf_counter(), event.looks
    assert event.done and looks < 10_000 and time.perf_counter() - begun < 0.01


def test_a_poll_that_overslept_expects_less():
    poll = waits.Poll()
    poll.expected_s = 0.01
    poll(Later(0.0))
    assert poll.expected_s < 0.01


def test_a_poll_raises_what_the_work_ended_with():
    with pytest.raises(DeviceError, match="lost"):
        waits.Poll()(Later(0.0, DeviceError("the device was lost")))


class Chosen(Device):
    """A device whose ways cost what they are told to."""

    asynchronous, failures = True, ()

    def __init__(self, sharing: str = "copy", waiting: str = "event"):
        self.facts = DeviceFacts("chosen", "gpu", sharing=("svm", "broken", "copy"))
        self.sharing, self.waiting = sharing, waiting

    def declines(self, node):
        return None

    def queue(self, threads=1):
        raise AssertionError

    def used_by(self, sharing: str = "", waiting: str = "", cores=()):
        if sharing == "broken":
            raise UsageError("cannot share memory that way")
        return Chosen(sharing or self.sharing, waiting or self.waiting)


@pytest.mark.parametrize("exchange, wait, sharing, waiting", [
    ({"svm": 100.0, "copy": 300.0}, {"event": 50.0, "finish": 20.0, "poll": 70.0, "flag": 5.0}, "svm", "flag"),
    ({"svm": 900.0, "copy": 300.0}, {"event": 50.0, "finish": 60.0, "poll": 30.0}, "copy", "poll"),
    ({"svm": 100.0, "copy": 300.0}, {"event": 50.0, "finish": 10.0, "poll": 70.0, "flag": 45.0}, "svm", "event")])
def test_the_cheapest_ways_are_chosen(monkeypatch, exchange, wait, sharing, waiting):
    """Words in shared memory must be much cheaper: they keep a core busy; a finish waits for more than was asked."""
    asked = []
    monkeypatch.setattr(ways, "exchange_us", lambda devices: asked.extend(devices) or exchange)
    monkeypatch.setattr(ways, "wait_us", lambda device: wait)
    device, found, waited = ways.best_used(Chosen())
    assert (device.sharing, device.waiting, found, waited) == (sharing, waiting, exchange, wait) and asked == ["svm", "copy"]


def test_the_real_device_is_measured():
    gpu = gpu_device()
    device, exchanged, waited = ways.best_used(gpu)
    assert {"event", "finish", "poll"} <= set(waited) and all(0 < us < 1e5 for us in (*waited.values(), *exchanged.values()))
    assert {"svm", "copy"} & set(exchanged) and device.sharing in exchanged and device.waiting in waits.WAYS
    assert "copy" in exchanged and exchanged[device.sharing] <= exchanged["copy"]


def profiled(name: str, **more) -> DeviceProfile:
    fit = {"other": Latency({"fixed_us": 1.0})}
    gpu = UnitProfile(name, 1.0, 1.0, operators=("Conv", "Relu", "Gemm", "GlobalAveragePool"), launch_us=1.0, sync_us=1.0, latency=fit, **more)
    return DeviceProfile("p", UnitProfile("c", 1.0, 1.0, latency=fit), gpu)


@pytest.mark.usefixtures("pocl")
def test_a_session_uses_the_device_as_it_was_profiled():
    gpu = gpu_device()
    known = profiled(gpu.facts.name, sharing="use-host", waiting="poll", sharing_us={"use-host": 1.0}, waiting_us={"poll": 1.0})
    with coexec.InferenceSession(tiny_model(), device_profile=known, strategy="flops") as session:
        used = session.devices["gpu"]
        assert (used.sharing, used.waiting) == ("use-host", "poll") and type(session._ready.buffer).__name__ == "HostPointerBuffer"
        session.run(None, {"x": X})
        assert session.copied_bytes_per_run == 0
    with settings.override(sharing="copy", wait="event"), coexec.InferenceSession(tiny_model(), device_profile=known, strategy="flops") as session:
        assert (session.devices["gpu"].sharing, session.devices["gpu"].waiting) == ("copy", "event"), "the settings go before the profile"
    for other in (profiled("another GPU", sharing="use-host", waiting="poll", sharing_us={"use-host": 1.0}), profiled(gpu.facts.name, sharing="copy"),
                  profiled(gpu.facts.name, sharing="telepathy", sharing_us={"telepathy": 1.0}, waiting="patience")):
        with coexec.InferenceSession(tiny_model(), device_profile=other, strategy="flops") as session:
            assert (session.devices["gpu"].sharing, session.devices["gpu"].waiting) == (gpu.sharing, gpu.waiting)


def test_a_plan_that_was_measured_waits_as_it_was_measured():
    with settings.override(timeout=0), coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
        made = session.plan
    known = profiled(gpu_device().facts.name, waiting="flag")
    for plan, woven in ((made, True), (replace(made, measured_ms=1.0), False), (replace(made, measured_ms=1.0, counters=True), True)):
        with coexec.InferenceSession(tiny_model(), device_profile=known, plan=plan) as session:
            assert (session._ready.handshake is not None) == (woven and possible(session.devices["gpu"].device, True))


def test_a_profile_keeps_what_was_measured_and_one_from_before_its_digest():
    known = profiled("g", sharing="svm", waiting="flag", sharing_us={"svm": 1.5, "copy": 9.0}, waiting_us={"event": 50.0, "flag": 2.0})
    assert from_yaml(to_yaml(known)) == known
    old = profiled("g", sharing="svm")
    assert not any(key in to_yaml(old) for key in ("waiting", "sharing_us")) and from_yaml(to_yaml(old)) == old
