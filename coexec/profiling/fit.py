"""From measurements to latencies, to a whole profile, and to how well shapes never seen are predicted."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..cost import shapes
from ..cost.cases import Case, joined_cases
from ..cost.features import COLUMNS, family, features
from ..cost.geometry import Facts, bounds
from ..cost.kernels import bound_by, cases, kin
from ..cost.model import LEAST_SAMPLES, KernelModel, LatencyModel, ShapeModel, costs_of_kin, quick_costs
from ..devices.cpu.blas import held_to_one
from ..errors import UsageError
from ..profiles import DeviceProfile, Latency, UnitProfile
from .drift import EXPECTED, at_usual_moments, facts_of_drift, learnt, powers, readings, slow_moments, usual_readings
from .table import Measurement, node_of, piece_of

#: A family with fewer timings gets no fit: its cost is then a roofline estimate, and marked as one.
MIN_SAMPLES = 4
#: How often what kernels take in a usual moment, and how they follow the reference kernels, are told from one another.
ROUNDS_OF_DRIFT = 3
#: What starting a GPU kernel and waiting for it is taken to cost where nobody measured it, in microseconds.
ASSUMED_LAUNCH_US, ASSUMED_SYNC_US = 20.0, 200.0
_MFLOP, _MBYTE = COLUMNS.index("mflop"), COLUMNS.index("mbyte")


def design(rows: Sequence[Measurement]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The family, features (n, len(COLUMNS)) and latency (n, microseconds) of every row. Raises UsageError for an impossible row."""
    families, X = [], np.empty((len(rows), len(COLUMNS)))
    for i, row in enumerate(rows):
        node, region = piece_of(row, f"row {i + 1}")
        families.append(family(node))
        X[i] = features(node, region)
    return families, X, np.array([r.latency_us for r in rows])


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
        found = {name: _only(told, first[told[0]]) for name, told in (kernels_of(rows, facts) if table is None else table).items()}
        groups: dict[str, list[tuple[dict[str, np.ndarray], np.ndarray]]] = defaultdict(list)
        for name, (at, terms, _) in found.items():
            groups[kin(name)].append((terms, us[at]))
        costs = {group: costs_of_kin(members) for group, members in groups.items() if len(members) > 1}
        prior = prior_costs().get(rows[0].unit, {}) if rows else {}
        for name, (at, terms, sizes) in found.items():
            if len(at) >= LEAST_SAMPLES:
                self.models[name] = KernelModel(correct).fit(terms, sizes, us[at], costs.get(kin(name)), prior.get(name))
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


def _only(told: tuple[list[int], dict[str, np.ndarray], dict[str, np.ndarray]], kept: np.ndarray) -> tuple:
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


#: A line through a family's timings, which stands in where a kernel has no fit, and the peaks, need no more of an operator's.
MOST_LINED = 300


def few_of_each(kinds: Sequence[str]) -> np.ndarray:
    """Indices of at most MOST_LINED of each kind, evenly spread, in their order."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        members[kind].append(i)
    return np.sort(np.concatenate([np.array(at)[np.linspace(0, len(at) - 1, min(len(at), MOST_LINED)).astype(int)] for at in members.values()]))


def _models(families: Sequence[str], X: np.ndarray, y: np.ndarray) -> dict[str, LatencyModel]:
    members: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(families):
        members[name].append(i)
    return {name: LatencyModel().fit(X[at], y[at]) for name, at in members.items() if len(at) >= MIN_SAMPLES}


def peaks(families: Sequence[str], X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Of a `design`: the best GFLOP/s of matrix products and 1x1 convolutions, and GB/s of the largest elementwise operators (else of any rows).

    Convolutions by Winograd do fewer operations than are counted, and small tensors stay in a cache: neither tells a peak.
    """
    gflops, gbs = X[:, _MFLOP] / y * 1e3, X[:, _MBYTE] / y * 1e3  # mflop per us is TFLOP/s; mbyte per us is TB/s

    def best(rates: np.ndarray, wanted: Iterable[str]) -> float:
        chosen = [r for r, f in zip(rates, families) if f in wanted]
        return float(f"{max([*(chosen or rates), 1e-3]):.4g}")

    streaming = [i for i in np.argsort(-X[:, _MBYTE]) if families[i] in ("elementwise", "movement")][:3]
    return best(gflops, ("gemm", "matmul", "conv_1x1")), float(f"{max(gbs[streaming], default=0) or best(gbs, ()):.4g}")


