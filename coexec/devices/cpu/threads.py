"""A handful of persistent threads that each run one share of a kernel while the caller runs the first.

Raw locks are the quickest hand-over Python has: one futex call to wake a thread, one to report back.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from ... import settings
from . import denormals

Task = Callable[[], None]


class _Worker:
    """One thread: sleeps on `go`, runs `task`, reports on `done`."""

    def __init__(self, name: str, cores: frozenset[int]):
        self._cores = cores
        self.go, self.done = threading.Lock(), threading.Lock()
        self.go.acquire()
        self.done.acquire()
        self.task: Task | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self.thread.start()

    def _loop(self) -> None:
        if self._cores:
            with suppress(OSError):  # a sandbox that allows it to nobody: then wherever the system puts it
                os.sched_setaffinity(0, self._cores)
        if not settings.get("denormals"):
            denormals.flush()  # for good: what it runs are kernels
        while True:
            self.go.acquire()
            task = self.task
            if task is None:
                return
            try:
                task()
            except BaseException as error:  # the caller raises it: a worker that died would hang the next run
                self.error = error
            self.task = task = None
            self.done.release()


class ThreadTeam:
    """`size` threads, the caller included. `run(tasks)` returns when every task has ended. cores: where each of the others stays; empty: anywhere.

    One run at a time: a session is the only caller. Raises what a task raised (the first in order), after all have ended.
    """

    def __init__(self, size: int, cores: Sequence[frozenset[int]] = ()):
        self.size, self.cores = size, tuple(cores) or (frozenset(),) * (size - 1)
        self._workers = self._made()

    def _made(self) -> list[_Worker]:
        #: True while the threads are being ended: a task that waits for another's must not wait on.
        self.is_closing = False
        return [_Worker(f"coexec-cpu-{i}", cores) for i, cores in enumerate(self.cores, 1)]

    def run(self, tasks: Sequence[Task]) -> None:
        """Runs tasks[0] here and each other task on a thread of its own; there are at most `size`."""
        busy = self._workers[:len(tasks) - 1]
        try:
            for worker, task in zip(busy, tasks[1:]):
                worker.task = task
                worker.go.release()
        except BaseException:
            self._renew()
            raise
        try:
            tasks[0]()
        finally:
            try:
                for worker in busy:
                    worker.done.acquire()
            except BaseException:  # Ctrl-C: who has reported is not known any more
                self._renew()
                raise
        failed = None
        for worker in busy:
            if worker.error is not None:
                failed, worker.error = failed or worker.error, None
        if failed is not None:
            raise failed

    def _renew(self) -> None:
        """Other threads in place of these, once these have ended what they were doing."""
        self.close()
        self._workers = self._made()

    def close(self) -> None:
        """Ends the threads, after what they are doing; safe to call twice."""
        self.is_closing = True
        for worker in self._workers:
            worker.task = None
            if worker.go.locked():  # else it was let go and has not looked yet: it finds nothing to do, and ends
                worker.go.release()
        for worker in self._workers:
            worker.thread.join()
        self._workers = []


def run_all(tasks: Sequence[Task], threads: int) -> None:
    """Runs tasks that may run in any order, each on whichever of `threads` threads is free. Raises what one of them raised."""
    left = deque(tasks)

    def work() -> None:
        while left:
            try:
                task = left.popleft()
            except IndexError:  # another thread took the last one
                return
            task()

    team = ThreadTeam(max(1, min(threads, len(left))))
    try:
        team.run([work] * team.size)
    finally:
        team.close()
