"""What runs of a plan said about its predictions: how much longer each node really took on each unit, in that company.

A fit knows a kernel by itself. Beside the other unit, with what was in the caches, a piece takes another time, and the ratio is much
the same for near cuts of the same node: a plan made with the ratios seen is a better one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Ratios beyond this are no property of a kernel but something that happened to a run.
MOST_RATIO = 8.0


@dataclass(frozen=True)
class Between:
    """Microseconds between pieces as runs showed them; None where they did not.

    launch_us: of the host, for starting a GPU piece. begin_us: from then until an idle GPU begins. sync_us, ready_us: from the end of a
    piece until the host that waits for it goes on, and what such a wait takes where the piece has ended before.
    """

    launch_us: float | None = None
    begin_us: float | None = None
    sync_us: float | None = None
    ready_us: float | None = None


@dataclass(frozen=True)
class Corrections:
    """Measured over predicted time by (node, unit), the usual ratio of a unit for nodes that were not seen there, and what runs lose
    between pieces.
    """

    ratios: Mapping[tuple[str, str], float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    between: Between = field(default_factory=lambda: Between())

    def of(self, node: str, unit: str) -> float:
        """By what the fit's answer is multiplied."""
        return self.ratios.get((node, unit), self.usual.get(unit, 1.0))

    def seen(self, ratios: Mapping[tuple[str, str], float], between: Between | None = None) -> Corrections:
        """With what another run showed: a ratio between the one known before and the new one, so that noise does not swing the plan."""
        kept = dict(self.ratios)
        for key, ratio in ratios.items():
            ratio = min(MOST_RATIO, max(1 / MOST_RATIO, ratio))
            kept[key] = (kept[key] * ratio) ** 0.5 if key in kept else ratio
        usual = {unit: statistics.median(r for (_, u), r in kept.items() if u == unit) for unit in {u for _, u in kept}}
        return Corrections(kept, usual, between or self.between)
