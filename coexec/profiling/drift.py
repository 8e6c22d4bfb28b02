"""Drift: by what factor kernels take longer in a moment than in a processor's usual ones, as its reference kernels tell.

    log(us) = log(us in a usual moment) + sum over the references of exponent * log(ns of the reference / its ns in a usual moment)

Kernels that compute follow the reference that computes, those that move memory the one that stores, and both the one that reads what no cache of
a core holds. How closely is learnt from the timings themselves: from what they are off a fit that does not know of moments; and then, by kernel, a
power of that, for some follow more closely than others of their kind. Clocks, and what neighbours take of caches and cores, change within minutes
on a shared machine, and on a phone that grows hot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..cost.kernels import BOUNDS, bound_by
from ..profiles import UnitProfile
from .references import FACTS
from .table import Measurement

#: What the exponents are taken to be (of the references in their order) until timings say otherwise, and how many timings that counts as much as.
EXPECTED = {"compute": (0.1, 0.2, 0.55), "memory": (0.2, 0.3, 0.25)}
COUNTS, MOST, MOST_POWER = 40.0, 1.2, 2.0
#: The share of the readings that are better than a usual moment's. What good moments would be like is further from what most timings, and later
#: runs, were made in: with the exponents, what they are wrong by counts for more.
USUAL = 0.5
#: A timing further off than this (as a logarithm) says nothing of moments.
FAR = 0.4


def facts_of_drift(exponents: Mapping[str, Sequence[float]], usual_ns: Sequence[float]) -> dict[str, float]:
    """As a profile keeps it: `reference_*_ns` of a usual moment and `drift_<bound>_<reference>`; references that were not read left out."""
    found = {name: float(f"{ns:.5g}") for name, ns in zip(FACTS, usual_ns) if np.isfinite(ns)}
    return found | {_fact(bound, name): float(f"{e:.3g}") for bound, mine in exponents.items() for name, e in zip(FACTS, mine) if name in found}


def _fact(bound: str, reference: str) -> str:
    return f"drift_{bound}_{reference.removeprefix('reference_').removesuffix('_ns')}"


def slowness(section: UnitProfile, kernel: str, reference_ns: Mapping[str, float | None]) -> float:
    """By what factor a kernel takes longer in a moment than in a usual one. reference_ns: by name of `references.FACTS`; 1 where nothing is known."""
    known = section.latency.get(kernel)
    return _slowness(section.facts, bound_by(kernel), reference_ns) ** (1.0 if known is None or known.drift is None else known.drift)


def _slowness(facts: Mapping[str, float], bound: str, reference_ns: Mapping[str, float | None]) -> float:
    factor = 1.0
    for name in FACTS:
        now, usual, exponent = reference_ns.get(name), facts.get(name), facts.get(_fact(bound, name))
        if now and usual and exponent:
            factor *= (now / usual) ** exponent
    return factor


def readings(rows: Sequence[Measurement]) -> np.ndarray:
    """float64 (rows, references): nanoseconds of the references beside each timing, NaN where there were none."""
    return np.array([[np.nan if (v := getattr(r, name)) is None else v for name in FACTS] for r in rows], float).reshape(len(rows), len(FACTS))


def usual_readings(told: np.ndarray) -> np.ndarray:
    """What each reference takes in a usual moment; NaN where it was never read."""
    return np.array([np.quantile(column[np.isfinite(column)], USUAL) if np.isfinite(column).any() else np.nan for column in told.T])


def learnt(off: np.ndarray, told: np.ndarray, usual: np.ndarray, bound: np.ndarray) -> dict[str, tuple[float, ...]]:
    """The exponents of each bound. off: logarithms of timings by what a fit says, NaN where it says nothing; told: their `readings`."""
    moment = np.nan_to_num(np.log(told / usual), nan=0.0)
    found = {}
    for name in BOUNDS:
        mine = (bound == name) & np.isfinite(off)
        X, y, expected = moment[mine], off[mine], np.array(EXPECTED[name])
        spread = float(X.var(axis=0).mean()) if len(X) else 1.0
        held = COUNTS * spread * np.eye(len(FACTS))
        exponents = expected
        for _ in range(3):
            left = y - X @ exponents
            near = np.abs(left - (np.median(left) if len(y) else 0.0)) < FAR
            A, b = (v[near] - v[near].mean(axis=0) if near.any() else v[near] for v in (X, y))  # what a fit is off in all moments alike is not theirs
            exponents = np.clip(np.linalg.solve(A.T @ A + held + 1e-12 * np.eye(len(FACTS)), A.T @ b + held @ expected), 0.0, MOST)
        found[name] = tuple(exponents.tolist())
    return found


def powers(off: np.ndarray, slow: np.ndarray, kernels: np.ndarray) -> dict[str, float]:
    """How closely each kernel follows: by the power of what its bound says it takes longer (slow) that explains best what it is off."""
    found = {}
    for name in np.unique(kernels[np.isfinite(off)]):
        mine = (kernels == name) & np.isfinite(off)
        x, y = np.log(slow[mine]), off[mine]
        held, power = COUNTS * float(x.var()), 1.0
        for _ in range(3):
            left = y - power * x
            near = np.abs(left - np.median(left)) < FAR
            a, b = x[near] - x[near].mean(), y[near] - y[near].mean()
            power = float(np.clip((a @ b + held) / max(a @ a + held, 1e-12), 0.0, MOST_POWER))
        found[str(name)] = float(f"{power:.3g}")
    return found


def slow_moments(told: np.ndarray, kernels: Sequence[str], facts: Mapping[str, float]) -> np.ndarray:
    """By what factor each timing took longer than in a usual moment, as its kernel's bound says. told: their `readings`."""
    names, which = np.unique(np.asarray(kernels, str), return_inverse=True)
    exponents = np.array([[facts.get(_fact(bound_by(name), reference), 0.0) for reference in FACTS] for name in names]).reshape(-1, len(FACTS))
    slower = np.log(told / [facts.get(reference, np.nan) for reference in FACTS])
    return np.exp((np.nan_to_num(slower) * exponents[which]).sum(axis=1))


def at_usual_moments(rows: Sequence[Measurement], factors: Sequence[float]) -> list[Measurement]:
    """The same timings as they would have been in usual moments; without readings, for they are no longer those of any moment."""
    made = []
    for row, factor in zip(rows, factors):  # there are ten thousands of them: `dataclasses.replace` would take a good part of a fit
        made.append(object.__new__(Measurement))
        made[-1].__dict__.update(row.__dict__, latency_us=row.latency_us / float(factor), **dict.fromkeys(FACTS))
    return made
