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
from .launch import ClEvent, ClKernel, failed
from .memory import rects

_CELL_BYTES = 64


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
        try:
            before = time.perf_counter_ns()
            event = cl.enqueue_fill_buffer(self.queue.queue, self._cell, np.zeros(1, np.int32), 0, _CELL_BYTES)
            event.wait()
            after = time.perf_counter_ns()
        except cl.Error:
            return None
        found = _stretch([event])
        return Probe(before, found[0].start_ns, found[0].stop_ns, after) if found else None


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
