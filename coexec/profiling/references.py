"""Reference kernels: small, always the same, their times tell what moment it is. What they took is kept with every timing (`rounds.py` runs them).

Clocks drift, and what else runs takes a share of caches and cores: `drift.py` learns how kernels follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The columns and facts that say what the reference kernels took, in their order.
FACTS = ("reference_far_ns", "reference_store_ns", "reference_compute_ns")


def named(reference_ns: Sequence[float]) -> dict[str, float]:
    """What the reference kernels took, by their names. One that no clock told is left out."""
    return {name: float(f"{ns:.5g}") for name, ns in zip(FACTS, reference_ns) if math.isfinite(ns)}
