"""A lock whose waiters get their turn.

Python's own locks go to whoever asks first once they are free, and that is the thread that just had them: with four threads calling
one session's `run` in a loop, one of them may wait while the others have their turn again and again. Handing a lock over each time would cure
that, and cost a change of threads per run, which takes as long as a small model's. So it is handed over where somebody has waited for long,
as Go's mutex does.
"""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter

#: Who has waited for so long gets the lock next, before anybody who comes later. Waking a thread takes a tenth of it.
PATIENCE_S = 1e-3


class _Waiter:
    """A thread that waits: `wake` is released when it should look again, `has_it` says that the lock was handed to it."""

    __slots__ = ("has_it", "since", "thread", "wake")

    def __init__(self, thread: int):
        self.thread, self.since, self.has_it = thread, perf_counter(), False
        self.wake = threading.Lock()
        self.wake.acquire()


class Turns:
    """One thread at a time, for a `with` block. Who waits is next in the order of coming, once it has waited for `PATIENCE_S`.

    Ctrl-C while a thread waits takes it out of the queue. Not reentrant: a thread that has it and comes again (a signal's handler) goes
    on at once, and the first end of a block gives it back.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._waiting: deque[_Waiter] = deque()

    def __enter__(self) -> None:
        me = threading.get_ident()
        waiter = None
        try:
            with self._guard:
                if self._owner is None or self._owner == me:
                    self._owner = me
                    return
                waiter = _Waiter(me)
                self._waiting.append(waiter)
            while not self._is_mine(waiter):
                waiter.wake.acquire()
        except BaseException:
            self._give_up(me, waiter)
            raise

    def __exit__(self, *_: object) -> None:
        self._give_up(threading.get_ident())

    def _is_mine(self, waiter: _Waiter) -> bool:
        """Whether the waiter has the lock by now: it was handed over, or is free."""
        with self._guard:
            if not waiter.has_it and self._owner is None:
                self._waiting.remove(waiter)
                self._owner, waiter.has_it = waiter.thread, True
            return waiter.has_it

    def _give_up(self, me: int, waiter: _Waiter | None = None) -> None:
        """That thread neither has the lock nor waits for it any more, also where Ctrl-C comes meanwhile; that is raised afterwards."""
        interruption = None
        while True:
            try:
                self._let_go(me, waiter)
                break
            except KeyboardInterrupt as error:
                interruption = error
        if interruption is not None:
            raise interruption

    def _let_go(self, me: int, waiter: _Waiter | None) -> None:
        with self._guard:
            if waiter is not None and waiter in self._waiting:
                self._waiting.remove(waiter)
            if self._owner == me:
                self._owner = None
            if self._owner is not None or not self._waiting:
                return
            first = self._waiting[0]
            if perf_counter() - first.since > PATIENCE_S:
                self._owner, first.has_it = first.thread, True
                self._waiting.popleft()
            if first.wake.locked():
                first.wake.release()
