"""Faults of what a run does besides kernels: maps, every way of waiting, the words of the handshake, files, a second Ctrl-C."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import onnx
import pyopencl as cl
import pytest

import coexec
from coexec import settings
from coexec.devices.base import Event
from coexec.devices.opencl import memory
from coexec.devices.opencl.handshake import possible
from coexec.devices.registry import gpu_device
from coexec.errors import DeviceHang, DeviceLost
from coexec.profiles import load_profile, save_profile
from coexec.runtime import executor
from coexec.runtime.weave import Hear
from tests.device.test_waits import profiled
from tests.test_smoke import tiny_model

from .faulty_device import fails, foreign
from .test_faults import X, expected, no_patience, rig  # noqa: F401 - fixtures
from .test_real_faults import INTERRUPTED, ends_well, python

pytestmark = pytest.mark.usefixtures("pocl")
MAPPED = ("coarse-svm", "alloc-host", "use-host")


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def refused(*_, **__):
    raise cl.LogicError("clEnqueueMapBuffer failed: MAP_FAILURE")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("way", MAPPED)
def test_a_map_that_the_driver_refuses(monkeypatch, expected, caplog, way, strict):  # noqa: F811
    options = coexec.SessionOptions(strict=strict)
    with settings.override(sharing=way), coexec.InferenceSession(tiny_model(), options, strategy="fixed:gpu=0.5") as session:
        session.run(None, {"x": X})
        if way == "coarse-svm":
            monkeypatch.setattr(cl.SVM, "map", refused)
        else:
            monkeypatch.setattr(memory.cl, "enqueue_map_buffer", refused)
        if strict:
            with pytest.raises(DeviceLost):
                session.run(None, {"x": X})
            return
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert len(session.faults) == 1 and session.plan.devices == {"cpu"}
    said, = warnings(caplog)
    assert "MAP_FAILURE" in said


UNMAPPED = """
    import sys, numpy as np, coexec, pyopencl as cl
    from coexec import settings
    from coexec.devices.opencl import memory
    x = np.load("x.npy")
    with settings.override(sharing=sys.argv[1]):
        session = coexec.InferenceSession("m.onnx", strategy="fixed:gpu=0.5")
    before = session.run(None, {"x": x})[0]
    real = cl.enqueue_map_buffer
    def mapped(queue, buffer, *rest, **more):
        array, event = real(queue, buffer, *rest, **more)
        array.base.release(queue)  # by somebody else: ours is one too many, and the driver says so
        return array, event
    memory.cl.enqueue_map_buffer = mapped
    assert np.allclose(session.run(None, {"x": x})[0], before, atol=1e-5)
    print(len(session.faults), *session.plan.devices)
"""


@pytest.mark.parametrize("way", ["alloc-host", "use-host"])
def test_an_unmap_that_fails_does_not_take_the_process_along(tmp_path, way):
    """A mapping that was ended already. (Where the driver itself refuses, as rusticl's does, a destructor of pyopencl would end the process:
    tests/device/test_sharing.py has that.)"""
    done = python(UNMAPPED, tmp_path, way)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0 and "Traceback" not in err and "terminate" not in err and out == "1 cpu\n", (out, err)


class Silent(Event):
    """Work of which the driver never says that it is done, nor that it failed, until somebody waits for it in the driver."""

    def __init__(self, inner: Event):
        self.inner = inner

    def wait(self) -> None:
        self.inner.wait()

    @property
    def done(self) -> bool:
        return False


@pytest.mark.parametrize("way, point, how", [
    ("poll", "wait", fails()), ("poll", "wait", foreign), ("poll", "wait", "hang"), ("finish", "finish", fails()), ("finish", "finish", foreign),
    ("finish", "finish", "hang")])
@pytest.mark.parametrize("strict", [False, True])
def test_each_way_of_waiting_fails(rig, expected, caplog, way, point, how, strict):  # noqa: F811
    faults, make = rig
    with make(strict=strict) as session:
        session.devices["gpu"].waiting = way
        session.retry_device()
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        faults.arm(point, faults.hang if how == "hang" else how)
        started = time.perf_counter()
        if strict:
            with pytest.raises(DeviceHang if how == "hang" else DeviceLost):
                session.run(None, {"x": X})
        else:
            np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
            assert len(session.faults) == 1 and len(warnings(caplog)) == 1
        assert faults.fired == [point] and time.perf_counter() - started < 10


def test_a_status_that_never_changes_is_not_polled_for_ever(expected):  # noqa: F811
    with settings.override(wait="poll"), coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
        for step, kernel in session._ready.kernels.items():
            if step.device == "gpu":
                kernel.start = lambda start=kernel.start: Silent(start())
        prepared = session._ready
        slots = prepared._number_pieces()
        prepared.first = [action for step in prepared.steps if (action := prepared_action(prepared, step, slots)) is not None]
        started = time.perf_counter()
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert time.perf_counter() - started < 2 and not session.faults


def prepared_action(prepared, step, slots):
    """The step's action, of kernels as they are now."""
    if hasattr(step, "region") and step in prepared.kernels and step.index >= 0:
        kernel, slot = prepared.kernels[step], slots[step.device, step.index]
        return lambda: prepared.events.__setitem__(slot, kernel.start())
    return dict(prepared.actions).get(step)


