"""Which cores the CPU's threads run on: the big ones first, within the process's own mask, and not those that an emulated GPU has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SYS = Path("/sys/devices/system/cpu")
#: What the kernel says of a core's size, the best source first: its capacity (arm64), else its highest clock.
SOURCES = ("cpu_capacity", "cpufreq/cpuinfo_max_freq")
_taken: set[int] = set()


def usable() -> frozenset[int]:
    """The cores that the calling thread may use; none where the system does not tell."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def take(cores: Iterable[int]) -> None:
    """Those cores are an emulated GPU's from now on."""
    _taken.update(cores)


def sizes(cores: Iterable[int], root: Path = SYS) -> dict[int, int]:
    """How big each core is, in the kernel's words; all alike where it does not say so of every one."""
    cores = list(cores)
    for source in SOURCES:
        try:
            return {core: int((root / f"cpu{core}" / source).read_text()) for core in cores}
        except (OSError, ValueError):
            continue
    return dict.fromkeys(cores, 1)


def biggest(count: int, cores: Iterable[int], root: Path = SYS) -> frozenset[int]:
    """The fewest of those cores that hold `count` threads, whole clusters of one size, the biggest first."""
    found = sizes(cores, root)
    chosen: set[int] = set()
    for size in sorted(set(found.values()), reverse=True):
        chosen |= {core for core, own in found.items() if own == size}
        if len(chosen) >= count:
            break
    return frozenset(chosen)


def for_team(count: int, wanted: Iterable[int] = (), root: Path = SYS) -> frozenset[int]:
    """Where `count` threads of the CPU's run: within `wanted`, else on the biggest cores. Empty where they may run anywhere.

    Cores outside of the mask, and an emulated GPU's, are left out where enough others are there.
    """
    allowed = usable()
    chosen = frozenset(wanted) & allowed
    if len(chosen) < count:
        chosen = biggest(count, allowed, root)
    if len(chosen - _taken) >= count:
        chosen -= _taken
    elif len(allowed - _taken) >= count:
        chosen = biggest(count, allowed - _taken, root)
    return frozenset() if chosen == allowed else chosen


def apart(count: int, cores: frozenset[int]) -> tuple[frozenset[int], ...]:
    """Where each of `count` threads runs, the caller's first: on a core of its own where there are just as many of `cores` (empty: of those that
    the calling thread may use), else on all of them.

    Left alone, the system puts a thread that is woken on its waker's core, and two shares of a kernel take turns there until it notices.
    """
    own = sorted(cores or usable())
    return tuple(frozenset({core}) for core in own) if count > 1 and len(own) == count else (cores,) * count


class Within:
    """The calling thread on those cores for a while, and where it was before; nowhere else where it may use none of them."""

    def __init__(self, cores: Iterable[int]):
        self.cores = frozenset(cores)
        self._before: set[int] | None = None

    def enter(self) -> None:
        if not self.cores:
            return
        now = os.sched_getaffinity(0)
        rest = self._rest(now)
        if rest and rest != now:
            self._before = now
            os.sched_setaffinity(0, rest)

    def leave(self) -> None:
        if self._before is not None:
            before, self._before = self._before, None
            os.sched_setaffinity(0, before)

    def _rest(self, now: set[int]) -> set[int]:
        return now & self.cores
