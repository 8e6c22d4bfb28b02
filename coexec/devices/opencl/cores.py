"""Cores for an OpenCL device that runs on the CPU's own: its driver's threads get some to themselves, the host keeps off them meanwhile.

Left alone, the kernel at times puts a worker that it wakes on the waker's core, and both halves of a run take turns there for as long
as the run lasts. A driver does not say which threads are its own: those that appear while its platforms are asked for the first time
are taken to be.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from ..cores import Within, take

Result = TypeVar("Result")
_workers: list[int] = []


def notice(ask: Callable[[], Result]) -> Result:
    """ask(), and the threads that it starts are remembered as the driver's."""
    before = _threads()
    found = ask()
    _workers.extend(sorted(_threads() - before))
    return found


@cache
def reserve() -> frozenset[int]:
    """Gives each of the driver's threads a core of its own, once a process, and returns those cores; none where the host would have none."""
    if not hasattr(os, "sched_setaffinity"):
        return frozenset()
    usable = sorted(os.sched_getaffinity(0))
    if not _workers or len(_workers) >= len(usable):
        return frozenset()
    given = usable[-len(_workers):]  # the first core is where the kernel's own work tends to be done: that is seldom the slower half's
    try:
        for worker, core in zip(_workers, given):
            os.sched_setaffinity(worker, {core})
    except OSError:  # a thread that has ended, or a sandbox that allows it to nobody
        return frozenset()
    take(given)
    return frozenset(given)


class Elsewhere(Within):
    """The calling thread off those cores for a while, and where it was before; where it was all along if it would have none left."""

    def _rest(self, now: set[int]) -> set[int]:
        return now - self.cores


def _threads() -> set[int]:
    try:
        return set(map(int, os.listdir("/proc/self/task")))
    except OSError:
        return set()
