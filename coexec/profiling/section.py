"""One unit's section of a profile, from its measurements."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..collecting import uncollected
from ..cost.features import COLUMNS, family, features
from ..cost.geometry import Facts
from ..cost.kernels import bound_by
from ..cost.model import LatencyModel
from ..profiles import UnitProfile
from .fit import KernelFits, facts_of_rows, fits, kernels_of, of_coexec, only, steadied
from .table import Measurement, piece_of

#: A family with fewer timings gets no fit: its cost is then a roofline estimate, and marked as one.
MIN_SAMPLES = 4
#: What starting a GPU kernel and waiting for it is taken to cost where nobody measured it, in microseconds.
ASSUMED_LAUNCH_US, ASSUMED_SYNC_US = 20.0, 200.0
_MFLOP, _MBYTE = COLUMNS.index("mflop"), COLUMNS.index("mbyte")


@uncollected()  # a hundred thousand rows make millions of small things
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
        table = {name: only(told, np.array(told[0]) < quiet) for name, told in table.items()}
    known = fits(rows[:quiet], facts, table) if quiet else KernelFits([], facts_of_rows(rows, facts))
    straight = {name: model.to_profile() for name, model in lines(families[:undisturbed], X[:undisturbed], y[:undisturbed]).items()} if quiet else {}
    return UnitProfile(
        Counter(r.device for r in rows).most_common(1)[0][0], gflops, gbs,
        threads=max((r.threads or 1 for r in rows), default=1) if not gpu else 0,
        dtypes=tuple(sorted({r.dtype for r in rows})), operators=tuple(sorted({r.op_type for r in rows})) if gpu else (),
        launch_us=ASSUMED_LAUNCH_US if gpu else 0.0, sync_us=ASSUMED_SYNC_US if gpu else 0.0, provenance="estimated",
        facts=known.facts.told() | drift, busy=busy_factors(rows, known.facts),
        latency=straight | {k: replace(m.to_profile(), drift=follow.get(k)) for k, m in known.models.items()},
    )


def busy_factors(rows: Sequence[Measurement], known: Facts) -> dict[str, float]:
    """How much longer kernels take beside a busy other unit, by what bounds them: medians over shapes timed both ways, at least 1."""
    alone = {(r.threads, r.implementation, r.piece_key): r.latency_us for r in rows if not r.busy_other}
    beside = [r for r in rows if r.busy_other and (r.threads, r.implementation, r.piece_key) in alone]
    ratios: dict[str, list[float]] = defaultdict(list)
    for name, (at, _, _) in kernels_of(beside, known).items():
        ratios[bound_by(name)] += [beside[i].latency_us / alone[beside[i].threads, beside[i].implementation, beside[i].piece_key] for i in at]
    return {k: max(1.0, float(f"{np.median(v):.4g}")) for k, v in sorted(ratios.items())}


def design(rows: Sequence[Measurement]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The family, features (n, len(COLUMNS)) and latency (n, microseconds) of every row. Raises UsageError for an impossible row."""
    families, X = [], np.empty((len(rows), len(COLUMNS)))
    for i, row in enumerate(rows):
        node, region = piece_of(row, f"row {i + 1}")
        families.append(family(node))
        X[i] = features(node, region)
    return families, X, np.array([r.latency_us for r in rows])


#: A line through a family's timings, which stands in where a kernel has no fit, and the peaks, need no more of an operator's.
MOST_LINED = 300


def few_of_each(kinds: Sequence[str]) -> np.ndarray:
    """Indices of at most MOST_LINED of each kind, evenly spread, in their order."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        members[kind].append(i)
    return np.sort(np.concatenate([np.array(at)[np.linspace(0, len(at) - 1, min(len(at), MOST_LINED)).astype(int)] for at in members.values()]))


def lines(families: Sequence[str], X: np.ndarray, y: np.ndarray) -> dict[str, LatencyModel]:
    """Of a `design`: the line through the timings of each family that has enough."""
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
