"""Packed weights that several queues read: one copy in the process for every constant, part of it and layout, as long as somebody holds it.

Where a plan cuts an operator along its rows, CPU and GPU need the same weights; so do the candidates of one plan, and sessions of one graph.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from .threads import Task, run_all

if TYPE_CHECKING:
    from .packing import Packing


class Packed:
    """Memory that holds a part of `owner` in some layout once `fill` has been called. Hold this as long as the memory is read."""

    def __init__(self, owner: np.ndarray, packing: Packing):
        self.owner, self.data = owner, packing.data  # the owner is kept so that its id stays its own
        self.tasks: Sequence[Task] = packing.tasks


_known: WeakValueDictionary[Hashable, Packed] = WeakValueDictionary()
_lock = threading.RLock()


def packed_once(owner: np.ndarray, part: Hashable, layout: Hashable, make: Callable[[], Packing]) -> Packed:
    """That part of a constant in that layout: the same for all that ask while one of them holds it."""
    key = id(owner), part, layout
    with _lock:
        found = _known.get(key)
        if found is None:
            found = _known[key] = Packed(owner, make())
        return found


def fill(shared: Iterable[Packed], others: Sequence[Task] = (), threads: int = 1) -> None:
    """Fills what nobody filled yet, and does other such tasks, on so many threads."""
    with _lock:
        mine = [packed for packed in shared if packed.tasks]
        run_all([*others, *(task for packed in mine for task in packed.tasks)], threads)
        for packed in mine:
            packed.tasks = ()
