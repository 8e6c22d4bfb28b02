"""Case: what a rule says of pieces of one kernel. And what several rules ask: strips, tiles, levels of the caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .geometry import Array, Facts, up

M, K = 1e-6, 1e-3
#: A CPU piece of less than both stays on one thread.
SPLIT_FLOPS, SPLIT_BYTES = 1_000_000, 256 << 10


class Case(NamedTuple):
    """Pieces of one kernel. `at`: which of the pieces asked for; terms, sizes: arrays of one entry for each of them. far_mb: millions of bytes that
    each has from memory whatever ran before it: weights, and activations too large for the caches.
    """

    kernel: str
    at: Array
    terms: dict[str, Array]
    sizes: dict[str, Array]
    far_mb: Array | float = 0.0


def joined_cases(several: Sequence[Case]) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Which pieces, and their features and sizes, of several Cases of one kernel; features that one does not have are 0."""
    if len(several) == 1:
        return several[0].at, several[0].terms, several[0].sizes

    def column(told: Sequence[dict[str, Array]], name: str) -> Array:
        return np.concatenate([np.asarray(t[name], float) if name in t else np.zeros(len(c.at)) for c, t in zip(several, told)])

    both = [c.terms for c in several], [c.sizes for c in several]
    terms, sizes = ({name: column(told, name) for name in dict.fromkeys(n for t in told for n in t)} for told in both)
    return np.concatenate([c.at for c in several]), terms, sizes


def pick(case: Case, keep: Array) -> Case | None:
    """Those of a Case's pieces, a mask; None where there are none."""
    at = np.flatnonzero(keep)
    if not len(at):
        return None
    every = len(at) == len(keep)

    def picked(told: dict[str, Array]) -> dict[str, Array]:
        whole = {k: v if np.shape(v) == keep.shape else np.broadcast_to(v, keep.shape) for k, v in told.items()}
        return whole if every else {k: v[at] for k, v in whole.items()}

    return Case(case.kernel, at, picked(case.terms), picked(case.sizes))


def strips_of(columns: Array, lanes: int) -> tuple[Array, Array, Array, Array]:
    """How many strips of three, two and one vectors, and the columns of the last vector: two strips of two replace one of three and one."""
    vectors = up(columns, lanes)
    s1 = (vectors == 1) * 1
    s2 = np.where(vectors % 3 == 2, 1, np.where((vectors % 3 == 1) & (vectors > 1), 2, 0))
    return (vectors - s1 - 2 * s2) // 3, s2, s1, columns % lanes


def last_strip(columns: Array, lanes: int) -> Array:
    """Columns of the last strip where it is not whole vectors (it is copied element by element), else 0."""
    vectors = up(columns, lanes)
    last = np.where(vectors % 3 == 0, 3, np.where((vectors % 3 == 1) & (vectors > 1), 2, vectors % 3))
    return np.where(columns % lanes == 0, 0, columns - (vectors - last) * lanes)


def row_tiles(rows: Array, tile: int) -> tuple[Array, Array]:
    """Whole tiles of rows (what is more than half of one too), and the weight of the smaller tile that is left."""
    left = rows % tile
    return rows // tile + (left > tile // 2), np.where(left == 1, 0.3, np.where((left > 1) & (left <= tile // 2), 0.6, 0.0))


def level_of(nbytes: Array, facts: Facts) -> Array:
    """0 where it stays in the first-level cache beside other data, 1 in the second, 2 beyond."""
    return (nbytes > 0.6 * facts.l1_bytes) * 1 + (nbytes > 0.7 * facts.l2_bytes)


def beyond(nbytes: Array, facts: Facts, times: float = 0.5) -> Array:
    """Millions of bytes that are more than so many times the second-level cache: that part is not in it."""
    return np.maximum(0.0, nbytes - times * facts.l2_bytes) * M


def lanes_up(n: Array, lanes: int) -> Array:
    """n, rounded up to whole vectors."""
    return up(n, lanes) * lanes
