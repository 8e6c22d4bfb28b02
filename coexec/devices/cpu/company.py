"""Whether two cores are there at the moment: those of a virtual machine, or of a busy one, at times do no more together than one does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from ..cores import Within, apart, usable
from .jit import kernel, prepare
from .threads import Task, ThreadTeam

#: How long one core is kept busy, about, and how often; the best of these counts.
SECONDS, TIMES = 2e-3, 3
#: Two cores that take so many times as long as one are not both there.
SHARED_BY = 1.4


@kernel
def burn(numbers, rounds):
    """Multiplies and adds, in the first-level cache: what two threads of one core cannot both do at full speed."""
    for _ in range(rounds):
        for i in range(numbers.size):
            numbers[i] = numbers[i] * np.float32(0.5) + np.float32(1)


class Company:
    """Two threads, each on a core of its own, that compute at the same time. A context manager."""

    def __init__(self) -> None:
        self._numbers = [np.ones(1024, np.float32) for _ in range(2)]
        own = apart(2, frozenset()) if len(usable()) == 2 else (usable(),) * 2
        self._within, self._team, rounds = Within(own[0]), ThreadTeam(2, own[1:]), 1000
        self._tasks = self._each(rounds)
        prepare(self._tasks[0])
        self._tasks = self._each(max(1, int(rounds * SECONDS / self._best(self._tasks[:1]))))

    def _each(self, rounds: int) -> list[Task]:
        return [partial(burn, numbers, rounds) for numbers in self._numbers]

    def _best(self, tasks: Sequence[Task]) -> float:
        found = []
        for _ in range(TIMES):
            begun = time.perf_counter()
            self._team.run(tasks)
            found.append(time.perf_counter() - begun)
        return min(found)

    def is_there(self) -> bool:
        """True where both at once take about as long as one."""
        self._within.enter()
        try:
            return self._best(self._tasks) < SHARED_BY * self._best(self._tasks[:1])
        finally:
            self._within.leave()

    def close(self) -> None:
        """Ends the threads."""
        self._team.close()

    def __enter__(self) -> Company:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
