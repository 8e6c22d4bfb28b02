"""A run's actions in a row that need no Python, as one: the list of C calls that `cpu.native` does in one go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .base import Call

#: Looks at a word, with a pause of the core after each, before Python goes on looking with naps in between: some hundred microseconds.
LOOKS = 10_000


class Put(NamedTuple):
    """Set the first element of `word` (int32) to `value`."""

    word: memoryview
    value: int


class Await(NamedTuple):
    """Wait until the first element of `word` (int32) is at least `value`."""

    word: memoryview
    value: int


#: What an action does, in order; None where only Python can do it.
Doing = Sequence[Call | Put | Await] | None


def fused(actions: Iterable[tuple[Callable[[], Any], Doing]]) -> list[Callable[[], Any]]:
    """The same actions, those in a row that need no Python as one. A call that fails is made again by its action, which says why."""
    out: list[Callable[[], Any]] = []
    row: list[tuple[Callable[[], Any], Sequence[Call | Put | Await]]] = []

    def end() -> None:
        out.extend([_Segment(row)] if len(row) > 1 else [action for action, _ in row])
        row.clear()

    for action, doing in actions:
        if doing is None or not _can(doing):
            end()
            out.append(action)
        else:
            row.append((action, doing))
    end()
    return out


def one(doing: Sequence[Call | Put | Await]) -> Callable[[], Any] | None:
    """All of that as one action, for who measures what it takes in a run; None where only Python can do it. A call that fails is left out."""
    return _Segment([(lambda: None, doing)]) if doing and _can(doing) else None


def _can(doing: Sequence[Call | Put | Await]) -> bool:
    """Whether the loop, compiled by numba, may be used: where nothing else needs numba, its import would take longer than it saves."""
    if "coexec.devices.cpu.jit" not in sys.modules:
        return False
    from .cpu import native

    return native.POSSIBLE and all(native.fits(step) if isinstance(step, Call) else isinstance(step.word, memoryview) for step in doing)


class _Segment:
    """Actions as one."""

    def __init__(self, row: Sequence[tuple[Callable[[], Any], Sequence[Call | Put | Await]]]):
        from .cpu import native

        self._run, self._keeps = native.run_rows, [list(row)]
        rows: list[tuple[int, int, int]] = []
        #: Of each row: its action, and the row after that action's last.
        self._behind: list[tuple[Callable[[], Any], int]] = []
        for action, doing in row:
            for step in doing:
                if isinstance(step, Call):
                    made, block = native.row_of(step)
                    self._keeps.append((step, block))
                else:
                    word = np.frombuffer(step.word, np.int32)
                    self._keeps.append(word)
                    made = native.SET if isinstance(step, Put) else native.AWAIT, word.ctypes.data, step.value
                rows.append(made)
            self._behind += [(action, len(rows))] * len(doing)
        self._rows, self._count = native.packed(rows), len(rows)
        self._run(self._rows, self._count, 0)  # loads it, does nothing

    def __call__(self) -> None:
        at = self._run(self._rows, 0, LOOKS)
        while at < self._count:
            action, at = self._behind[at]
            action()
            at = self._run(self._rows, at, LOOKS)
