"""From measurements to latencies, to a whole profile, and to how well shapes never seen are predicted."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..cost.features import COLUMNS, family, features
from ..cost.model import LatencyModel
from ..errors import UsageError
from ..profiles import DeviceProfile, Latency, UnitProfile
from ..regions import Region
from .table import Measurement, node_of

#: A family with fewer timings gets no fit: its cost is then a roofline estimate, and marked as one.
MIN_SAMPLES = 4
#: What starting a GPU kernel and waiting for it is taken to cost where nobody measured it, in microseconds.
ASSUMED_LAUNCH_US, ASSUMED_SYNC_US = 20.0, 200.0
_MFLOP, _MBYTE = COLUMNS.index("mflop"), COLUMNS.index("mbyte")


def design(rows: Sequence[Measurement]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The family, features (n, len(COLUMNS)) and latency (n, microseconds) of every row. Raises UsageError for an impossible row."""
    families, X = [], np.empty((len(rows), len(COLUMNS)))
    for i, row in enumerate(rows):
        node = node_of(row, f"row {i + 1}")
        families.append(family(node))
        X[i] = features(node, Region.whole(node.output.shape))
    return families, X, np.array([r.latency_us for r in rows])


def fit_latencies(rows: Sequence[Measurement]) -> dict[str, Latency]:
    """A fit for every family with enough rows; rows of one unit, those timed beside a busy other unit left out."""
    return {name: model.to_profile() for name, model in _models(*design([r for r in rows if not r.busy_other])).items()}


def _models(families: Sequence[str], X: np.ndarray, y: np.ndarray) -> dict[str, LatencyModel]:
    members: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(families):
        members[name].append(i)
    return {name: LatencyModel().fit(X[at], y[at]) for name, at in members.items() if len(at) >= MIN_SAMPLES}


def peaks(rows: Sequence[Measurement]) -> tuple[float, float]:
    """The best GFLOP/s of matrix products and 1x1 convolutions, and GB/s of the largest elementwise operators (else of any rows).

    Convolutions by Winograd do fewer operations than are counted, and small tensors stay in a cache: neither tells a peak.
    """
    families, X, y = design(rows)
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
    by_unit = {unit: [r for r in rows if r.unit == unit] for unit in ("cpu", "gpu")}
    if not by_unit["cpu"]:
        raise UsageError("the table has no rows with unit cpu", expected="timings of the CPU, and, where there is one, of the GPU")
    sections = {unit: section_from_rows(unit, found) for unit, found in by_unit.items() if found}
    return DeviceProfile(name or " + ".join(s.name or u for u, s in sections.items()), sections["cpu"], sections.get("gpu"))


def section_from_rows(unit: str, rows: Sequence[Measurement]) -> UnitProfile:
    """One unit's section: peaks and fits from the rows, costs of starting and waiting assumed."""
    gflops, gbs = peaks(rows)
    gpu = unit == "gpu"
    return UnitProfile(
        Counter(r.device for r in rows).most_common(1)[0][0], gflops, gbs,
        threads=max((r.threads or 1 for r in rows), default=1) if not gpu else 0,
        dtypes=tuple(sorted({r.dtype for r in rows})), operators=tuple(sorted({r.op_type for r in rows})) if gpu else (),
        launch_us=ASSUMED_LAUNCH_US if gpu else 0.0, sync_us=ASSUMED_SYNC_US if gpu else 0.0, provenance="estimated",
        latency=fit_latencies(rows),
    )


def held_out_accuracy(rows: Sequence[Measurement], folds: int = 5) -> Mapping[str, Mapping[str, Any]]:
    """Per unit, how well rows are predicted by fits that saw no row of the same shape: keys as in `evaluate`.

    Shapes are dealt to folds by their hash, so the same table always gives the same answer. Families with too few rows are not counted.
    """
    report = {}
    for unit in ("cpu", "gpu"):
        mine = [r for r in rows if r.unit == unit and not r.busy_other]
        if not mine:
            continue
        families, X, y = design(mine)
        fold = np.array([zlib.crc32(repr(r.shape_key).encode()) % folds for r in mine])
        errors: list[float] = []
        for held in range(folds):
            seen = np.flatnonzero(fold != held)
            models = _models([families[i] for i in seen], X[seen], y[seen])
            judged = [i for i in np.flatnonzero(fold == held) if families[i] in models]
            errors += [float(models[families[i]].predict(X[i:i + 1])[0] / y[i] - 1) for i in judged]
        report[unit] = accuracy(errors, noise_floor(mine))
    return report


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
        groups[(r.device, r.threads, r.implementation, r.shape_key)].append(r.latency_us)
    near = [abs(v / np.median(g) - 1) <= 0.1 for g in groups.values() if len(g) > 1 for v in g]
    return round(float(np.mean(near)), 4) if near else None
