"""The C library's heap while a driver builds programs."""

from __future__ import annotations

import platform
import subprocess
import sys

import pyopencl as cl
import pytest

from coexec.devices.opencl import heap, program
from coexec.devices.registry import gpu_device
from coexec.errors import KernelBuildError

COUNT = """
import ctypes
from coexec.devices.opencl.heap import blocks_apart

class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype, library.malloc.restype, library.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]

def apart():
    before = library.mallinfo2().hblks
    block = library.malloc(ctypes.c_size_t(2 << 20))
    return library.mallinfo2().hblks - before, block

with blocks_apart():
    print(apart()[0], end=" ")
print(apart()[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is missing: other C libraries have other heaps")
def test_large_blocks_lie_apart_while_programs_are_built():
    assert subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True).stdout.split() == ["1", "0"]


def test_it_ends_where_a_build_fails_and_is_left_alone_where_there_is_no_glibc(monkeypatch):
    called = []
    monkeypatch.setattr(heap, "_glibc", lambda: (lambda *given: called.append(given), lambda given: called.append(given)))
    with pytest.raises(ZeroDivisionError), heap.blocks_apart():
        assert called == [(-3, heap.BUILDING_BYTES)]
        called.append(1 / 0)
    assert called[1:] == [(-3, heap.OTHERWISE_BYTES), (-1, 2 * heap.OTHERWISE_BYTES), 0]
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    with heap.blocks_apart():
        pass
    assert len(called) == 4


def test_a_driver_that_keeps_blocks_builds_so(monkeypatch):
    inside = []
    monkeypatch.setattr(heap, "_glibc", lambda: (lambda *given: inside.append(given), lambda given: None))
    device = gpu_device().device
    context = cl.Context([device])
    with pytest.raises(KernelBuildError):
        program.build(context, "__kernel void broken(")
    assert bool(inside) == ("Portable Computing Language" in device.platform.name)
