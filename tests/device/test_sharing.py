"""Ways of sharing memory: each that a device has gives the reference's answers, and one that loses what a side writes is found out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pyopencl as cl
import pytest

import coexec
from coexec import settings
from coexec.devices.base import TensorView
from coexec.devices.opencl import memory, open_device, sharing
from coexec.devices.opencl.device import OpenCLDevice
from coexec.errors import DeviceError, UsageError
from coexec.profiling import ways
from coexec.regions import Region
from tests.test_smoke import tiny_model

from .test_other_drivers import need_rusticl
from .test_random_plans import holds_on_random_plans
from .test_waits import profiled

pytestmark = pytest.mark.usefixtures("pocl")
MAPPED = ("coarse-svm", "alloc-host", "use-host")
X = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def opencl(pocl) -> cl.Device:
    return open_device(settings.get("opencl")).device


@pytest.fixture
def forget(monkeypatch):
    monkeypatch.setattr(sharing, "_works", {})


@pytest.mark.parametrize("way", MAPPED)
def test_random_plans_equal_the_reference_where_memory_is_mapped(way):
    holds_on_random_plans(way, counters=False, examples=15)


@pytest.mark.parametrize("way", MAPPED)
@pytest.mark.parametrize("nbytes", [0, 1, 100, 4096])
def test_mapped_buffers_are_zeroed_and_stay_where_they_are(opencl, way, nbytes):
    buffer = OpenCLDevice(opencl, way).allocate(nbytes)
    assert buffer.host.nbytes == buffer.nbytes == nbytes and not buffer.host.any() and not buffer.shared and not buffer.copies
    assert nbytes == 0 or buffer.host.ctypes.data % 64 == 0
    buffer.close()


@pytest.mark.parametrize("way", MAPPED)
def test_a_window_goes_to_the_device_and_back(opencl, way):
    """The device doubles what the host wrote into every other row; rows between stay the host's."""
    device = OpenCLDevice(opencl, way)
    queue, buffer = cl.CommandQueue(device.context), device.allocate(4 * 6 * 5)
    kernel = cl.Program(device.context, "kernel void twice(global int *p) { int i = get_global_id(0); p[i / 5 * 10 + i % 5] *= 2; }").build().twice
    rows = TensorView(buffer, np.dtype(np.int32), Region.whole((3, 5)), 0, (10, 1))
    whole = TensorView.contiguous(buffer, np.dtype(np.int32), Region.whole((6, 5)))
    for turn in range(3):
        whole.array[...] = np.arange(30).reshape(6, 5) + turn
        buffer.move(queue, whole, False)
        kernel.set_arg(0, buffer.handle)
        cl.enqueue_nd_range_kernel(queue, kernel, (15,), None)
        buffer.move(queue, rows, True).wait()
        expected = np.arange(30).reshape(6, 5) + turn
        expected[::2] *= 2
        np.testing.assert_array_equal(whole.array, expected)
    assert buffer.move(queue, whole.sub(Region([(0, 0), (0, 5)])), True) is None
    queue.finish()
    buffer.close()


@pytest.mark.parametrize("way", MAPPED)
def test_a_session_copies_nothing_and_is_checked_and_traced(way, tmp_path):
    with coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        expected = session.run(None, {"x": X})[0]
    options = coexec.SessionOptions(enable_profiling=True, profile_file_prefix=str(tmp_path / "t"))
    with settings.override(sharing=way), coexec.InferenceSession(tiny_model(), options, strategy="fixed:gpu=0.5") as session:
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        session.run_checked({"x": X})
        assert session.copied_bytes_per_run == 0 and "gpu" in session.plan.devices and not session.faults
        names = {span.name.split()[0] for span in session._trace.of("copy")}
        assert "map" in names and not names & {"upload", "download"}
        session.end_profiling(tmp_path / "t.json")


class Forgetful(memory.HostPointerBuffer):
    """A driver that keeps a copy of mapped memory, and writes back all of what is unmapped, as some do."""

    def __init__(self, context, nbytes, by_driver=True):
        super().__init__(context, nbytes, by_driver)
        self.mine, self.host = self.host, np.zeros(nbytes, np.uint8)

    def _hand_over(self, queue, start, length, flags):
        queue.finish()
        ours, theirs = self.host[start:start + length], self.mine[start:start + length]
        np.copyto(*((ours, theirs) if flags == cl.map_flags.READ else (theirs, ours)))
        return cl.enqueue_marker(queue)


class Apart(Forgetful):
    """Two memories behind one address, as caches that do not see each other make them; what a hand-over brings across is up to the driver."""

    def _hand_over(self, queue, start, length, flags):
        queue.finish()
        self.bring(slice(start, start + length), flags == cl.map_flags.READ)
        return cl.enqueue_marker(queue)

    def bring(self, part: slice, to_host: bool) -> None:
        raise NotImplementedError


