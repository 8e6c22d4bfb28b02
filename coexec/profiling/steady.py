"""Good moments: small kernels whose time is known tell whether a processor is as fast now as it can be.

Clocks drift, and what else runs takes a share of caches and cores. A timing between two readings that are both good is kept; others are
made again. Good is as fast as the readings of the last minutes ever were: a board that stays hot for good is measured as it is.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

#: A reading so much above the good ones is that of a disturbed moment.
TOLERANCE = 1.07
#: Of so many readings, the second fastest says how fast the processor was then; it counts for so many seconds.
BLOCK, REMEMBERED_S = 16, 300.0


class Steadiness:
    """Readings of one processor's reference kernels, in nanoseconds. good_ns: what they took in a good moment, known from before.

    `readings` and `good` count, `ratio` is the latest reading by a good one.
    """

    def __init__(self, good_ns: Sequence[float] = (), clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._levels: dict[int, deque[tuple[float, float]]] = {i: deque([(clock(), ns)]) for i, ns in enumerate(good_ns)}
        self._block: dict[int, list[float]] = {}
        self.readings = self.good = 0
        self.ratio = 1.0

    def read(self, times_ns: Sequence[float]) -> bool:
        """Whether this is a good moment, by the times of the reference kernels, always in the same order."""
        now, self.ratio = self._clock(), 1.0
        for index, ns in enumerate(times_ns):
            block, levels = self._block.setdefault(index, []), self._levels.setdefault(index, deque())
            block.append(ns)
            if len(block) == BLOCK:
                level = sorted(block)[1]
                while levels and levels[-1][1] >= level:  # what is slower than a later one will never be the fastest again
                    levels.pop()
                levels.append((now, level))
                block.clear()
            while len(levels) > 1 and levels[0][0] < now - REMEMBERED_S:
                levels.popleft()
            self.ratio = max(self.ratio, ns / (levels[0][1] if levels else sorted(block)[len(block) > 4]))
        self.readings += 1
        self.good += self.ratio <= TOLERANCE
        return self.ratio <= TOLERANCE

    def known(self, good_ns: Sequence[float]) -> None:
        """Takes over what somebody else found the same kernels to take in a good moment, where that is faster."""
        for index, ns in enumerate(good_ns):
            levels = self._levels.setdefault(index, deque())
            while levels and levels[-1][1] >= ns:
                levels.pop()
            if not levels:
                levels.append((self._clock(), ns))

    @property
    def good_ns(self) -> tuple[float, ...]:
        """What the reference kernels take in a good moment, as far as is known."""
        return tuple(levels[0][1] for _, levels in sorted(self._levels.items()) if levels)

    @property
    def share(self) -> float:
        """Of all readings, how many were good."""
        return self.good / max(1, self.readings)


#: The facts of a profile that say what the reference kernels took in a good moment, in their order; of a team's, the last alone.
FACTS = ("reference_store_ns", "reference_compute_ns")


def references(threads: int) -> int:
    """How many reference kernels tell a good moment of so many threads."""
    return 1 if threads > 1 else len(FACTS)


def named(reference_ns: Sequence[float]) -> dict[str, float]:
    """What the reference kernels took, by their names; of a team's, the last alone. One that no clock told is left out."""
    known = zip(FACTS[-len(reference_ns):], reference_ns) if reference_ns else ()
    return {name: float(f"{ns:.5g}") for name, ns in known if math.isfinite(ns)}


def facts_of(steady: Steadiness) -> dict[str, float]:
    """What a profile keeps of good moments."""
    return named(steady.good_ns)
