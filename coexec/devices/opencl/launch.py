"""Bound kernels and their events: everything is resolved beforehand, starting one is a loop of enqueues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyopencl as cl

from ...errors import DeviceError
from ..base import DONE, Event, Kernel

_enqueue = cl.enqueue_nd_range_kernel


class ClEvent(Event):
    """An OpenCL event. `owner` keeps alive what the work reads and writes: the driver holds no reference to it."""

    __slots__ = ("event", "owner")

    def __init__(self, event: cl.Event, owner: Any):
        self.event, self.owner = event, owner

    def wait(self) -> None:
        try:
            self.event.wait()
        except cl.Error as error:
            raise failed("work failed on the device", error, self.owner) from error

    @property
    def done(self) -> bool:
        return self.event.command_execution_status <= 0  # errors are negative, and final


class Launch(NamedTuple):
    """One enqueue: a kernel object of its own with its arguments set, and the NDRange."""

    kernel: cl.Kernel
    global_size: tuple[int, ...]
    local_size: tuple[int, ...] | None


class ClKernel(Kernel):
    """A node's piece as a list of launches in order on one queue."""

    def __init__(self, queue: cl.CommandQueue, where: str, implementation: str, launches: Sequence[Launch], owned: Sequence[Any]):
        self.implementation, self.where = implementation, where
        self.launches = tuple(launches)
        self._queue, self._owned = queue, tuple(owned)

    def start(self) -> Event:
        queue, event = self._queue, None
        try:
            for kernel, global_size, local_size in self.launches:
                event = _enqueue(queue, kernel, global_size, local_size)
        except cl.Error as error:
            raise failed(f"kernel {self.implementation or '?'} cannot be started", error, self) from error
        return ClEvent(event, self) if event is not None else DONE


def failed(what: str, error: cl.Error, owner: Any) -> DeviceError:
    """A driver's error as ours: it names the device and the node."""
    return DeviceError(what, where=getattr(owner, "where", ""), found=error,
                       hint="run with strategy cpu, or COEXEC_DEBUG=4 for the kernel's source")