class Invalidating(Apart):
    """Mapping throws away what the host wrote before it mapped: the map flags would have had to come first."""

    def bring(self, part, to_host):
        self.host[part] = self.mine[part]


class WholeLines(Apart):
    """Caches are written back and read anew by lines of 64 bytes, whoever wrote the rest of a line."""

    def bring(self, part, to_host):
        lines = slice(part.start // 64 * 64, -(-part.stop // 64) * 64)
        into, out_of = (self.host, self.mine) if to_host else (self.mine, self.host)
        into[lines] = out_of[lines]


class Late(Apart):
    """What the device wrote arrives when something else is mapped: a hand-over too late."""

    def bring(self, part, to_host):
        if to_host:
            before, self.behind = getattr(self, "behind", part), part
            self.host[before] = self.mine[before]
        else:
            self.mine[part] = self.host[part]


def refusing(*_):
    raise cl.LogicError("clEnqueueUnmapMemObject failed: INVALID_VALUE")


@pytest.mark.parametrize("driver", [Forgetful, Invalidating, WholeLines, Late])
def test_the_trial_finds_rows_that_get_lost(opencl, monkeypatch, forget, driver):
    context = OpenCLDevice(opencl, "copy").context
    assert sharing.works(opencl, context, "alloc-host")
    sharing._works.clear()
    monkeypatch.setitem(sharing.WAYS, "alloc-host", driver)
    assert not sharing.works(opencl, context, "alloc-host")
    with pytest.raises(UsageError, match="cannot share memory that way.*alloc-host"):
        OpenCLDevice(opencl, "alloc-host")


@pytest.mark.parametrize("driver", [Forgetful, Invalidating, WholeLines, Late])
def test_a_profile_from_a_better_driver_does_not_make_a_session_lose_rows(opencl, monkeypatch, forget, driver):
    """The profile says that memory is mapped; the driver has become worse since. The session shares as it would without the profile."""
    with coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        expected = session.run(None, {"x": X})[0]
    monkeypatch.setitem(sharing.WAYS, "alloc-host", driver)
    known = profiled(opencl.name.strip(), sharing="alloc-host", sharing_us={"alloc-host": 1.0})
    with coexec.InferenceSession(tiny_model(), device_profile=known, strategy="flops") as session:
        assert session.devices["gpu"].sharing != "alloc-host" and "gpu" in session.plan.devices
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
    assert "alloc-host" not in ways.exchange_us({way: d for way in ("copy", "alloc-host") if (d := ways._used_by(session.devices["gpu"], way))})


def test_a_driver_that_refuses_to_map_is_found_out_by_the_trial(opencl, monkeypatch, forget):
    monkeypatch.setattr(memory.HostPointerBuffer, "_hand_over", refusing)
    assert not sharing.works(opencl, OpenCLDevice(opencl, "copy").context, "use-host")


def test_an_address_that_moves_is_a_fault_of_the_device(opencl, monkeypatch):
    """Nothing may be read through a pointer that is not the buffer's any more."""
    buffer = OpenCLDevice(opencl, "alloc-host").allocate(256)
    buffer.host = np.zeros(256, np.uint8)  # not where the driver maps it
    queue = cl.CommandQueue(OpenCLDevice(opencl, "copy").context)
    view = TensorView.contiguous(buffer, np.dtype(np.uint8), Region.whole((256,)))
    with pytest.raises(DeviceError, match="another address"):
        buffer.move(queue, view, True)
    queue.finish()


def test_the_setting_names_the_ways(monkeypatch):
    monkeypatch.setenv("COEXEC_SHARING", "telepathy")
    with pytest.raises(UsageError, match="COEXEC_SHARING.*telepathy.*svm or coarse-svm or alloc-host or use-host or copy"):
        settings.get("sharing")


def subset(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([*command, sys.executable, "-m", "tests.device.sharing_subset"], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "POCL_MAX_PTHREAD_COUNT": "1", **environment})


def test_every_way_on_rusticl():
    need_rusticl()
    done = subset([], RUSTICL_ENABLE="llvmpipe", COEXEC_OPENCL="rusticl")
    assert done.returncode == 0 and "copy: right" in done.stdout, done.stdout + done.stderr


def test_every_way_on_oclgrind():
    assert shutil.which("oclgrind"), "install oclgrind (Debian and Ubuntu package it); tools/test.sh does"
    done = subset(["oclgrind"], COEXEC_OPENCL="oclgrind")
    assert done.returncode == 0 and "copy: right" in done.stdout, done.stdout + done.stderr
