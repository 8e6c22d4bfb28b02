"""Bound kernels and their events: everything is resolved beforehand, starting one is a loop of enqueues."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from ...errors import DeviceError
from ..base import DONE, Call, Event, Kernel

_enqueue = cl.enqueue_nd_range_kernel


#: Looks at an event between two chances for other threads of the process: some tens of microseconds.
LOOKS = 32


class ClEvent(Event):
    """An OpenCL event. `owner` keeps alive what the work reads and writes: the driver holds no reference to it.

    A wait looks at it for `poll_s` seconds before the thread goes to sleep: a sleeper is woken tens of microseconds late
    ("Fine-grained CPU-GPU co-execution", arXiv 2510.21081, and HeteroInfer, SOSP'25, poll flags for the same reason).
    """

    __slots__ = ("event", "owner", "poll_s")

    def __init__(self, event: cl.Event, owner: Any, poll_s: float = 0.0):
        self.event, self.owner, self.poll_s = event, owner, poll_s

    def wait(self) -> None:
        try:
            if self.poll_s:
                self._look()
            self.event.wait()  # even where it is done: only this makes what the device wrote the host's to read
        except cl.Error as error:
            raise failed("work failed on the device", error, self.owner) from error

    def _look(self) -> None:
        event, until = self.event, perf_counter() + self.poll_s
        while perf_counter() < until:
            for _ in range(LOOKS):
                if event.command_execution_status <= 0:
                    return
            os.sched_yield()

    @property
    def done(self) -> bool:
        return self.event.command_execution_status <= 0  # errors are negative, and final


class Launch(NamedTuple):
    """One enqueue: a kernel object of its own with its arguments set, and the NDRange. in_step: its last arguments are IN_STEP_ARGS."""

    kernel: cl.Kernel
    global_size: tuple[int, ...]
    local_size: tuple[int, ...] | None
    in_step: bool = False


class ClKernel(Kernel):
    """A node's piece as a list of launches in order on one queue."""

    def __init__(self, queue: cl.CommandQueue, where: str, implementation: str, launches: Sequence[Launch], owned: Sequence[Any],
                 poll_s: float = 0.0):
        self.implementation, self.where = implementation, where
        self.launches, self.poll_s = tuple(launches), poll_s
        self._queue, self._owned = queue, tuple(owned)
        self._step: dict[int, np.ndarray] = {}  # by kernel

    def start(self) -> Event:
        queue, event = self._queue, None
        try:
            for kernel, global_size, local_size, _ in self.launches:
                event = _enqueue(queue, kernel, global_size, local_size)
        except cl.Error as error:
            raise failed(f"kernel {self.implementation or '?'} cannot be started", error, self) from error
        return ClEvent(event, self, self.poll_s) if event is not None else DONE

    def calls(self, events: np.ndarray | None = None) -> Sequence[Call] | None:
        """events: room for the addresses (uintp) of the first and the last launch's event, which then are whoever's asked to release."""
        enqueue, queue = function("clEnqueueNDRangeKernel"), self._queue.int_ptr
        if not enqueue:
            return None
        made = []
        for number, (kernel, global_size, local_size, _) in enumerate(self.launches):
            sizes = np.array([global_size, local_size or global_size], np.uintp)
            local, event = sizes[1].ctypes.data if local_size else 0, 0
            if events is not None and number in (0, len(self.launches) - 1):
                event = events[0 if number == 0 else 1:].ctypes.data
            given = queue, kernel.int_ptr, len(global_size), 0, sizes[0].ctypes.data, local, 0, 0, event
            made.append(Call(enqueue, given, (), (self, sizes, events)))
        return made

    @property
    def can_step(self) -> bool:
        """True where the first thing it starts can wait for the host, and tell it something, by itself."""
        return bool(self.launches) and self.launches[0].in_step

    @property
    def can_tell(self) -> bool:
        """True where the last thing it starts can tell the host by itself that it is done."""
        return bool(self.launches) and self.launches[-1].in_step

    def keep_in_step(self, words: Any, signal: int, target: int) -> None:
        """From now on it first sets the device's word to `signal`, then waits until the host's is at least `target`; 0 leaves that half out."""
        self._set(self.launches[0], words, slice(0, 2), (signal, target))

    def tell(self, words: Any, done: int) -> None:
        """From now on it sets the device's word to `done` where it is done; 0: no longer."""
        self._set(self.launches[-1], words, slice(2, 3), (done,))

    def _set(self, launch: Launch, words: Any, where: slice, numbers: tuple[int, ...]) -> None:
        """Sets some of `step` of IN_STEP_ARGS, the last two arguments."""
        step = self._step.setdefault(launch.kernel.int_ptr, np.zeros(4, np.int32))
        step[where] = numbers
        for index, value in enumerate((words.handle, step), launch.kernel.num_args - 2):
            launch.kernel.set_arg(index, value)
        self._owned += (words,)


@cache
def function(name: str) -> int:
    """The address of one of OpenCL's functions in the loader that pyopencl uses; 0 where it cannot be found."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(cl._cl.__file__), name), ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


def failed(what: str, error: cl.Error, owner: Any) -> DeviceError:
    """A driver's error as ours: it names the device and the node."""
    return DeviceError(what, where=getattr(owner, "where", ""), found=error,
                       hint="run with strategy cpu, or COEXEC_DEBUG=4 for the kernel's source")
