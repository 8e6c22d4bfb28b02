"""The simulator's clocks: actors that work, and hold until something happens, in one simulated time.

An actor is a generator. It yields `Work`, and goes on when that is done, or `Hold`, and goes on when the condition holds. Work is done at
the rate of the moment: slower while another unit works, and while a scenario says so. A discrete-event simulation in the usual sense:
between two events every rate is constant, so nothing is stepped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import CoexecError
from .scenario import QUIET, Scenario

#: Work of less than this is done: sums of the same times in another order differ by less.
NOTHING_US = 1e-9


@dataclass(frozen=True)
class Work:
    """So many microseconds on an undisturbed unit. `slow`: by how much it takes longer while another unit works; `unit`: whose speed a
    scenario changes, "" for none. Only work with `busy` disturbs others.
    """

    us: float
    unit: str = ""
    slow: float = 1.0
    busy: bool = False


@dataclass(frozen=True)
class Hold:
    """Goes on when `until` is true; it is asked after every event."""

    until: Callable[[], bool]


Actor = Generator[Work | Hold, None, None]


@dataclass
class _Playing:
    actor: Actor
    work: Work | None = None
    left_us: float = 0.0
    hold: Callable[[], bool] | None = None
    over: bool = False
    #: How long it was slowed down by others, as microseconds lost.
    lost_us: float = field(default=0.0)


class Clock:
    """Plays actors against one another. `now_us` is the simulated time; it starts at `begin_us`."""

    def __init__(self, scenario: Scenario = QUIET, begin_us: float = 0.0):
        self.scenario, self.now_us, self.events = scenario, begin_us, 0

    def play(self, leader: Actor, others: Iterable[Actor]) -> None:
        """Until the leader is over. Raises CoexecError where everybody holds: the plan would hang."""
        first = _Playing(leader)
        playing = [first, *(_Playing(a) for a in others)]
        while True:
            self._wake(playing)
            if first.over:
                return
            working = [p for p in playing if p.work is not None]
            if not working:
                raise CoexecError("the simulated run hangs: the host and every device wait for one another", where=f"at {self.now_us:.1f} us")
            self._pass(working)

    def _wake(self, playing: list[_Playing]) -> None:
        """Everybody who can go on now does, until nobody can."""
        moved = True
        while moved:
            moved = False
            for one in playing:
                while not one.over and one.work is None and (one.hold is None or one.hold()):
                    self._next(one)
                    moved = True

    def _next(self, one: _Playing) -> None:
        self.events += 1
        one.hold = None
        found: Any = next(one.actor, None)
        if found is None:
            one.over = True
        elif isinstance(found, Hold):
            one.hold = found.until
        elif found.us > NOTHING_US:
            one.work, one.left_us = found, found.us

    def _pass(self, working: list[_Playing]) -> None:
        """Until the first of them is done, or a speed changes."""
        busy = sum(p.work.busy for p in working)  # type: ignore[union-attr]
        rates = [self._rate(p.work, busy) for p in working]  # type: ignore[arg-type]
        step = min(p.left_us / rate for p, rate in zip(working, rates))
        step = min(step, self.scenario.next_change_us(self.now_us) - self.now_us)
        self.now_us += step
        for one, rate in zip(working, rates):
            one.left_us -= step * rate
            if one.left_us <= NOTHING_US * max(1.0, self.now_us):
                one.work = None

    def _rate(self, work: Work, busy: int) -> float:
        company = busy - work.busy > 0
        return self.scenario.speed(work.unit, self.now_us) / (work.slow if company else 1.0)
