"""Reference kernels: small, always the same, their times tell what moment it is. What they took is kept with every timing (`rounds.py` runs them).

Clocks drift, and what else runs takes a share of caches and cores: `drift.py` learns how kernels follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The columns and facts that say what the reference kernels took, in their order; of a team's, the last alone.
FACTS = ("reference_far_ns", "reference_store_ns", "reference_compute_ns")


def count_of(threads: int) -> int:
    """How many reference kernels tell the moment of so many threads."""
    return 1 if threads > 1 else len(FACTS)


def named(reference_ns: Sequence[float]) -> dict[str, float]:
    """What the reference kernels took, by their names; of a team's, the last alone. One that no clock told is left out."""
    known = zip(FACTS[-len(reference_ns):], reference_ns) if reference_ns else ()
    return {name: float(f"{ns:.5g}") for name, ns in known if math.isfinite(ns)}
