"""How well shapes that a fit never saw are predicted, beside how well timings repeat."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .fit import fits, of_coexec, steadied
from .section import design, lines
from .table import Measurement

#: Given rows seen and rows asked for, of one processor: microseconds of the latter, NaN where it cannot say.
Predict = Callable[[Sequence[Measurement], Sequence[Measurement]], np.ndarray]


def held_out_accuracy(rows: Sequence[Measurement], folds: int = 5, predict: Predict | None = None) -> dict[str, dict[str, Any]]:
    """Per unit, how well rows are predicted by fits that saw no row of the same shape: keys as in `evaluate`.

    Shapes are dealt to folds by their hash, so the same table always gives the same answer, and so do other ways to `predict`
    (default: a profile's own) on the same folds. Every processor of the table (device, threads, element type) is judged by itself;
    rows of kernels and families with too few others are not counted.
    """
    report = {}
    for unit in ("cpu", "gpu"):
        mine = [r for r in rows if r.unit == unit and not r.busy_other]
        if not mine:
            continue
        errors: list[float] = []
        for members in processors(mine):
            fold = np.array([zlib.crc32(repr(r.shape_key).encode()) % folds for r in members])
            for held in range(folds):
                seen, asked = ([r for r, f in zip(members, fold) if bool(f == held) is wanted] for wanted in (False, True))
                if seen and asked:  # what is judged teaches nothing, not even of moments
                    steady = steadied(seen)
                    seen, asked = steady.rows, steady.others(asked)
                    us = (predict or _own)(seen, asked)
                    errors += [float(found / r.latency_us - 1) for found, r in zip(us, asked) if np.isfinite(found)]
        report[unit] = accuracy(errors, noise_floor([r for members in processors(mine) for r in steadied(members).rows]))
    return report


def _own(seen: Sequence[Measurement], asked: Sequence[Measurement]) -> np.ndarray:
    """As a profile fitted to the rows seen predicts: by kernel, else by family."""
    families, X, y = design(seen)
    theirs, Z, _ = design(asked)
    models, us = lines(families, X, y), fits(seen).predict(asked)
    for i, found in enumerate(us):
        if np.isnan(found) and theirs[i] in models:
            us[i] = models[theirs[i]].predict(Z[i:i + 1])[0]
    return us


def processors(rows: Sequence[Measurement]) -> list[list[Measurement]]:
    """Rows of one unit by what was timed: device, threads, element type; kernels that others wrote apart where shapes have several."""
    found: dict[tuple, list[Measurement]] = defaultdict(list)
    ways: dict[tuple, set[str]] = defaultdict(set)
    own = of_coexec(rows)
    for r in rows:
        ways[r.device, r.threads, r.dtype, r.shape_key].add(r.implementation)
    several = {key[:3] for key, names in ways.items() if len(names) > 1 and not own}
    for r in rows:
        key = (r.device, r.threads, "" if own else r.dtype)  # of its own kernels, coexec tells types apart by name
        found[(*key, r.implementation) if key in several else key].append(r)
    return list(found.values())


def accuracy(errors: Sequence[float], floor: float | None) -> dict[str, Any]:
    """Shares within 5, 10 and 15 percent, and the mean absolute percentage error; None where there is nothing to judge."""
    size = np.abs(np.asarray(errors, float))
    within = {f"within_{p}pct": round(float((size <= p / 100).mean()), 4) if len(size) else None for p in (5, 10, 15)}
    return {"count": len(size), **within, "mape": round(float(size.mean() * 100), 2) if len(size) else None,
            "noise_floor_within_10pct": floor}


def noise_floor(rows: Sequence[Measurement]) -> float | None:
    """How often a measurement falls within 10 % of the median of all those of the same kernel; None where none was repeated."""
    groups: dict[tuple, list[float]] = defaultdict(list)
    for r in rows:
        groups[(r.device, r.threads, r.implementation, r.piece_key)].append(r.latency_us)
    near = [abs(v / np.median(g) - 1) <= 0.1 for g in groups.values() if len(g) > 1 for v in g]
    return round(float(np.mean(near)), 4) if near else None