def flagged(**more) -> coexec.InferenceSession:
    with settings.override(wait="flag"):
        return coexec.InferenceSession(tiny_model(), coexec.SessionOptions(**more), strategy="fixed:gpu=0.5")


def needs_flags() -> None:
    """Skips where the machine cannot have words in shared memory; a driver that could be installed (PoCL) must be."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("an x86-64 processor is missing: on others a store may overtake the data before it")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a second core is missing: a gate would spin on the core that it waits for")
    assert possible(gpu_device().device, True), "install pocl-opencl-icd: words in shared memory need an SVM device with atomics"


@pytest.mark.parametrize("runs", [0, 1])
def test_a_word_that_never_arrives_is_made_up_for_by_the_event(expected, runs, monkeypatch):  # noqa: F811
    """In a first run by the event of that piece; in a later one, which makes none, by a run that waits for events."""
    needs_flags()
    monkeypatch.setattr(executor, "GIVE_UP_S", 0.05)
    with flagged() as session:
        for _ in range(runs):
            session.run(None, {"x": X})
        prepared, handshake = session._ready, session._ready.handshake
        deaf = np.zeros(1, np.int32).data  # the host looks at a word that nobody sets
        handshake.heard = deaf
        prepared.first, prepared.hot = prepared._woven_actions(prepared._number_pieces())
        again = []
        monkeypatch.setattr(prepared, "run_again", lambda feeds, real=prepared.run_again: again.append(1) or real(feeds))
        handshake.heard = deaf
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert not session.faults and len(again) == runs


@pytest.mark.parametrize("strict", [False, True])
def test_a_device_that_neither_answers_nor_ends(expected, strict, monkeypatch, caplog):  # noqa: F811
    """A run kept in step by words is on the calling thread; what its driver is then asked, which hangs, is not."""
    needs_flags()
    monkeypatch.setattr(executor, "GIVE_UP_S", 0.05)
    monkeypatch.setattr("coexec.runtime.recovery.PATIENCE", 1)
    with flagged(strict=strict) as session:
        session.run(None, {"x": X})
        session._guard.limit_s = 0.5  # from now on: making a session may take longer where much else runs
        prepared, over = session._ready, threading.Event()
        handshake = prepared.handshake
        handshake.heard = np.zeros(1, np.int32).data
        prepared.hot = [handshake.reset, prepared._patient(Hear("gpu", 1))]
        monkeypatch.setattr(prepared.queues["gpu"], "finish", lambda: over.wait(30))
        begun = time.perf_counter()
        try:
            if strict:
                with pytest.raises(DeviceHang):
                    session.run(None, {"x": X})
            else:
                np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
                assert len(session.faults) == 1 and len(warnings(caplog)) == 1
                np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
            assert time.perf_counter() - begun < 8
        finally:
            over.set()


class Refusing:
    """clEnqueueNDRangeKernel, as native runs call it, which fails from the third call on once it is armed; and what Python calls instead."""

    KIND = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_size_t] * 2, ctypes.c_uint32, *[ctypes.c_size_t] * 3, ctypes.c_uint32, *[ctypes.c_size_t] * 2)

    def __init__(self, launch, monkeypatch):
        self.count, self.armed, self.python_too = 0, False, False
        self.real, self.enqueue = self.KIND(launch.function("clEnqueueNDRangeKernel")), launch._enqueue
        self.callback = self.KIND(self._called)
        addresses = {"clEnqueueNDRangeKernel": ctypes.cast(self.callback, ctypes.c_void_p).value}
        monkeypatch.setattr(launch, "function", lambda name, real=launch.function: addresses.get(name) or real(name))
        monkeypatch.setattr(launch, "_enqueue", self._from_python)

    def _called(self, *args) -> int:
        self.count += self.armed
        return -5 if self.count >= 3 else self.real(*args)

    def _from_python(self, *args):
        if self.python_too and self.count >= 3:
            raise cl.RuntimeError("clEnqueueNDRangeKernel failed: OUT_OF_RESOURCES")
        return self.enqueue(*args)


@pytest.mark.parametrize("strict, python_too", [(False, True), (True, True), (True, False)])
def test_a_gate_that_cannot_be_enqueued(monkeypatch, expected, caplog, strict, python_too):  # noqa: F811
    """Half of the run stands behind gates when the driver refuses the next: they are opened, and the CPU ends the run. Where it takes the
    next at a second try, the run goes on."""
    needs_flags()
    from coexec.devices.opencl import launch

    refusing = Refusing(launch, monkeypatch)
    with flagged(strict=strict) as session:
        session.run(None, {"x": X})
        refusing.armed, refusing.python_too = True, python_too
        if strict and python_too:
            with pytest.raises(DeviceLost):
                session.run(None, {"x": X})
            assert refusing.count == 3
            return
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert len(session.faults) == python_too and refusing.count >= 3
    assert len(warnings(caplog)) == python_too


TWICE = INTERRUPTED.replace("os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), signal.SIGINT); time.sleep(rng.uniform(0, 0.0003)); "
                                                                   "inside[0] = True; os.kill(os.getpid(), signal.SIGINT)")


@pytest.mark.parametrize("strategy", ["cpu", "fixed:gpu=0.5"])
def test_ctrl_c_twice_in_a_row(tmp_path, strategy):
    """The second one comes while the first is being dealt with; some land in the test's own lines, which go on."""
    assert TWICE != INTERRUPTED
    code = TWICE.replace("        except KeyboardInterrupt:\n            caught += 1\n", "        except KeyboardInterrupt:\n"
                         "            inside[0] = False\n            caught += 1\n").replace(
        "    while time.time() < end:", "    while True:\n        try:\n            again()\n            break\n"
        "        except KeyboardInterrupt:\n            caught += 1\n    while False:")
    code = code.replace("    end = time.time() + 4\n", textwrap.indent(textwrap.dedent("""
        end = time.time() + 4
        def again():
            global caught
            while time.time() < end:
                try:
                    inside[0] = True
                    found = session.run(None, {"x": x})[0]
                    inside[0] = False
                    if not np.allclose(found, before, atol=1e-5):
                        os._exit(9)
                except KeyboardInterrupt:
                    inside[0] = False
                    caught += 1
    """), "    "))
    ends_well(python(code, tmp_path, strategy, COEXEC_THREADS="2"))


