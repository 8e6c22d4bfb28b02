"""What others took of the cores while a board was measured, where the system tells: kernels that were timed beside them take longer than they will.

Reference kernels tell of moments, but are over in microseconds: a program that takes its turns on a core for milliseconds hits the long kernels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..devices.cores import usable
from .climate import ROOT

#: The columns of /proc/stat's lines of cores that count: all but what is idle, waits for a disk, or is counted twice (guests).
_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL = 0, 1, 2, 5, 6, 7
#: Where /proc/<pid>/stat, after the name, has its parent and its own times.
_PARENT, _OWN = 1, slice(11, 13)


class Neighbours:
    """Watches from its making on."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self.cores = usable()
        self.began_s, self.before_s = time.monotonic(), self._others_s()

    def share(self) -> float | None:
        """The share of the usable cores' time that went to other programs, and to whoever else has a virtual machine's cores; None where the system
        does not tell.
        """
        now, elapsed_s = self._others_s(), time.monotonic() - self.began_s
        if now is None or self.before_s is None or elapsed_s <= 0:
            return None
        return min(1.0, max(0.0, (now - self.before_s) / elapsed_s / len(self.cores)))

    def _others_s(self) -> float | None:
        """Seconds that the cores worked for others, since some beginning."""
        try:
            lines = [line.split() for line in (self.root / "proc/stat").read_text().splitlines()]
            per_second = os.sysconf("SC_CLK_TCK")
            told = [list(map(int, numbers)) for name, *numbers in lines if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in self.cores]
            worked = sum(core[at] for core in told for at in (_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL)) / per_second
        except (OSError, ValueError, IndexError):
            return None
        mine = os.times()
        ours = mine.user + mine.system + mine.children_user + mine.children_system + sum(self._children()) / per_second
        return worked - ours if told else None

    def _children(self) -> Iterator[int]:
        """What each process that this one started and that is not over has worked so far, in the system's ticks."""
        for file in self.root.glob("proc/[0-9]*/stat"):
            try:
                told = file.read_text().rpartition(")")[2].split()
                if int(told[_PARENT]) == os.getpid():
                    yield sum(map(int, told[_OWN]))
            except (OSError, ValueError, IndexError):
                continue  # it has just ended
