"""From measurements to latencies: a fit of every kernel that was timed, with what moments did taken off."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg.lapack  # noqa: F401  (now, not when a fit needs it: a BLAS that comes while others are held to one thread is not)

from ..cost import shapes
from ..cost.cases import Case, joined_cases
from ..cost.geometry import Facts, bounds
from ..cost.kernels import bound_by, cases, kin
from ..cost.model import LEAST_SAMPLES, MOST_CENTRES, KernelModel, ShapeModel, costs_of_kin, quick_costs
from ..devices.cpu.blas import held_to_one
from ..profiles import Latency
from .drift import EXPECTED, at_usual_moments, facts_of_drift, learnt, powers, readings, slow_moments, usual_readings
from .table import Measurement, node_of, piece_of

#: How often what kernels take in a usual moment, and how they follow the reference kernels, are told from one another.
ROUNDS_OF_DRIFT = 3


def fits(rows: Sequence[Measurement], facts: Mapping[str, float] | None = None, table: Table | None = None) -> KernelFits:
    """The fit of every kernel: by what is known of coexec's own, by shapes alone of kernels that others wrote."""
    return (KernelFits if of_coexec(rows) else ShapeFits)(rows, facts_of_rows(rows, facts), table=table)


#: How coexec names its kernels: the element type, the operator, how.
_OWN = re.compile(r"(f16|f32|f64|[biu]\d+|float\d+|u?int\d+|bool)_[a-z0-9_]+(\+.*)?")


def of_coexec(rows: Sequence[Measurement]) -> bool:
    """Whether coexec's kernels were timed: most convolutions and products have names like `f32_conv_panel_8x48`."""
    heavy = [r for r in rows if r.op_type in ("Conv", "Gemm", "MatMul")]
    return 2 * sum(bool(_OWN.fullmatch(r.implementation)) for r in heavy) >= len(heavy)


#: By kernel: which rows, and their features and sizes.
Table = dict[str, tuple[list[int], dict[str, np.ndarray], dict[str, np.ndarray]]]


class Steadied(NamedTuple):
    """Rows as they would have been in usual moments; the facts that say so, and by kernel how closely it follows: nothing where no references
    were timed beside the rows.
    """

    rows: list[Measurement]
    facts: dict[str, float]
    powers: dict[str, float]

    def others(self, rows: Sequence[Measurement]) -> list[Measurement]:
        """Other rows of the same processor as they would have been then, by what these have taught."""
        return self._taken_off(rows, _kernel_names(rows, kernels_of(rows, facts_of_rows([*self.rows, *rows])))) if self.facts else list(rows)

    def _taken_off(self, rows: Sequence[Measurement], kernels: np.ndarray) -> list[Measurement]:
        return at_usual_moments(rows, slow_moments(readings(rows), kernels, self.facts) ** [self.powers.get(k, 1.0) for k in kernels])


def _kernel_names(rows: Sequence[Measurement], table: Table) -> np.ndarray:
    names = np.full(len(rows), "", dtype=object)
    for name, (at, _, _) in table.items():
        names[at] = name
    return names


@held_to_one()
def steadied(rows: Sequence[Measurement], facts: Mapping[str, float] | None = None, table: Table | None = None) -> Steadied:
    """Rows of one processor as they would have been in its usual moments. table: their `kernels_of`, where that is known."""
    told = readings(rows)
    if not rows or not np.isfinite(told).any() or not of_coexec(rows):
        return Steadied(list(rows), {}, {})
    table = kernels_of(rows, facts_of_rows(rows, facts)) if table is None else table
    kernels, usual = _kernel_names(rows, table), usual_readings(told)
    bound = np.array([bound_by(k) for k in kernels])
    quiet, clocked = np.array([not r.busy_other for r in rows]), np.array([r.latency_us for r in rows])
    found: dict[str, float] = facts_of_drift(EXPECTED, usual)
    follow: dict[str, float] = {}
    for _ in range(ROUNDS_OF_DRIFT):  # a better fit tells the exponents better, and they the fit
        slow = slow_moments(told, kernels, found)
        us, off = clocked / slow ** [follow.get(k, 1.0) for k in kernels], np.full(len(rows), np.nan)
        for at, terms, _ in table.values():
            here = np.array(at)[quiet[at]]
            if len(here) >= LEAST_SAMPLES:
                X = np.stack(list(terms.values()), axis=1)[quiet[at]]
                off[here] = np.log(clocked[here] / np.maximum(X @ quick_costs(X, us[here]), 1e-3))
        found = facts_of_drift(learnt(off, told, usual, bound), usual)
        follow = powers(off, slow_moments(told, kernels, found), kernels)
    return Steadied(Steadied([], found, follow)._taken_off(rows, kernels), found, follow)


