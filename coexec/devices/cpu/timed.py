"""When each thread of the CPU's team worked on its share of a piece, on the host's clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from ..base import DONE, Event, Kernel, Shared, TensorView
from ..fusing import Stamp, Step
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

    def calls(self, kernel: Kernel) -> tuple[Sequence[Step], Read] | None:
        doing = kernel.calls()
        if doing is None or not any(isinstance(step, Shared) for step in doing):
            return None if doing is None else (doing, list)
        stamped = [step._replace(stamps=tuple((Stamp(), Stamp()) for _ in step.calls)) if isinstance(step, Shared) else step for step in doing]

        def read() -> list[Stretch]:
            pairs = [(i, *pair) for step in stamped if isinstance(step, Shared) for i, pair in enumerate(step.stamps)]
            return [Stretch(begun.ns, ended.ns, worker) for worker, begun, ended in pairs]

        return stamped, read

    def move(self, view: TensorView, to_host: bool) -> tuple[Event, Read]:
        return DONE, list  # the host's memory is the CPU's own


def _share(task: Task, worker: int, stretches: list[Stretch]) -> None:
    begun = time.perf_counter_ns()
    task()
    stretches.append(Stretch(begun, time.perf_counter_ns(), worker))
