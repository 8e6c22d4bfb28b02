"""Memory driven out of every cache, where this machine lets programs do that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def flush(memory: np.ndarray) -> Callable[[], object] | None:
    """An action that drives a contiguous array's memory out of all caches, so that whoever uses it next finds it far away; None on machines where
    no program can. What lies there stays. The array must outlive the action.
    """
    from .cpu import flush as compiled  # numba takes a second to import

    return compiled.flush(memory)
