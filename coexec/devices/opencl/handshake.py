"""Host and device in step through two words of fine-grain shared memory, while kernels run: no event, no sleep on the way.

A wait by the driver's events puts one thread to sleep and wakes another, tens of microseconds a time; a word in shared memory is seen
in about one. The host polling such flags is the way of "Fine-grained CPU-GPU co-execution" (arXiv 2510.21081); here the device's queue
polls too, so that its kernels are enqueued long before the host's part that they need is done.
"""

from __future__ import annotations

import os
import platform as machine
from time import perf_counter

import numpy as np
import pyopencl as cl

from ...errors import DeviceError
from ..base import Handshake, Kernel
from .launch import ClKernel, Launch
from .memory import SvmBuffer
from .program import build, compose, kernel

#: The words lie this many ints apart (HEARD and ENDED of common.clh): each has a cache line to itself on every processor we know.
APART = 64
#: Looks of the trial's gate before it gives up, and how long the host waits for the answer: either is far more than a working one takes.
TRIAL_LOOKS, TRIAL_SECONDS = 50_000_000, 1.0
_works: dict[int, bool] = {}


class ClHandshake(Handshake):
    """The words, and the kernels that set and watch them."""

    def __init__(self, context: cl.Context, queue: cl.CommandQueue, emulated: bool, where: str):
        self._queue, self._where, self._emulated = queue, where, emulated
        self._memory = SvmBuffer(context, 3 * APART * 4)
        # The CPU that plays a GPU sees the host's plain stores; a GPU's cache may not, and an atomic goes past it.
        look = "(*(p))" if emulated else "atomic_or((p), 0)"
        self._program = build(context, compose(["handshake.cl"], {"LOOK(p)": look}))
        words = self._memory.host.data.cast("i")
        self.told, self.heard, self._ended = words[:1], words[APART:APART + 1], words[2 * APART:2 * APART + 1]

    def sync(self, signal: int = 0, target: int = 0, limit: int = 0) -> Kernel:
        bound = kernel(self._program, "handshake")
        for index, value in enumerate((self._memory.handle, np.int32(signal), np.int32(target), np.uint32(limit))):
            bound.set_arg(index, value)
        return ClKernel(self._queue, self._where, "handshake", [Launch(bound, (1,), (1,))], [self._memory])

    def embed(self, piece: Kernel, signal: int, target: int) -> bool:
        if not (self._emulated and isinstance(piece, ClKernel) and piece.can_step):
            return False
        piece.keep_in_step(self._memory, signal, target)
        return True

    def tell(self, piece: Kernel, done: int) -> bool:
        if not (self._emulated and isinstance(piece, ClKernel) and piece.can_tell):
            return False
        piece.tell(self._memory, done)
        return True

    def reset(self) -> None:
        super().reset()
        self._ended[0] = 0

    def close(self) -> None:
        self.told = self.heard = self._ended = np.zeros(1, np.int32).data
        self._memory.close()


def possible(device: cl.Device, emulated: bool) -> bool:
    """True where host and device may talk through shared words while a kernel runs: SVM atomics, ordered stores, a core for each."""
    if machine.machine().lower() not in ("x86_64", "amd64"):
        return False  # elsewhere a plain store may overtake the data before it, and Python has no fence
    if emulated and len(os.sched_getaffinity(0)) < 2:
        return False  # the gate would spin on the core that it waits for
    try:
        return bool(device.svm_capabilities & cl.device_svm_capabilities.ATOMICS)
    except cl.Error:
        return False


def works(device: cl.Device, make: ClHandshake) -> bool:
    """Tries it, once a process and device: is a store of the host seen by a running kernel, and its answer by the host?"""
    if device.int_ptr not in _works:
        _works[device.int_ptr] = _tried(make)
    return _works[device.int_ptr]


def _tried(handshake: ClHandshake) -> bool:
    handshake.reset()
    try:
        handshake.sync(target=1, limit=TRIAL_LOOKS).start()
        last = handshake.sync(signal=1).start()
        handshake._queue.flush()
        handshake.told[0] = 1
        end = perf_counter() + TRIAL_SECONDS
        while handshake.heard[0] != 1 and perf_counter() < end:
            pass
        heard = handshake.heard[0] == 1
        last.wait()
    except DeviceError:
        return False
    return heard
