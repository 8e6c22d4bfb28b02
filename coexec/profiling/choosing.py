"""Which samples to time next: of many that were drawn, those that tell most of the others.

A kernel's timings tell of pieces whose sizes are near theirs. Samples are drawn as networks have them, so what a timing is worth is told by the
drawn ones that lie near it, and of which less was known before: a greedy choice of what covers them (facility location). What lies far from
everything is worth little, though nothing is known of it, for networks hardly have it. (How badly a kernel is predicted does not say what more
timings are worth: of those whose timings repeat badly, more would be timed for nothing.)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ..cost.geometry import Facts, bounds
from ..cost.kernels import cases
from ..graph.ir import Node
from .sampler import Sample
from .table import Measurement, piece_of

#: Sizes so many times as large are half known: the scale of nearness, as a logarithm.
REACH = float(np.log(1.6))
#: Of how many of the pieces drawn last of a kernel it is told how much is known.
DRAWN = 400

#: A kernel of a unit.
Key = tuple[str, str]


class Choosing:
    """Keeps what was timed and what was drawn, by unit and kernel, as logarithms of sizes.

    facts: of each unit, what decides how its kernels cut their work.
    """

    def __init__(self, facts: Mapping[str, Facts]):
        self.facts = facts
        self._known: dict[Key, list[np.ndarray]] = {}
        self._drawn: dict[Key, np.ndarray] = {}
        #: Of each piece drawn, how far the nearest is that was timed, in steps of REACH.
        self._far: dict[Key, np.ndarray] = {}
        self._times_drawn: dict[Key, int] = {}
        self._compiled: set[Hashable] = set()
        self._seen = 0

    def learn(self, rows: Sequence[Measurement]) -> None:
        """Takes over the rows that were added since the last time."""
        fresh, self._seen = [r for r in rows[self._seen:] if not r.busy_other], len(rows)
        for unit in self.facts:
            mine = [r for r in fresh if r.unit == unit]
            pieces = [piece_of(r) for r in mine]
            for at, key, sizes, tile in self._sizes(unit, pieces):
                self._known.setdefault(key, []).append(sizes)
                self._compiled.add((*key, tile, *_variant(pieces[at][0])))
                if key in self._drawn:
                    self._far[key] = np.minimum(self._far[key], _apart(self._drawn[key], sizes))

    def best(self, several: Sequence[Sequence[Sample]], only_compiled: bool = False) -> list[Sample]:
        """Of each of several candidates that which tells most of all that were drawn, those chosen before taken as known.

        only_compiled: of those whose kernels were timed before, at whatever sizes; none where there is no such candidate.
        """
        candidates = [sample for some in several for sample in some]
        sizes_of: list[dict[Key, np.ndarray]] = [{} for _ in candidates]
        compiled = [True] * len(candidates)
        for unit in self.facts:
            for at, key, sizes, tile in self._sizes(unit, [(s.node, s.region) for s in candidates]):
                sizes_of[at][key] = sizes
                compiled[at] &= (*key, tile, *_variant(candidates[at].node)) in self._compiled
        self._draw(sizes_of)
        far, chosen, begin = dict(self._far), [], 0
        for some in several:
            here = [at for at in range(begin, begin + len(some)) if compiled[at] or not only_compiled]
            begin += len(some)
            if not here:
                continue
            taken = max(here, key=lambda at: sum(self._told(key, sizes, far[key]) for key, sizes in sizes_of[at].items()))
            chosen.append(candidates[taken])
            for key, sizes in sizes_of[taken].items():
                far[key] = np.minimum(far[key], _apart(self._drawn[key], sizes))
        return chosen

    def _told(self, key: Key, sizes: np.ndarray, far: np.ndarray) -> float:
        """Of how many of the pieces drawn of a kernel would be known what is not, if one of those sizes were timed."""
        return float(np.mean(0.5 ** np.minimum(far, _apart(self._drawn[key], sizes)) - 0.5 ** far)) * self._times_drawn[key]

    def _draw(self, sizes_of: Sequence[Mapping[Key, np.ndarray]]) -> None:
        """Adds to the pieces drawn; the oldest are forgotten."""
        fresh: dict[Key, list[np.ndarray]] = {}
        for mine in sizes_of:
            for key, sizes in mine.items():
                fresh.setdefault(key, []).append(sizes)
        for key, rows in fresh.items():
            new, nearest = np.stack(rows), np.full(len(rows), np.inf)
            if key in self._known:
                known = self._known[key] = [np.concatenate([np.atleast_2d(v) for v in self._known[key]])]  # one array from now on
                for at, sizes in enumerate(new):
                    nearest[at] = _apart(known[0], sizes).min()
            self._times_drawn[key] = self._times_drawn.get(key, 0) + len(new)
            before = key in self._drawn
            self._drawn[key] = np.concatenate([self._drawn[key], new])[-DRAWN:] if before else new[-DRAWN:]
            self._far[key] = np.concatenate([self._far[key], nearest])[-DRAWN:] if before else nearest[-DRAWN:]

    def _sizes(self, unit: str, pieces: Sequence[tuple]) -> list[tuple[int, Key, np.ndarray, float]]:
        """Which piece, unit and kernel, logarithms of its sizes, how many numbers its tile has (0: no tile is compiled for it)."""
        found = []
        for case in cases([(node, [bounds([region], len(region))]) for node, region in pieces], unit, self.facts[unit]):
            table = np.log(np.maximum(np.stack([np.broadcast_to(v, case.at.shape) for v in case.sizes.values()], axis=1), 0.5))
            tiles = np.broadcast_to(case.sizes.get("tile", 0.0), case.at.shape).tolist()
            found += [(at, (unit, case.kernel), sizes, tile) for at, sizes, tile in zip(case.at.tolist(), table, tiles)]
        return found


def _apart(many: np.ndarray, one: np.ndarray) -> np.ndarray:
    """How far each of many sizes is from one, in steps of REACH."""
    return np.linalg.norm(many - one, axis=1) / REACH


def _variant(node: Node) -> tuple[Hashable, ...]:
    """What a kernel is compiled for beside what its name says."""
    return node.qualified_type, node.residual, node.activation.kind if node.activation else None
