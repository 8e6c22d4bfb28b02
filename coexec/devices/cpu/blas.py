"""BLAS held to one thread while CPU queues run: each of our threads does its own matrix products.

A library that also started its own threads would run 2n of them on n cores. The guard counts runs in the whole process
(several sessions may run at once) and gives the user's setting back when the last one ends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_depth = 0
_before: list[tuple[object, int]] = []


def _after_fork() -> None:
    """In the child nobody runs anything yet, whatever the parent's other threads were doing."""
    global _lock, _depth
    _lock, _depth = threading.Lock(), 0


os.register_at_fork(after_in_child=_after_fork)


#: Modules that bring a BLAS library of their own.
BRINGING = ("numpy", "scipy.linalg", "scipy.special", "sklearn", "torch")


def libraries() -> tuple:
    """The BLAS libraries of this process. Searching costs milliseconds, so it is done once, and again where a module may have brought another."""
    return _found(tuple(name in sys.modules for name in BRINGING))


@lru_cache(maxsize=None)
def _found(brought: tuple[bool, ...]) -> tuple:
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)


def acquire() -> None:
    """Holds BLAS to one thread until the matching `release`; costs microseconds."""
    global _depth
    found = libraries()
    with _lock:
        _depth += 1
        if _depth > 1:
            return
        for library in found:
            count = library.get_num_threads()
            if count is not None and count != 1:
                library.set_num_threads(1)
                _before.append((library, count))


def release() -> None:
    """Ends one hold; the last one restores what was set before the first."""
    global _depth
    with _lock:
        _depth -= 1
        if _depth:
            return
        while _before:
            library, count = _before.pop()
            library.set_num_threads(count)


@contextmanager
def held_to_one() -> Iterator[None]:
    """`acquire` and `release` around a block."""
    acquire()
    try:
        yield
    finally:
        release()