@pytest.mark.parametrize("arguments, file", [
    (["run", "m.onnx", "--random", "--strategy", "cpu", "-o", "out.npz"], "out.npz"),
    (["run", "m.onnx", "--random", "--strategy", "cpu", "--trace", "t.json"], "t.json"),
    (["plan", "m.onnx", "--strategy", "cpu", "-o", "plan.json"], "plan.json")])
def test_a_disk_that_fills_up_leaves_no_half_written_file(tmp_path, arguments, file):
    onnx.save(tiny_model(), tmp_path / "m.onnx")

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    done = subprocess.run([sys.executable, "-m", "coexec", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          preexec_fn=little_room,
                          env={**os.environ, "PYTHONPATH": os.getcwd(), "COEXEC_OPENCL": "none", "COEXEC_CACHE_DIR": str(tmp_path / "cache"),
                               "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") <= 3, done.stderr
    assert not (tmp_path / file).exists(), sorted(tmp_path.iterdir())


KILLED = """
    import sys
    from coexec.profiles import load_profile, save_profile
    known = load_profile(sys.argv[1])
    print("go", flush=True)
    while True:
        save_profile(known, sys.argv[1])
"""


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file(tmp_path):
    known = profiled("g" * 3000, sharing_us={f"way{n}": float(n) for n in range(300)})
    save_profile(known, tmp_path / "p.yaml")
    rng = np.random.default_rng(0)
    for _ in range(5):
        child = python(KILLED, tmp_path, "p.yaml")
        assert child.stdout.readline() == "go\n"
        time.sleep(rng.uniform(0.01, 0.1))
        child.kill()
        child.communicate()
        assert load_profile(tmp_path / "p.yaml") == known