def fit_profile_from_table(rows: Sequence[Measurement], name: str = "") -> DeviceProfile:
    """The profile that a table of measurements supports. What no table says (launch, wait) is assumed, and the sections say `estimated`.

    Raises UsageError where there are no rows of a CPU, or a row is impossible.
    """
    by_unit = {unit: one_device([r for r in rows if r.unit == unit]) for unit in ("cpu", "gpu")}
    if not by_unit["cpu"]:
        raise UsageError("the table has no rows with unit cpu", expected="timings of the CPU, and, where there is one, of the GPU")
    threads = {r.threads or 1 for r in by_unit["cpu"]}
    by_unit["cpu_alone"] = [r for r in by_unit["cpu"] if (r.threads or 1) == max(threads)] if len(threads) > 1 and by_unit["gpu"] else []
    if by_unit["cpu_alone"]:
        by_unit["cpu"] = [r for r in by_unit["cpu"] if (r.threads or 1) == min(threads)]
    sections = {unit: section_from_rows(unit, found) for unit, found in by_unit.items() if found}
    called = name or " + ".join(sections[u].name or u for u in ("cpu", "gpu") if u in sections)
    return DeviceProfile(called, sections["cpu"], sections.get("gpu"), cpu_alone=sections.get("cpu_alone"))


def refit(profile: DeviceProfile, rows: Sequence[Measurement]) -> DeviceProfile:
    """The profile with its fits made anew from rows of the same devices; facts and fixed costs, which no table holds, stay.

    Raises UsageError where the rows are of other devices.
    """
    sections = {"cpu": profile.cpu, "gpu": profile.gpu, "cpu_alone": profile.cpu_alone}
    strange = {r.device for r in rows} - {s.name for s in sections.values() if s is not None}
    if strange:
        raise UsageError("the table is of another board than the profile", found=", ".join(sorted(strange)), expected=profile.name)
    made: dict[str, UnitProfile | None] = {}
    for unit, section in sections.items():
        mine = [r for r in rows if section is not None and r.unit == unit[:3] and (unit == "gpu" or r.threads == section.threads)]
        made[unit] = section
        if mine and section is not None:
            fresh = section_from_rows("gpu" if unit == "gpu" else "cpu", mine, section.facts)
            kept = {name: value for name, value in section.facts.items() if not name.startswith("block_")}
            fresh = replace(fresh, facts={**kept, **fresh.facts})
            made[unit] = replace(section, **{k: getattr(fresh, k) for k in ("peak_gflops", "bandwidth_gbs", "facts", "busy", "latency")})
    return replace(profile, **made)


