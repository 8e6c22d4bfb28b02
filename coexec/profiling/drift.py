"""Drift: how much longer kernels take while a processor is slower than in its good moments, as its reference kernels tell.

    log(us) = log(us in a good moment) + sum over the references of exponent * log(ns of the reference / its ns in a good moment)

Kernels that compute follow the reference that computes, those that move memory the one that stores; how closely is learnt from the timings
themselves: from what they are off a fit that does not know of moments. Clocks, and what neighbours take of caches and cores, change by a
third within minutes on a shared machine, and by as much on a phone that grows hot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .steady import FACTS
from .table import Measurement

BOUNDS = ("compute", "memory")
#: What the exponents are taken to be (of the references in their order) until timings say otherwise, and how many timings that counts as much as.
USUAL = {"compute": (0.25, 0.6), "memory": (0.4, 0.3)}
COUNTS, MOST = 40.0, 1.2
#: The share of the readings that are better than a good moment's.
GOOD = 0.05
#: A timing further off than this (as a logarithm) says nothing of moments.
FAR = 0.4


def facts_of_drift(exponents: Mapping[str, Sequence[float]], good_ns: Sequence[float]) -> dict[str, float]:
    """As a profile keeps it: `reference_*_ns` of a good moment and `drift_<bound>_<reference>`; references that were not read left out."""
    found = {name: float(f"{ns:.5g}") for name, ns in zip(FACTS, good_ns) if np.isfinite(ns)}
    return found | {_fact(bound, name): float(f"{e:.3g}") for bound, mine in exponents.items() for name, e in zip(FACTS, mine) if name in found}


def _fact(bound: str, reference: str) -> str:
    return f"drift_{bound}_{reference.removeprefix('reference_').removesuffix('_ns')}"


def slowness(facts: Mapping[str, float], bound: str, reference_ns: Mapping[str, float | None]) -> float:
    """By what factor a kernel takes longer in a moment than in a good one. reference_ns: by name of `steady.FACTS`; 1 where nothing is known."""
    factor = 1.0
    for name in FACTS:
        now, good, exponent = reference_ns.get(name), facts.get(name), facts.get(_fact(bound, name))
        if now and good and exponent:
            factor *= (now / good) ** exponent
    return factor


def readings(rows: Sequence[Measurement]) -> np.ndarray:
    """float64 (rows, references): nanoseconds of the references beside each timing, NaN where there were none."""
    return np.array([[np.nan if (v := getattr(r, name)) is None else v for name in FACTS] for r in rows], float).reshape(len(rows), len(FACTS))


def good_readings(told: np.ndarray) -> np.ndarray:
    """What each reference takes in a good moment; NaN where it was never read."""
    return np.array([np.quantile(column[np.isfinite(column)], GOOD) if np.isfinite(column).any() else np.nan for column in told.T])


def learnt(off: np.ndarray, told: np.ndarray, good: np.ndarray, bound: np.ndarray) -> dict[str, tuple[float, ...]]:
    """The exponents of each bound. off: logarithms of timings by what a fit says, NaN where it says nothing; told: their `readings`."""
    moment = np.nan_to_num(np.log(told / good), nan=0.0)
    found = {}
    for name in BOUNDS:
        mine = (bound == name) & np.isfinite(off)
        X, y, usual = moment[mine], off[mine], np.array(USUAL[name])
        spread = float(np.square(X).mean()) if len(X) else 1.0
        held = COUNTS * spread * np.eye(len(FACTS))
        exponents = usual
        for _ in range(3):
            level = np.median(y - X @ exponents) if len(y) else 0.0
            near = np.abs(y - level - X @ exponents) < FAR
            A, b = X[near] - 0.0, y[near] - level
            exponents = np.clip(np.linalg.solve(A.T @ A + held + 1e-12 * np.eye(len(FACTS)), A.T @ b + held @ usual), 0.0, MOST)
        found[name] = tuple(exponents.tolist())
    return found


def at_good_moments(rows: Sequence[Measurement], bound: Sequence[str], facts: Mapping[str, float]) -> list[Measurement]:
    """The same timings as they would have been in good moments; without readings, for they are no longer those of any moment."""
    found = []
    for row, name in zip(rows, bound):
        factor = slowness(facts, name, {reference: getattr(row, reference) for reference in FACTS})
        found.append(replace(row, latency_us=row.latency_us / factor, **dict.fromkeys(FACTS)))
    return found