@lru_cache(maxsize=1)
def prior_costs() -> dict[str, Any]:
    """Unit -> kernel -> feature -> microseconds, as one board (`board`) was found to take: `prior_costs.json`, made by tools/prior_costs.py."""
    return json.loads(Path(__file__).with_name("prior_costs.json").read_text())


#: Beginnings of the names of convolutions' and products' kernels. So many of those timed must be known elsewhere, for others to be told by what they
#: cost there.
HEAVY, LEAST_ALIKE = ("conv/", "product/"), 3


#: How many numbers all corrections of a unit may have: a profile must stay small enough to read, however many timings it is made of.
MOST_NUMBERS = 45_000


def centres_each(kernels: Iterable[tuple[int, int]], most: int = MOST_NUMBERS) -> int:
    """How many samples each correction may be made of, so that all of them together have so few numbers. kernels: samples and sizes of each."""
    kernels = list(kernels)
    for each in range(MOST_CENTRES, 1, -1):
        if sum(min(count, each) * (sizes + 1) for count, sizes in kernels) <= most:
            return each
    return 1


class KernelFits:
    """A KernelModel for every kernel with enough rows; `predict` gives the microseconds of other rows, NaN where no model is.

    Rows of the same shape are joined first (their median): what repeats must not look as if it were predicted.
    """

    @held_to_one()  # thousands of small systems: a BLAS that wakes threads for each takes longer, beside other work many times as long
    def __init__(self, rows: Sequence[Measurement], facts: Facts, correct: bool = True, table: Table | None = None):
        """table: `kernels_of(rows, facts)`, where that is known."""
        self.facts = facts
        joined: dict[tuple, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            joined[(row.unit, row.implementation.partition("+")[2], row.piece_key)].append(i)
        first, us = np.zeros(len(rows), bool), np.array([row.latency_us for row in rows])
        for members in joined.values():
            first[members[0]] = True
            if len(members) > 1:
                us[members[0]] = np.median(us[members])
        self.models: dict[str, KernelModel] = {}
        found = {name: only(told, first[told[0]]) for name, told in (kernels_of(rows, facts) if table is None else table).items()}
        groups: dict[str, list[tuple[dict[str, np.ndarray], np.ndarray]]] = defaultdict(list)
        for name, (at, terms, _) in found.items():
            groups[kin(name)].append((terms, us[at]))
        costs = {group: costs_of_kin(members) for group, members in groups.items() if len(members) > 1}
        prior = prior_costs().get(rows[0].unit, {}) if rows else {}
        centres = centres_each((len(at), len(sizes)) for at, _, sizes in found.values())
        for name, (at, terms, sizes) in found.items():
            if len(at) >= LEAST_SAMPLES:
                self.models[name] = KernelModel(correct, centres).fit(terms, sizes, us[at], costs.get(kin(name)), prior.get(name))
        self.models |= self._estimated(prior, {name: (told[1], us[told[0]]) for name, told in found.items()}, frozenset(self.models))

    @staticmethod
    def _estimated(prior: Mapping[str, Mapping[str, float]], timed: Mapping[str, tuple[Mapping[str, np.ndarray], np.ndarray]],
                   fitted: frozenset[str]) -> dict[str, KernelModel]:
        """Kernels that too few rows are of, as on the board of the prior: by how much longer their rows take here; and convolutions and products
        that no row is of, by how much longer the others do. Nothing where few of those are known.
        """
        longer = {}
        for name, (terms, us) in timed.items():
            if name in prior and len(us):
                there = sum((prior[name].get(term, 0.0) * np.asarray(value, float) for term, value in terms.items()), np.zeros(len(us)))
                longer[name] = float(np.median(us / np.maximum(there, 1e-3)))
        heavy = [factor for name, factor in longer.items() if name.startswith(HEAVY)]
        if len(heavy) < LEAST_ALIKE:
            return {}
        usual = float(np.median(heavy))
        made = {}
        for name, costs in prior.items():
            if name not in fitted and (name in longer or name.startswith(HEAVY)):
                factor = longer.get(name, usual)
                terms = {"fixed_us" if term == "fixed" else f"us_per_{term}": float(f"{factor * cost:.4g}") for term, cost in costs.items()}
                made[name] = KernelModel.from_profile(Latency(terms, 0, None, "estimated"))
        return made

    def predict(self, rows: Sequence[Measurement]) -> np.ndarray:
        """Microseconds, float64[len(rows)]."""
        us = np.full(len(rows), np.nan)
        for name, (at, terms, sizes) in kernels_of(rows, self.facts).items():
            if name in self.models:
                us[at] = self.models[name].predict(terms, sizes)
        return us


def only(told: tuple[list[int], dict[str, np.ndarray], dict[str, np.ndarray]], kept: np.ndarray) -> tuple:
    at, terms, sizes = told
    return np.array(at, int)[kept], *({k: v[kept] for k, v in columns.items()} for columns in (terms, sizes))


class ShapeFits(KernelFits):
    """Fits of convolutions and products whose kernels are not coexec's, by shapes alone; of everything else as a KernelFits has them.

    Of kernels that may run the same shape the fastest counts: a driver would take that one. After making one, `facts` has the blocks.
    """

    @held_to_one()
    def __init__(self, rows: Sequence[Measurement], facts: Facts, correct: bool = True, table: Table | None = None):
        blocks: dict[str, Any] = dict.fromkeys(shapes.FORMS, shapes.USUAL)
        found: dict[str, KernelModel] = {}
        fastest: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            fastest[row.shape_key][row.implementation].append(row.latency_us)
        first = {r.shape_key: r for r in reversed(rows)}
        us = {key: min(float(np.median(v)) for v in ways.values()) for key, ways in fastest.items()}
        for name, (at, sizes) in shapes_of([first[k] for k in us]).items():
            if len(at) >= LEAST_SAMPLES:
                model = ShapeModel(correct).fit(sizes, np.array(list(us.values()))[at])
                found[name] = model
                blocks |= model.blocks_
        super().__init__([r for r in rows if r.op_type not in ("Conv", "Gemm", "MatMul")], replace(facts, blocks=tuple(blocks.items())), correct)
        self.models |= found


def shapes_of(rows: Sequence[Measurement]) -> dict[str, tuple[list[int], shapes.Sizes]]:
    """By kernel: which rows are convolutions or products, and their sizes."""
    found: dict[str, list[tuple[int, shapes.Sizes]]] = defaultdict(list)
    for i, row in enumerate(rows):
        node = node_of(row, f"row {i + 1}")
        shape, form = np.array([node.output.shape], np.int64), shapes.form_of(node)
        if form is not None:
            found[form].append((i, shapes.sizes_of(node, shape * 0, shape)))
    return {name: ([i for i, _ in members], shapes.Sizes.joined(s for _, s in members)) for name, members in found.items()}


def kernels_of(rows: Sequence[Measurement], facts: Facts) -> Table:
    """By the kernel that runs it: which rows, and their features and sizes. Features that a row does not have are 0."""
    found: dict[str, list[Case]] = defaultdict(list)
    for unit in ("cpu", "gpu"):
        mine = [i for i, row in enumerate(rows) if row.unit == unit]
        asked = [(node, [bounds([region], len(region))]) for node, region in (piece_of(rows[i], f"row {i + 1}") for i in mine)]
        for case in cases(asked, unit, facts):
            found[case.kernel].append(case._replace(at=np.array(mine)[case.at]))
    table = {}
    for name, members in found.items():
        at, terms, sizes = joined_cases(members)
        table[name] = at.tolist(), *({k: np.broadcast_to(np.asarray(v, float), at.shape) for k, v in told.items()} for told in (terms, sizes))
    return table


_TILE = re.compile(r"_(\d+)x(\d+)(?:\+|$)")


def facts_of_rows(rows: Sequence[Measurement], told: Mapping[str, float] | None = None) -> Facts:
    """What the kernels' names say of the board (`..._8x48`: tiles of 8 rows and 48 columns), and what is known besides."""
    facts: dict[str, float] = {}
    for row in rows:
        tile = _TILE.search(row.implementation)
        if tile and row.unit == "cpu" and ("conv_pointwise" in row.implementation or "_strips_" in row.implementation):
            facts = {"tile_rows": int(tile[1]), "lanes": int(tile[2]) // 3}
            break
        if row.unit == "gpu" and ("_panel" in row.implementation or "_strip" in row.implementation):
            facts = {"local_bytes": 768 << 10}
    threads = Counter(r.threads or 1 for r in rows).most_common(1)[0][0] if rows else 1
    return Facts.of({**facts, **(told or {})}, threads)
