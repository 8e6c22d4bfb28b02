"""What two units at work take from one another: a little everywhere, and the memory's bandwidth where they read from it.

Arithmetic on what the caches hold goes on nearly as fast beside a busy neighbour. Two streams from memory share what it gives: both then take up
to twice as long. In between, reads that are a small part of a piece's time are fetched ahead beneath its arithmetic, and cost nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: The share of a piece's time that reading from memory may take before a slower memory lengthens it. By pieces of thirteen networks in company
#: (`tools/bench_company.py`, 2026-11-27, an x86-64 server, PoCL): up to a fifth no more than others, beyond it the more the longer they read.
HIDDEN = 0.2
#: Where no piece waits for memory for more than this share of its time, nothing is told of what company costs there.
LEAST_TOLD = 0.1


def exposed(far_mb: np.ndarray, us: np.ndarray, bandwidth_gbs: float) -> np.ndarray:
    """How much of pieces' time waits for memory, 0 to 1: far_mb are millions of bytes that each has from there (`cost.cases.Case`), us the
    microseconds that each takes by itself, NaN where unknown.
    """
    share = far_mb * 1e3 / (bandwidth_gbs * np.maximum(us, 1e-3))
    return np.nan_to_num(np.clip((share - HIDDEN) / (1 - HIDDEN), 0.0, 1.0))


def slower(busy: Mapping[str, float], waiting: np.ndarray) -> np.ndarray:
    """By how much pieces take longer beside a busy other unit, at least 1: `busy` of a profile's section, and what `exposed` says of them."""
    least = busy.get("compute", 1.0)
    return least + (max(least, busy.get("memory", 1.0)) - least) * waiting


def busy_of(waiting: Sequence[float], ratios: Sequence[float], most: float) -> dict[str, float]:
    """`busy` as pieces in company show it: what `exposed` says of each, and by how much it took longer than by itself. At least 1, at most `most`;
    empty where no piece says anything of arithmetic.
    """
    x, y = np.asarray(waiting, float), np.asarray(ratios, float)
    if not (x == 0).any():
        return {}
    compute = float(np.clip(np.median(y[x == 0]), 1.0, most))
    most_waiting = float(x.max())
    far = x > most_waiting / 2  # of what waits little, what disturbs it is many times as large as what company costs
    memory = compute + float(np.median((y[far] - compute) / x[far])) if most_waiting > LEAST_TOLD else compute
    return {"compute": compute, "memory": float(np.clip(memory, compute, most))}
