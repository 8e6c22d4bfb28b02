"""Work that may never return, done by another thread while the caller waits with a time-out.

A driver's wait is a call into C that nothing can interrupt: only somebody outside it can give it up, and Ctrl-C reaches nobody inside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..devices.cores import Within

#: How long an interrupted caller looks for a report that it may have taken already.
GRACE_S = 0.05


class TimedOut(Exception):
    """The work did not end in time. It is still running, and so is the thread that does it."""


def in_time(work: Callable[[], Any], timeout_s: float) -> Any:
    """work(), or what it raised, by a thread of its own. Raises TimedOut. timeout_s 0: by this thread, however long it takes."""
    if not timeout_s:
        return work()
    runner = Runner()
    try:
        return runner.call(work, timeout_s)
    finally:
        runner.close()


class Runner:
    """One thread. `call` hands it work and returns what comes out; after a time-out it is lost, and another must be made.

    One caller at a time: a session holds its lock meanwhile.
    """

    def __init__(self) -> None:
        self.lost = False
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._work: Callable[[], Any] | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._ended, self._begun = True, False
        threading.Thread(target=self._loop, name="coexec-run", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._go.acquire()
            self._begun = True
            if self._work is None:
                return
            try:
                self._result = self._work()
            except BaseException as error:  # the caller raises it
                self._error = error
            self._work, self._ended = None, True
            self._done.release()

    def call(self, work: Callable[[], Any], timeout_s: float) -> Any:
        """work(), or what it raised. Raises TimedOut; after Ctrl-C it lets the work end (within the time-out) before that goes on."""
        self._work, self._ended, self._begun = work, False, False
        try:
            self.lost = True  # until it is known better: Ctrl-C may come at any line from here on, and again while the first is dealt with
            self._go.release()
            in_time = self._done.acquire(timeout=timeout_s)
        except BaseException:
            if not self._begun and not self._go.acquire(blocking=False):  # not taken back: never given, or the thread has it already
                time.sleep(GRACE_S)
            if not self._begun:
                self.lost = False
                raise
            self.lost = not self._done.acquire(timeout=GRACE_S if self._ended else timeout_s) and not self._ended
            self._result = self._error = None
            raise
        self.lost = not in_time
        if self.lost:
            raise TimedOut
        result, error = self._result, self._error
        self._result = self._error = None
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Ends the thread; a lost one is left where it is."""
        if not self.lost:
            self.lost = True
            self._work = None
            self._go.release()


class Watch:
    """Runs that are watched, one after the other, by one runner; by a new one after one was lost."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    @property
    def lost(self) -> bool:
        """True after a time-out, or Ctrl-C: what the last call began may still be at work."""
        return self._runner is not None and self._runner.lost

    def call(self, work: Callable[[], Any], timeout_s: float, places: Sequence[Within] = ()) -> Any:
        """work(), or what it raised. Raises TimedOut. Both threads keep to those cores meanwhile: handing over between two cores costs
        more."""
        try:
            for place in places:
                place.enter()
            if self._runner is None or self._runner.lost:
                self._runner = Runner()  # its thread is born on those cores, and stays there
            return self._runner.call(work, timeout_s)
        finally:
            for place in reversed(places):
                place.leave()

    def close(self) -> None:
        """Ends the runner; a lost one is left where it is."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