def one_device(rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows of the device with most of them, of one element type where kernels are not coexec's: a profile describes one board."""
    if not rows:
        return []
    device = Counter(r.device for r in rows).most_common(1)[0][0]
    mine = [r for r in rows if r.device == device]
    dtype = Counter(r.dtype for r in mine).most_common(1)[0][0]
    return mine if of_coexec(mine) else [r for r in mine if r.dtype == dtype]


def section_from_rows(unit: str, rows: Sequence[Measurement], facts: Mapping[str, float] | None = None) -> UnitProfile:
    """One unit's section: peaks and fits from the rows, costs of starting and waiting assumed."""
    # Those beside a busy unit last: what is said of the others is their beginning.
    rows = sorted(rows, key=lambda r: bool(r.busy_other))
    quiet = len(rows) - sum(bool(r.busy_other) for r in rows)
    table = kernels_of(rows, facts_of_rows(rows, facts)) if of_coexec(rows) else None
    rows, drift, follow = steadied(rows, facts, table)
    some = few_of_each([r.op_type for r in rows])
    families, X, y = design([rows[i] for i in some])
    gflops, gbs = peaks(families, X, y)
    undisturbed = int(np.searchsorted(some, quiet))
    gpu = unit == "gpu"
    if table is not None:
        table = {name: _only(told, np.array(told[0]) < quiet) for name, told in table.items()}
    known = fits(rows[:quiet], facts, table) if quiet else KernelFits([], facts_of_rows(rows, facts))
    lines = {name: model.to_profile() for name, model in _models(families[:undisturbed], X[:undisturbed], y[:undisturbed]).items()} if quiet else {}
    return UnitProfile(
        Counter(r.device for r in rows).most_common(1)[0][0], gflops, gbs,
        threads=max((r.threads or 1 for r in rows), default=1) if not gpu else 0,
        dtypes=tuple(sorted({r.dtype for r in rows})), operators=tuple(sorted({r.op_type for r in rows})) if gpu else (),
        launch_us=ASSUMED_LAUNCH_US if gpu else 0.0, sync_us=ASSUMED_SYNC_US if gpu else 0.0, provenance="estimated",
        facts=known.facts.told() | drift, busy=busy_factors(rows, known.facts),
        latency=lines | {k: replace(m.to_profile(), drift=follow.get(k)) for k, m in known.models.items()},
    )


def busy_factors(rows: Sequence[Measurement], known: Facts) -> dict[str, float]:
    """How much longer kernels take beside a busy other unit, by what bounds them: medians over shapes timed both ways, at least 1."""
    alone = {(r.threads, r.implementation, r.piece_key): r.latency_us for r in rows if not r.busy_other}
    beside = [r for r in rows if r.busy_other and (r.threads, r.implementation, r.piece_key) in alone]
    ratios: dict[str, list[float]] = defaultdict(list)
    for name, (at, _, _) in kernels_of(beside, known).items():
        ratios[bound_by(name)] += [beside[i].latency_us / alone[beside[i].threads, beside[i].implementation, beside[i].piece_key] for i in at]
    return {k: max(1.0, float(f"{np.median(v):.4g}")) for k, v in sorted(ratios.items())}


#: Given rows seen and rows asked for, of one processor: microseconds of the latter, NaN where it cannot say.
Predict = Callable[[Sequence[Measurement], Sequence[Measurement]], np.ndarray]


def held_out_accuracy(rows: Sequence[Measurement], folds: int = 5, predict: Predict | None = None) -> dict[str, dict[str, Any]]:
    """Per unit, how well rows are predicted by fits that saw no row of the same shape: keys as in `evaluate`.

    Shapes are dealt to folds by their hash, so the same table always gives the same answer, and so do other ways to `predict`
    (default: a profile's own) on the same folds. Every processor of the table (device, threads, element type) is judged by itself;
    rows of kernels and families with too few others are not counted.
    """
    report = {}
    for unit in ("cpu", "gpu"):
        mine = [r for r in rows if r.unit == unit and not r.busy_other]
        if not mine:
            continue
        errors: list[float] = []
        for members in processors(mine):
            fold = np.array([zlib.crc32(repr(r.shape_key).encode()) % folds for r in members])
            for held in range(folds):
                seen, asked = ([r for r, f in zip(members, fold) if bool(f == held) is wanted] for wanted in (False, True))
                if seen and asked:  # what is judged teaches nothing, not even of moments
                    steady = steadied(seen)
                    seen, asked = steady.rows, steady.others(asked)
                    us = (predict or _own)(seen, asked)
                    errors += [float(found / r.latency_us - 1) for found, r in zip(us, asked) if np.isfinite(found)]
        report[unit] = accuracy(errors, noise_floor([r for members in processors(mine) for r in steadied(members).rows]))
    return report


def _own(seen: Sequence[Measurement], asked: Sequence[Measurement]) -> np.ndarray:
    """As a profile fitted to the rows seen predicts: by kernel, else by family."""
    families, X, y = design(seen)
    theirs, Z, _ = design(asked)
    models, us = _models(families, X, y), fits(seen).predict(asked)
    for i, found in enumerate(us):
        if np.isnan(found) and theirs[i] in models:
            us[i] = models[theirs[i]].predict(Z[i:i + 1])[0]
    return us


def processors(rows: Sequence[Measurement]) -> list[list[Measurement]]:
    """Rows of one unit by what was timed: device, threads, element type; kernels that others wrote apart where shapes have several."""
    found: dict[tuple, list[Measurement]] = defaultdict(list)
    ways: dict[tuple, set[str]] = defaultdict(set)
    own = of_coexec(rows)
    for r in rows:
        ways[r.device, r.threads, r.dtype, r.shape_key].add(r.implementation)
    several = {key[:3] for key, names in ways.items() if len(names) > 1 and not own}
    for r in rows:
        key = (r.device, r.threads, "" if own else r.dtype)  # of its own kernels, coexec tells types apart by name
        found[(*key, r.implementation) if key in several else key].append(r)
    return list(found.values())


def accuracy(errors: Sequence[float], floor: float | None) -> dict[str, Any]:
    """Shares within 5, 10 and 15 percent, and the mean absolute percentage error; None where there is nothing to judge."""
    size = np.abs(np.asarray(errors, float))
    within = {f"within_{p}pct": round(float((size <= p / 100).mean()), 4) if len(size) else None for p in (5, 10, 15)}
    return {"count": len(size), **within, "mape": round(float(size.mean() * 100), 2) if len(size) else None,
            "noise_floor_within_10pct": floor}


def noise_floor(rows: Sequence[Measurement]) -> float | None:
    """How often a measurement falls within 10 % of the median of all those of the same kernel; None where none was repeated."""
    groups: dict[tuple, list[float]] = defaultdict(list)
    for r in rows:
        groups[(r.device, r.threads, r.implementation, r.piece_key)].append(r.latency_us)
    near = [abs(v / np.median(g) - 1) <= 0.1 for g in groups.values() if len(g) > 1 for v in g]
    return round(float(np.mean(near)), 4) if near else None
