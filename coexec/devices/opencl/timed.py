"""When work ran on an OpenCL device, by its events' profiling information (OpenCL 1.2, section 5.12), in nanoseconds of its own clock."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pyopencl as cl

from ..base import DONE, Event, Kernel, TensorView
from ..fusing import Step
from ..timed import Probe, Read, Stretch, Timer
from .device import OpenCLQueue
from .handshake import ClHandshake
from .launch import ClEvent, ClKernel, failed
from .memory import rects

_CELL_BYTES = 64
#: How long the host waits for a probe's kernel to begin, and how many looks such a kernel waits for the host: far more than either takes.
PROBE_NS, PROBE_LOOKS = 100_000_000, 50_000_000


def timed(queue: OpenCLQueue) -> Timer | None:
    """A timer that gives the queue a command queue with profiling; None where the driver refuses one."""
    try:
        profiled = cl.CommandQueue(queue.context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        cell = cl.Buffer(queue.context, cl.mem_flags.READ_WRITE, _CELL_BYTES)
    except cl.Error:
        return None
    queue.queue = profiled
    return ClTimer(queue, cell)


class ClTimer(Timer):
    """Keeps every event of a piece: from the start of the first launch to the end of the last."""

    own_clock = True

    def __init__(self, queue: OpenCLQueue, cell: cl.Buffer):
        self.queue, self._cell = queue, cell
        self._gate: ClKernel | None = None

    def start(self, kernel: Kernel) -> tuple[Event, Read]:
        assert isinstance(kernel, ClKernel)
        queue, events = self.queue.queue, []
        try:
            for launched, global_size, local_size, _ in kernel.launches:
                events.append(cl.enqueue_nd_range_kernel(queue, launched, global_size, local_size))
        except cl.Error as error:
            raise failed(f"kernel {kernel.implementation or '?'} cannot be started", error, kernel) from error
        return (ClEvent(events[-1], kernel, kernel.poll_s) if events else DONE), lambda: _stretch(events)

    def calls(self, kernel: Kernel) -> tuple[Sequence[Step], Read] | None:
        assert isinstance(kernel, ClKernel)
        made = np.zeros(2, np.uintp)  # the first launch's event, the last one's
        doing = kernel.calls(made)

        def read() -> list[Stretch]:
            events = [cl.Event.from_int_ptr(int(address), retain=False) for address in made if address]
            made[:] = 0
            return _stretch(events)

        return None if doing is None else (doing, read)

    def move(self, view: TensorView, to_host: bool) -> tuple[Event, Read]:
        queue, events = self.queue.queue, []
        try:
            if view.buffer.copies and sum(1 for _ in rects(view)) > 1:  # only the last box's event comes back: a marker tells when the first began
                marker = cl.enqueue_marker(queue)
                last = view.buffer.move(queue, view, to_host)
                return ClEvent(last, view, self.queue.poll_s), lambda: _stretch([last], begun_by=marker)
            last = view.buffer.move(queue, view, to_host)
        except cl.Error as error:
            raise failed("a transfer cannot be started", error, self.queue) from error
        events += [last] if last is not None else []
        return (ClEvent(last, view, self.queue.poll_s) if last is not None else DONE), lambda: _stretch(events)

    def probe(self) -> Probe | None:
        if (shake := self.queue.kept_handshake) is not None:
            return self._probe_by_words(shake)
        try:
            before = time.perf_counter_ns()
            event = cl.enqueue_fill_buffer(self.queue.queue, self._cell, np.zeros(1, np.int32), 0, _CELL_BYTES)
            event.wait()
            after = time.perf_counter_ns()
        except cl.Error:
            return None
        found = _stretch([event])
        return Probe(before, found[0].start_ns, found[0].stop_ns, after) if found else None


    def _probe_by_words(self, shake: ClHandshake) -> Probe | None:
        """By a kernel that tells when it begins, and ends when it is told: the driver, which is late at waking, is not in between."""
        if self._gate is None:
            self._gate = shake.sync(1, 1, PROBE_LOOKS)
        shake.reset()
        try:
            (launched, global_size, local_size, _), queue = self._gate.launches[0], self.queue.queue
            event = cl.enqueue_nd_range_kernel(queue, launched, global_size, local_size)
            queue.flush()
            until = time.perf_counter_ns() + PROBE_NS
            while not shake.heard[0] and time.perf_counter_ns() < until:
                pass
            begun = time.perf_counter_ns()
            ends, told = shake.heard[0] == 1, time.perf_counter_ns()
            shake.told[0] = 1
            event.wait()
        except cl.Error:
            return None
        finally:
            shake.reset()
        found = _stretch([event])
        return Probe(told, found[0].stop_ns, found[0].start_ns, begun) if found and ends else None


def _stretch(events: Sequence[cl.Event], begun_by: cl.Event | None = None) -> list[Stretch]:
    """From the first event's start to the last one's end; nothing where the driver's answer cannot be true."""
    if not events:
        return []
    try:
        start = begun_by.profile.end if begun_by is not None else events[0].profile.start
        stop = events[-1].profile.end
    except cl.Error:
        return []
    return [Stretch(start, stop)] if 0 < start <= stop else []
