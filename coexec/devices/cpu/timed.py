"""When each thread of the CPU's team worked on its share of a piece, on the host's clock."""

from __future__ import annotations

import time
from functools import partial

from ..base import DONE, Event, Kernel, TensorView
from ..timed import Read, Stretch, Timer
from .device import CpuKernel, CpuQueue
from .threads import Task


def timed(queue: CpuQueue) -> Timer:
    """A timer of the queue's shares."""
    return CpuTimer(queue)


class CpuTimer(Timer):
    """Runs every share of a piece between two looks at the clock. Pieces are started between `begin_run` and `end_run`."""

    def __init__(self, queue: CpuQueue):
        self.queue = queue

    def start(self, kernel: Kernel) -> tuple[Event, Read]:
        assert isinstance(kernel, CpuKernel) and kernel.tasks is not None
        if len(kernel.tasks) < 2:
            return kernel.start(), list
        stretches: list[Stretch] = []
        self.queue.run([partial(_share, task, i, stretches) for i, task in enumerate(kernel.tasks)])
        return DONE, lambda: stretches

    def move(self, view: TensorView, to_host: bool) -> tuple[Event, Read]:
        return DONE, list  # the host's memory is the CPU's own


def _share(task: Task, worker: int, stretches: list[Stretch]) -> None:
    begun = time.perf_counter_ns()
    task()
    stretches.append(Stretch(begun, time.perf_counter_ns(), worker))
