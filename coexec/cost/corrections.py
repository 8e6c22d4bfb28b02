"""What runs of a plan said about its predictions: how much longer each node really took on each unit, in that company.

A fit knows a kernel by itself. Beside the other unit, with what was in the caches, a piece takes another time, and the ratio is much
the same for near cuts of the same node: a plan made with the ratios seen is a better one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

#: Ratios beyond this are no property of a kernel but something that happened to a run; a device in trouble goes further.
MOST_RATIO, MOST_DRIFT = 8.0, 100.0


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
    between pieces. alone: the ratio of plans that leave the GPU alone, whose pieces no run of another plan shows.
    """

    ratios: Mapping[tuple[str, str], float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    between: Between = field(default_factory=lambda: Between())
    alone: float = 1.0

    def of(self, node: str, unit: str) -> float:
        """By what the fit's answer is multiplied."""
        return self.ratios.get((node, unit), self.usual.get(unit, 1.0))

    def seen(self, ratios: Mapping[tuple[str, str], float], between: Between | None = None, most: float = MOST_RATIO) -> Corrections:
        """With what another run showed: a ratio between the one known before and the new one, so that noise does not swing the plan."""
        kept = dict(self.ratios)
        for key, ratio in ratios.items():
            ratio = min(most, max(1 / most, ratio))
            kept[key] = (kept[key] * ratio) ** 0.5 if key in kept else ratio
        usual = {unit: statistics.median(r for (_, u), r in kept.items() if u == unit) for unit in {u for _, u in kept}}
        return Corrections(kept, usual, between or self.between, self.alone)

    def replaced(self, ratios: Mapping[tuple[str, str], float], between: Between) -> Corrections:
        """With what runs show now, in place of what runs showed of the same units before; of other units that stays known."""
        now = Corrections(between=between, alone=self.alone).seen(ratios, most=MOST_DRIFT)
        units = {unit for _, unit in ratios}
        return replace(now, ratios={**{k: r for k, r in self.ratios.items() if k[1] not in units}, **now.ratios}, usual={**self.usual, **now.usual})

    def scaled(self, unit: str, factor: float) -> Corrections:
        """With every ratio of that unit times a factor."""
        return replace(self, ratios={k: r * factor if k[1] == unit else r for k, r in self.ratios.items()},
                       usual={u: r * factor if u == unit else r for u, r in self.usual.items()})
