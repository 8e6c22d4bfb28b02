"""A GPU that fails, lies or hangs, at every point of the contract: the right answer from the CPU and one warning, or the documented code."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

import coexec
from coexec import settings
from coexec.api import session as session_module
from coexec.devices.cpu.device import CpuDevice
from coexec.devices.registry import gpu_device
from coexec.errors import CoexecError, DeviceError, DeviceHang, DeviceLost, KernelBuildError, NumericMismatch
from coexec.report import self_test
from tests.device.test_waits import profiled
from tests.runtime.lazy_device import LazyDevice
from tests.test_smoke import tiny_model

from .faulty_device import Faults, FaultyDevice, fails, foreign, nan, off

X = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)


def no_build() -> None:
    raise KernelBuildError("a kernel did not compile", log="kernel.cl:3: error: injected", where="injected")


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    with coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        return session.run(None, {"x": X})[0]


@pytest.fixture(params=["opencl", "two copies"])
def rig(request, monkeypatch):
    """(faults, make session): sessions whose GPU is the real one, or one with memory of its own, behind the injector."""
    faults = Faults()
    inner = gpu_device() if request.param == "opencl" else LazyDevice(shared=False)
    device = FaultyDevice(inner, faults)
    monkeypatch.setattr(session_module, "find_devices", lambda *_: {"cpu": CpuDevice(), "gpu": device})

    def make(strict: bool = False, **more):
        return coexec.InferenceSession(tiny_model(), coexec.SessionOptions(strict=strict, **more), strategy="fixed:gpu=0.5")

    with settings.override(self_test=False, timeout=0.5):
        yield faults, make
    faults.released.set()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    """A first run need not compile anything here: what hangs is found at once."""
    from coexec.runtime import recovery

    monkeypatch.setattr(recovery, "FIRST_RUN_S", 0.0)


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


MAKING = {
    "no kernel compiles": ("compile", no_build),
    "compiling: the driver is gone": ("compile", foreign),
    "out of memory for activations": ("allocate", fails("CL_MEM_OBJECT_ALLOCATION_FAILURE")),
    "no queue": ("queue", fails("CL_OUT_OF_HOST_MEMORY")),
    "no queue: the driver is gone": ("queue", foreign),
    "out of memory for scratch": ("seal", fails("CL_OUT_OF_RESOURCES")),
    "sealing: the driver is gone": ("seal", foreign),
}

RUNNING = {
    "first enqueue fails": ("start", fails("CL_OUT_OF_RESOURCES"), 1),
    "second enqueue fails": ("start", fails("CL_INVALID_COMMAND_QUEUE"), 2),
    "enqueue: the driver is gone": ("start", foreign, 1),
    "first flush fails": ("flush", fails("CL_OUT_OF_HOST_MEMORY"), 1),
    "flush: the driver is gone": ("flush", foreign, 1),
    "wait fails": ("wait", fails("CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST"), 1),
    "last wait fails": ("wait", fails("CL_DEVICE_NOT_AVAILABLE"), 2),
    "wait: the driver is gone": ("wait", foreign, 1),
    "enqueue hangs": ("start", "hang", 1),
    "flush hangs": ("flush", "hang", 1),
    "wait hangs": ("wait", "hang", 1),
}


@pytest.mark.parametrize("name", MAKING)
@pytest.mark.parametrize("strict", [False, True])
def test_a_device_that_fails_while_a_session_is_made(rig, expected, caplog, name, strict):
    faults, make = rig
    point, how = MAKING[name]
    faults.arm(point, how, always=True)
    if strict:
        with pytest.raises(CoexecError) as caught:
            make(strict=True)
        assert caught.value.exit_code == (3 if how is foreign else 1) and faults.fired
        return
    with make() as session:
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert session.plan.devices == {"cpu"}
    assert faults.fired and len(warnings(caplog)) == 1 and "faulty" in warnings(caplog)[0]


def test_one_kernel_that_does_not_compile_moves_one_node(rig, expected, caplog):
    faults, make = rig
    faults.arm("compile Conv", no_build, always=True)
    with make() as session:
        assert session.plan["conv"].devices == ("cpu",) and "gpu" in session.plan.devices
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert not session.faults
    assert len(warnings(caplog)) == 1 and "conv" in warnings(caplog)[0]


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("strict", [False, True])
def test_a_device_that_fails_in_a_run(rig, expected, caplog, name, strict):
    faults, make = rig
    point, how, when = RUNNING[name]
    with make(strict=strict) as session:
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        before = threading.active_count()
        faults.arm(point, faults.hang if how == "hang" else how, when)
        started = time.perf_counter()
        if strict:
            with pytest.raises(DeviceHang if how == "hang" else DeviceLost) as caught:
                session.run(None, {"x": X})
            assert caught.value.exit_code == (6 if how == "hang" else 3)
        else:
            np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
            assert session.run(None, {"x": X})[0].shape == expected.shape
            fault, = session.faults
            assert fault.facts.startswith("faulty") and session.plan.devices == {"cpu"}
            said, = warnings(caplog)
            assert fault.facts in said and (fault.node or "no node in particular") in said and fault.kernel in said
        assert faults.fired == [point]
        assert time.perf_counter() - started < 10
        assert threading.active_count() <= before + (1 if how == "hang" else 0), "a thread was left behind"


@pytest.mark.parametrize("point", ["start", "wait"])
def test_the_warning_names_the_node_and_kernel_that_hangs(rig, caplog, point):
    faults, make = rig
    with make() as session:
        session.run(None, {"x": X})
        kernels = {k.implementation for s, k in session._ready.kernels.items() if s.device == "gpu"}
        faults.arm(point, faults.hang)
        session.run(None, {"x": X})
        fault, = session.faults
        assert isinstance(fault.error, DeviceHang)
        assert not fault.node or fault.kernel in kernels


def test_quarantine_ends_when_the_user_asks(rig, expected, caplog):
    faults, make = rig
    with make() as session:
        faults.arm("start", foreign)
        session.run(None, {"x": X})
        started = faults.calls["start"]
        session.run(None, {"x": X})
        assert faults.calls["start"] == started, "a quarantined device was used"
        session.retry_device()
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert faults.calls["start"] > started and "gpu" in session.plan.devices
    assert len(warnings(caplog)) == 1


def test_retries_are_counted(rig, expected, caplog):
    faults, make = rig
    with make(device_retries=2) as session:
        faults.arm("start", foreign, always=True)
        for _ in range(5):
            np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert len(session.faults) == 3 and session.plan.devices == {"cpu"}
        assert len(warnings(caplog)) == 3


@pytest.mark.parametrize("strict", [False, True])
def test_nan_that_only_the_gpu_computes(rig, expected, caplog, strict):
    faults, make = rig
    with make(strict=strict) as session:
        session.run(None, {"x": X})
        faults.arm("lie", nan, always=True)  # type: ignore[arg-type]
        if strict:
            with pytest.raises(NumericMismatch) as caught:
                session.run(None, {"x": X})
            assert caught.value.exit_code == 5
            return
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        fault, = session.faults
        assert "NaN" in fault.what and "Conv 'conv'" in fault.node, fault
    assert len(warnings(caplog)) == 1


def test_nan_that_the_model_computes_is_an_answer(caplog):
    from onnx import TensorProto, helper

    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [64]) for n in ("x", "y")]
    model = helper.make_model(helper.make_graph([helper.make_node("Log", ["x"], ["y"], name="log")], "g", info[:1], info[1:]))
    with coexec.InferenceSession(model, strategy="fixed:gpu=0.5") as session:
        for _ in range(2):
            assert np.isnan(session.run(None, {"x": np.full(64, -1, np.float32)})[0]).all()
        assert "gpu" in session.plan.devices and not session.faults
    assert not warnings(caplog)


def test_check_stops_at_a_wrong_kernel(rig):
    faults, make = rig
    with make(check=True) as session:
        session.run(None, {"x": X})
        faults.arm("lie", off, always=True)  # type: ignore[arg-type]
        with pytest.raises(NumericMismatch, match="Conv 'conv'.*index"):
            session.run(None, {"x": X})


@pytest.mark.parametrize("strict", [False, True])
def test_the_self_test_finds_a_device_that_computes_nonsense(rig, expected, caplog, strict):
    faults, make = rig
    faults.arm("lie", off, always=True)  # type: ignore[arg-type]
    with settings.override(self_test=True):
        if strict:
            with pytest.raises(NumericMismatch, match="self-test"):
                make(strict=True)
            return
        with make() as session:
            np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
            assert session.plan.devices == {"cpu"}
    assert len(warnings(caplog)) == 1 and "self-test" in warnings(caplog)[0]


def test_a_device_that_fails_while_it_is_closed_keeps_nobody_else_from_it(rig):
    faults, make = rig
    session = make()
    session.run(None, {"x": X})
    before = threading.active_count()
    faults.arm("close", fails("CL_INVALID_COMMAND_QUEUE"))
    with pytest.raises(DeviceError):
        session.close()
    assert threading.active_count() <= before


def test_a_failed_move_between_two_memories(monkeypatch, expected, caplog):
    for point in ("upload", "download"):
        faults = Faults()
        device = FaultyDevice(LazyDevice(shared=False), faults)
        monkeypatch.setattr(session_module, "find_devices", lambda *_, d=device: {"cpu": CpuDevice(), "gpu": d})
        with settings.override(self_test=False), \
                coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
            faults.arm(point, fails("CL_MAP_FAILURE"))
            np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
            assert faults.fired == [point] and len(session.faults) == 1
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize("strict", [False, True])
def test_the_self_test_of_a_device_that_hangs_ends(rig, expected, caplog, monkeypatch, strict):
    faults, make = rig
    monkeypatch.setattr(self_test, "SELF_TEST_S", 0.5)
    faults.arm("wait", faults.hang)
    with settings.override(self_test=True):
        if strict:
            with pytest.raises(DeviceHang, match="self-test") as caught:
                make(strict=True)
            assert caught.value.exit_code == 6
            return
        with make() as session:
            np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
            assert session.plan.devices == {"cpu"} and faults.fired == ["wait"]
    said, = warnings(caplog)
    assert "self-test did not end" in said


@pytest.mark.parametrize("strict", [False, True])
def test_a_device_that_hangs_while_its_plan_is_checked_by_measurement(monkeypatch, expected, caplog, strict):
    faults = Faults()
    device = FaultyDevice(LazyDevice(), faults)
    monkeypatch.setattr(session_module, "find_devices", lambda *_: {"cpu": CpuDevice(), "gpu": device})
    options = coexec.SessionOptions(strict=strict, verify=True)
    with settings.override(self_test=False, timeout=0.5):
        faults.arm("wait", faults.hang, when=3)
        make = lambda: coexec.InferenceSession(tiny_model(), options, strategy="flops", device_profile=profiled(device.facts.name))  # noqa: E731
        if strict:
            with pytest.raises(DeviceHang) as caught:
                make()
            assert caught.value.exit_code == 6
        else:
            with make() as session:
                np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
                assert session.plan.devices == {"cpu"} and len(session.faults) == 1
            said, = warnings(caplog)
            assert "checked by measurement" in said
        assert faults.fired == ["wait"]
    faults.released.set()
