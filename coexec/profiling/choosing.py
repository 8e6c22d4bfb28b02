"""Which samples to time next: of many that were drawn, those of which least is known.

A kernel's timings tell of pieces whose sizes are near theirs, so what one more is worth is how far it is from them. (How badly a kernel is
predicted does not say it: of those whose timings repeat badly, more would be timed for nothing.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ..cost.geometry import Facts, bounds
from ..cost.kernels import cases
from ..graph.ir import Node
from .sampler import Sample
from .table import Measurement, piece_of

#: Sizes so many times as large are half known: the scale of nearness, as a logarithm.
REACH = float(np.log(1.6))


class Choosing:
    """Keeps what was timed, by unit and kernel, as logarithms of sizes.

    facts: of each unit, what decides how its kernels cut their work.
    """

    def __init__(self, facts: Mapping[str, Facts]):
        self.facts = facts
        self._known: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        self._compiled: set[Hashable] = set()
        self._seen = 0

    def learn(self, rows: Sequence[Measurement]) -> None:
        """Takes over the rows that were added since the last time."""
        fresh, self._seen = [r for r in rows[self._seen:] if not r.busy_other], len(rows)
        for unit in self.facts:
            mine = [r for r in fresh if r.unit == unit]
            pieces = [piece_of(r) for r in mine]
            for at, key, sizes, tile in self._sizes(unit, pieces):
                self._known[key].append(sizes)
                self._compiled.add((*key, tile, *_variant(pieces[at][0])))

    def best(self, several: Sequence[Sequence[Sample]], only_compiled: bool = False) -> list[Sample]:
        """Of each of several candidates that of which least is known, those chosen before taken as known.

        only_compiled: of those whose kernels were timed before, at whatever sizes; none where there is no such candidate.
        """
        candidates = [sample for some in several for sample in some]
        keys: list[dict[tuple[str, str], np.ndarray]] = [{} for _ in candidates]
        compiled = [True] * len(candidates)
        for unit in self.facts:
            for at, key, sizes, tile in self._sizes(unit, [(s.node, s.region) for s in candidates]):
                keys[at][key] = sizes
                compiled[at] &= (*key, tile, *_variant(candidates[at].node)) in self._compiled
        far = [{key: self._distance(key, sizes) for key, sizes in mine.items()} for mine in keys]
        chosen, begin = [], 0
        for some in several:
            worth = [sum(1 - 0.5 ** d for d in far[at].values()) if compiled[at] or not only_compiled else -1.0
                     for at in range(begin, begin + len(some))]
            taken = begin + int(np.argmax(worth))
            begin += len(some)
            if max(worth) < 0:
                continue
            chosen.append(candidates[taken])
            for key, sizes in keys[taken].items():
                for other, mine in zip(keys[begin:], far[begin:]):
                    if key in mine:
                        mine[key] = min(mine[key], float(np.linalg.norm(other[key] - sizes)) / REACH)
        return chosen

    def _distance(self, key: tuple[str, str], sizes: np.ndarray) -> float:
        if key not in self._known:
            return np.inf
        if len(self._known[key]) > 1:  # one array from now on
            self._known[key] = [np.concatenate([np.atleast_2d(v) for v in self._known[key]])]
        return float(np.linalg.norm(np.atleast_2d(self._known[key][0]) - sizes, axis=1).min()) / REACH

    def _sizes(self, unit: str, pieces: Sequence[tuple]) -> list[tuple[int, tuple[str, str], np.ndarray, float]]:
        """Which piece, unit and kernel, logarithms of its sizes, how many numbers its tile has (0: no tile is compiled for it)."""
        found = []
        for case in cases([(node, [bounds([region], len(region))]) for node, region in pieces], unit, self.facts[unit]):
            table = np.log(np.maximum(np.stack([np.broadcast_to(v, case.at.shape) for v in case.sizes.values()], axis=1), 0.5))
            tiles = np.broadcast_to(case.sizes.get("tile", 0.0), case.at.shape).tolist()
            found += [(at, (unit, case.kernel), sizes, tile) for at, sizes, tile in zip(case.at.tolist(), table, tiles)]
        return found


def _variant(node: Node) -> tuple[Hashable, ...]:
    """What a kernel is compiled for beside what its name says."""
    return node.qualified_type, node.residual, node.activation.kind if node.activation else None
