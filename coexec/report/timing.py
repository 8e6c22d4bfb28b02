"""Times of several ways to do the same thing, taken in turns so that a noisy moment hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def interleave(
    runners: Mapping[str, Callable[[], object]], warmup: int, rounds: int, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, list[float]]:
    """Milliseconds per call: each round calls every runner once, in `orders` that let each come after every other as often as not."""
    names = list(runners)
    for name in names:
        for _ in range(warmup):
            runners[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    turns = orders(len(names))
    for turn in range(rounds):
        for name in (names[i] for i in turns[turn % len(turns)]):
            started = time.perf_counter()
            runners[name]()
            times[name].append((time.perf_counter() - started) * 1e3)
        if progress is not None:
            progress(turn + 1, rounds, "")
    return times


def orders(count: int) -> list[list[int]]:
    """Orders of 0 ... count - 1 to be taken in turn: in all of them together each comes at every place equally often, and straight after every
    other equally often, so that what one leaves behind (caches, a sleeping thread, heat) is not always the same other's burden.

    These are Williams' designs: 0, 1, n - 1, 2, n - 2 ... and the same moved by one, two ...; for odd counts, also all of them backwards.
    """
    first = [(i + 1) // 2 if i % 2 else (count - i // 2) % count for i in range(count)]
    rows = [[(i + by) % count for i in first] for by in range(count)] or [[]]
    return rows + [row[::-1] for row in rows] if count % 2 and count > 1 else rows


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed, interpolated between neighbours; `values` is not empty."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def summary(times_ms: Sequence[float], percents: Sequence[float] = (50, 90, 99)) -> dict[str, float]:
    """`p50_ms` ... `min_ms`, `mean_ms`, `stdev_ms` and `count` of some times."""
    figures = {f"p{p:g}_ms": percentile(times_ms, p) for p in percents}
    return figures | {
        "min_ms": min(times_ms),
        "mean_ms": statistics.fmean(times_ms),
        "stdev_ms": statistics.stdev(times_ms) if len(times_ms) > 1 else 0.0,
        "count": len(times_ms),
    }


def ideal(cpu_ms: float, gpu_ms: float) -> float:
    """The bound of co-execution: both at full speed, a cut that is exact, and no sharing."""
    return 1 / (1 / cpu_ms + 1 / gpu_ms)
