"""One way of doing a prepared run, with a look at the clock before and after every step.

As in other runs, what needs no Python is done as one (`devices.fusing`): the looks are calls of C functions among the rest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices.base import DONE, Event
from ..devices.fusing import Doing, Stamp, fused
from ..devices.timed import Read
from .schedule import Move, Start, Wait
from .weave import Hear, Stepping, Sync, Tell, WovenStep

if TYPE_CHECKING:
    from .executor import PreparedRun

#: How often a watch looks whether a piece is done, where the device has no clock to ask.
WATCH_S = 50e-6


@dataclass(eq=False)
class Work:
    """One step as it went in the latest run: the host's clock around it and, for asynchronous work, how to read its times and when the host saw
    it done (0 where nobody has told yet).

    gate: for a piece that waits for the host, the step that lets it through.
    """

    step: WovenStep
    begun: Stamp
    ended: Stamp
    event: Event | None = None
    read: Read | None = None
    done_ns: int = 0
    gate: Work | None = None

    @property
    def start(self) -> Start | None:
        """The piece that this step starts, if it does."""
        return self.step if isinstance(self.step, Start) else self.step.start if isinstance(self.step, Stepping) else None


class Tape:
    """The steps of a run and what they took, recorded anew by each `play`. in_step: by counters, as most runs go, not by events."""

    def __init__(self, prepared: PreparedRun, in_step: bool):
        self.prepared, self.in_step = prepared, in_step
        self.works: list[Work] = []
        steps = prepared.in_step if in_step else prepared.actions
        self._clock = np.zeros((1 + len(steps or ()), 2), np.int64)  # when the first step was begun, and each had ended
        self._begun = Stamp(self._clock[0])
        self._watches: dict[str, _Watch] = {}
        self._slots = prepared._number_pieces()
        self._actions = fused(self._by_counters() if in_step else self._by_events())
        #: How the times of each step are read where it is done without Python: what Python does in its place leaves another way.
        self._reads = [(work, work.event, work.read) for work in self.works]

    def rewind(self) -> None:
        """Before a run: nothing of an earlier one is left."""
        self._clock[...] = 0
        for work, event, read in self._reads:
            work.event, work.read, work.done_ns = event, read, 0

    def play(self, watched: Iterable[str] = ()) -> None:
        """Does the run. watched: asynchronous devices without a clock of their own, whose pieces are looked at from outside."""
        self._watches = {name: _Watch() for name in watched}
        try:
            for action in self._actions:
                action()
        finally:
            for watch in self._watches.values():
                watch.close()

    @property
    def begun(self) -> list[Work]:
        """The steps of the latest run that were begun, in order."""
        return [work for work in self.works if work.begun.ns]

    # How it is made

    def _by_events(self) -> Iterable[tuple[Callable[[], Any], Doing]]:
        for step, action in self.prepared.actions:
            work = self._work(step)
            if isinstance(step, Start):
                yield from self._around(work, partial(self._start, work, action), self._calls(work) if step.index < 0 else None)
            elif isinstance(step, Move):
                yield from self._around(work, partial(self._move, work, action), None)
            elif isinstance(step, Wait):
                yield from self._around(work, partial(self._wait, work, action), None)
            else:
                yield from self._around(work, action, None)

    def _by_counters(self) -> Iterable[tuple[Callable[[], Any], Doing]]:
        gated: list[tuple[int, Work]] = []
        tellers: dict[int, Work] = {}
        target = 0  # of a gate that is a launch of its own, for the piece behind it
        for step, action, doing in self.prepared.in_step or ():
            if step is None:
                yield action, doing
                continue
            work = self._work(step)
            match step:
                case Tell(number=number):
                    tellers[number] = work
                case Sync():
                    target = step.target
                case Stepping():
                    gated.append((step.target, work))
                case Start() if step.index >= 0:
                    gated.append((target, work))
                    target = 0
            if work.start is not None:
                action, doing = partial(self._start, work, action), self._calls(work)
            yield from self._around(work, action, doing)
        for number, work in gated:
            work.gate = tellers.get(number)

    def _work(self, step: WovenStep) -> Work:
        """That step, next: one look at the clock is enough for the end of a step and the beginning of the next."""
        number = len(self.works)
        work = Work(step, self.works[-1].ended if self.works else self._begun, Stamp(self._clock[number + 1]))
        self.works.append(work)
        return work

    def _around(self, work: Work, action: Callable[[], Any], doing: Doing) -> Iterable[tuple[Callable[[], Any], Doing]]:
        """The action, and when it was begun and had ended."""
        if work is self.works[0]:
            yield work.begun, [work.begun]
        yield action, doing
        yield work.ended, [work.ended]

    def _calls(self, work: Work) -> Doing:
        """What starting that piece does without Python, timed where its device can."""
        kernel, timer = self.prepared.kernels[work.start], self.prepared.timers.get(work.start.device)
        if timer is None:
            return kernel.calls()
        found = timer.calls(kernel)
        if found is None:
            return None
        doing, work.read = found
        if not doing:
            work.event = DONE
        return doing

    # What Python does where it must

    def _start(self, work: Work, action: Callable[[], Any]) -> None:
        start, prepared = work.start, self.prepared
        timer = prepared.timers.get(start.device)
        if timer is None:
            action()
        else:
            work.event, work.read = timer.start(prepared.kernels[start])
        if start.index >= 0:
            slot = self._slots[start.device, start.index]
            if timer is None:
                work.event = prepared.events[slot]
            else:
                prepared.events[slot] = work.event
            if start.device in self._watches:
                self._watches[start.device].follow(work)

    def _move(self, work: Work, action: Callable[[], Any]) -> None:
        step, prepared = work.step, self.prepared
        timer = prepared.timers.get(step.device)
        if timer is None:
            action()
            return
        work.event, work.read = timer.move(prepared.views[step.value].sub(step.region), step.to_host)
        if step.to_host:
            work.event.wait()
        elif step.device in self._watches:
            self._watches[step.device].follow(work)

    def _wait(self, work: Work, action: Callable[[], Any]) -> None:
        """Of a device that is watched, it waits for one piece after another, to see when each ends."""
        watch = self._watches.get(work.step.device)
        if watch is not None:
            for other in watch.take(work.step.index):
                other.event.wait()  # type: ignore[union-attr]
                other.done_ns = other.done_ns or time.perf_counter_ns()
        action()


def _index(work: Work) -> int:
    return work.start.index if work.start is not None else work.step.index  # type: ignore[union-attr]


def settle(works: Iterable[Work], ended_ns: int) -> None:
    """Of works in order that were begun: when the host saw each of the asynchronous ones done, at latest at the end of the run."""
    left: dict[str, list[Work]] = {}
    for work in works:
        match work.step:
            case Start(device=device, index=index) if index >= 0:
                left.setdefault(device, []).append(work)
            case Stepping(start=start):
                left.setdefault(start.device, []).append(work)
            case Move(to_host=True):
                work.done_ns = work.ended.ns or ended_ns
            case Move(device=device) if work.event is not None:
                left.setdefault(device, []).append(work)
            case Wait(device=device, index=index) | Hear(device=device, index=index) if work.ended.ns:
                for other in left.get(device, ()):
                    if _index(other) <= index:
                        other.done_ns = other.done_ns or work.ended.ns
                left[device] = [other for other in left.get(device, ()) if _index(other) > index]
    for others in left.values():
        for other in others:
            other.done_ns = other.done_ns or ended_ns


class _Watch:
    """Looks at the events of a device whose clock is of no use, so that their ends are known before somebody waits for them."""

    def __init__(self) -> None:
        self._left: list[Work] = []  # that nobody has waited for
        self._waiting: deque[Work] = deque()
        self._over = False
        self._thread = threading.Thread(target=self._look, name="coexec-watch", daemon=True)
        self._thread.start()

    def follow(self, work: Work) -> None:
        if work.event is not None:
            self._left.append(work)
            self._waiting.append(work)

    def take(self, index: int) -> list[Work]:
        """Those of the device's pieces up to that one that were not taken before."""
        taken = [work for work in self._left if _index(work) <= index]
        self._left = [work for work in self._left if _index(work) > index]
        return taken

    def close(self) -> None:
        self._over = True
        self._thread.join()

    def _look(self) -> None:
        with suppress(Exception):  # a driver that cannot say: the next wait tells, and raises what there is to raise
            while not self._over:
                while self._waiting and (self._waiting[0].done_ns or self._waiting[0].event.done):  # type: ignore[union-attr]
                    work = self._waiting.popleft()
                    work.done_ns = work.done_ns or time.perf_counter_ns()
                time.sleep(WATCH_S)
