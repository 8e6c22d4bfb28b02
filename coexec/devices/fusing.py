"""A run's actions in a row that need no Python, as one: the list of C calls that `cpu.native` does in one go."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from .base import Call, Shared

#: Looks at a word, with a pause of the core after each, before Python goes on looking with naps in between: some hundred microseconds.
LOOKS = 10_000
#: Such a nap of a thread that waits for another of its team.
NAP_S = 50e-6
#: Words that several threads look at lie so many apart: each has a cache line to itself.
APART = 64


class Put(NamedTuple):
    """Set the first element of `word` (int32) to `value`."""

    word: memoryview
    value: int


class Await(NamedTuple):
    """Wait until the first element of `word` (int32) is at least `value`."""

    word: memoryview
    value: int


class Stamp:
    """A moment, in a run without Python or by a call: notes when that was on the clock of time.perf_counter_ns.

    memory: two int64 for seconds and nanoseconds; those of stamps that follow one another had better lie so.
    """

    def __init__(self, memory: np.ndarray | None = None) -> None:
        self.memory = np.zeros(2, np.int64) if memory is None else memory

    def __call__(self) -> None:
        self.memory[:] = divmod(time.perf_counter_ns(), 10**9)

    @property
    def ns(self) -> int:
        """That moment in nanoseconds; 0 where it was not."""
        return int(self.memory[0]) * 10**9 + int(self.memory[1])


@cache
def _clock_gettime() -> int:
    """The address of the function that tells the time of time.perf_counter_ns; 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0  # elsewhere perf_counter_ns may be another clock's
    return ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0


Step = Call | Shared | Put | Await | Stamp
#: What an action does, in order; None where only Python can do it.
Doing = Sequence[Step] | None


def fused(actions: Iterable[tuple[Callable[[], Any], Doing]], least: int = 2) -> list[Callable[[], Any]]:
    """The same actions, those in a row that need no Python, at least so many, as one. A call that fails is made again by its action, which
    says why.
    """
    out: list[Callable[[], Any]] = []
    row: list[tuple[Callable[[], Any], Sequence[Step]]] = []

    def end() -> None:
        out.extend([_Segment(row)] if row and len(row) >= least else [action for action, _ in row])
        row.clear()

    for action, doing in actions:
        if doing is None or not _can(doing):
            end()
            out.append(action)
        else:
            row.append((action, doing))
    end()
    return out


def _can(doing: Sequence[Step]) -> bool:
    """Whether the loop, compiled by numba, may be used: where nothing else needs numba, its import would take longer than it saves."""
    if "coexec.devices.cpu.jit" not in sys.modules:
        return False
    from .cpu import native

    def fits(step: Step) -> bool:
        if isinstance(step, Shared):
            return step.team is not None and all(map(native.fits, step.calls))
        if isinstance(step, Stamp):
            return _clock_gettime() != 0
        return native.fits(step) if isinstance(step, Call) else isinstance(step.word, memoryview)

    return native.POSSIBLE and all(map(fits, doing))


class _Rows:
    """What one thread does, as `run_rows` takes it, and what Python does where a row is not done: an action, and the row that follows it."""

    def __init__(self) -> None:
        self._made: list[tuple[int, int, int]] = []
        self._keeps: list[Any] = []
        self.behind: list[tuple[Callable[[], Any], int]] = []
        self.rows = np.empty(0, np.int64)

    def add(self, steps: Sequence[Call | Put | Await | Stamp], action: Callable[[], Any]) -> None:
        """Those steps, all of which `action` does, too."""
        from .cpu import native

        for step in steps:
            if isinstance(step, Call):
                row, block = native.row_of(step)
                self._keeps.append((step, block))
            elif isinstance(step, Stamp):
                self._keeps.append(step)
                row = native.STAMP, step.memory.ctypes.data, _clock_gettime()
            else:
                word = np.frombuffer(step.word, np.int32)
                self._keeps.append(word)
                row = native.SET if isinstance(step, Put) else native.AWAIT, word.ctypes.data, step.value
            self._made.append(row)
        self.behind += [(action, len(self._made))] * len(steps)

    def seal(self) -> None:
        """Everything has been added."""
        from .cpu import native

        self.rows = native.packed(self._made)


class _Segment:
    """Actions as one. Where threads share kernels they are woken once, and then keep in step by words of memory: waking a thread for every
    kernel takes as long as a small one does.
    """

    def __init__(self, row: Sequence[tuple[Callable[[], Any], Sequence[Step]]]):
        from .cpu import native

        self._run, self._keeps = native.run_rows, list(row)
        shared = [step for _, doing in row for step in doing if isinstance(step, Shared)]
        threads = max((len(step.calls) for step in shared), default=1)
        self._team = shared[0].team if shared else None
        self._stop, self._error = False, None  # type: bool, BaseException | None
        self._words = np.zeros(threads * APART, np.int32)
        words = [self._words[i * APART:][:1].data for i in range(threads)]  # how far the kernels have been begun; by each other thread ended
        self._lists = [_Rows() for _ in range(threads)]
        number = 0
        for action, doing in row:
            if not any(isinstance(step, Shared) for step in doing):
                self._lists[0].add(doing, action)
                continue
            for step in doing:
                number += 1
                self._share(step, number, words)
        for rows in self._lists:
            rows.seal()
        self._run(np.empty(0, np.int64), 0, 0)  # loads it

    def _share(self, step: Shared, number: int, words: Sequence[memoryview]) -> None:
        first, others = self._lists[0], range(1, len(step.calls))
        if others:
            first.add([Put(words[0], number)], _nothing)
        self._own(step, 0)
        for i in others:
            self._lists[i].add([Await(words[0], number)], partial(self._await, words[0], number))
            self._own(step, i)
            self._lists[i].add([Put(words[i], number)], _nothing)
            first.add([Await(words[i], number)], partial(self._await, words[i], number))

    def _own(self, step: Shared, thread: int) -> None:
        """That thread's part of it."""
        begun, ended = step.stamps[thread] if step.stamps else (None, None)
        if begun is not None:
            self._lists[thread].add([begun], begun)
        self._lists[thread].add([step.calls[thread]], step.tasks[thread])
        if ended is not None:
            self._lists[thread].add([ended], ended)

    def __call__(self) -> None:
        if self._team is None:
            self._do(self._lists[0])
            return
        self._words[:], self._stop, self._error = 0, False, None
        self._team.run([partial(self._take_part, rows) for rows in self._lists])
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _do(self, rows: _Rows) -> None:
        todo, count = rows.rows, len(rows.behind)
        at = self._run(todo, 0, LOOKS)
        while at < count:
            action, at = rows.behind[at]
            action()
            at = self._run(todo, at, LOOKS)

    def _take_part(self, rows: _Rows) -> None:
        """A thread's part. What it raises ends that of the others."""
        try:
            self._do(rows)
        except _Stopped:
            return
        except BaseException as error:
            self._error, self._stop = error, True

    def _await(self, word: memoryview, number: int) -> None:
        """Naps until another thread has come so far."""
        while word[0] < number:
            if self._stop or self._team.is_closing:
                raise _Stopped
            time.sleep(NAP_S)


class _Stopped(Exception):
    """Another thread of the segment has failed, or the team ends."""


def _nothing() -> None:
    return None
