"""How long the bodies of Loop, Scan, If and functions may be at work: nothing in a model says that a loop ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LoopTimeout

_limits = threading.local()
_NEVER = float("inf")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bounds what bodies this thread evaluates meanwhile. 0 is no bound; of bounds inside one another the one that ends first holds."""
    before = getattr(_limits, "until", _NEVER)
    _limits.until = min(before, time.monotonic() + (seconds or _NEVER))
    try:
        yield
    finally:
        _limits.until = before


def check_time() -> None:
    """Called whenever a body begins, each turn of a loop. Raises LoopTimeout where the time is over."""
    if time.monotonic() > getattr(_limits, "until", _NEVER):
        raise LoopTimeout("a loop did not end in the time it may take",
                          hint="check its trip count and condition; COEXEC_LOOP_TIMEOUT sets how many seconds it may take")
