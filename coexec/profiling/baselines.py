"""What others predict latencies by, fitted to the same rows: the figures that a profile's own fits are compared with.

All see the sizes, operations and bytes of a row; those that know which kernel runs (CoDL's and nn-Meter's) are told its name. None of
them takes part in a profile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from ..cost.features import COLUMNS
from ..cost.geometry import Facts, up
from ..cost.model import LEAST_SAMPLES, LatencyModel, forest
from .fit import facts_of_rows, kernels_of, of_coexec
from .section import design
from .table import Measurement

_MFLOP, _MBYTE = COLUMNS.index("mflop"), COLUMNS.index("mbyte")
#: Fits microseconds to rows of one kernel or family, and gives a function that predicts others.
Fit = Callable[["Rows", np.ndarray], Callable[["Rows"], np.ndarray]]


class Rows:
    """Rows as arrays: `sizes` float64 (n, 12) as the columns of the table from batch to groups, unknown ones 1; `X` the one feature
    function's; blocks: how many tiles of the unit's matrix kernels they are.
    """

    def __init__(self, rows: Sequence[Measurement], facts: Facts):
        self.families, self.X, self.us = design(rows)
        self.sizes = np.array([[float(v or 1) for v in r.shape_key[2:]] for r in rows])
        tall, wide = (facts.tile_rows, facts.panel) if rows and rows[0].unit == "cpu" else (facts.gpu_rows, 3 * facts.gpu_width)
        _, ic, _, _, oc, oh, ow, kh, kw, _, _, groups = self.sizes.T
        self.blocks = up(oc, tall) * up(oh * ow, wide) * np.maximum(1, ic / groups) * kh * kw
        self.kernels = np.array(self.families, dtype=object)
        if of_coexec(rows):
            for name, (at, _, _) in kernels_of(rows, facts).items():
                self.kernels[at] = name

    def only(self, at: np.ndarray) -> Rows:
        """Some of the rows."""
        other = object.__new__(Rows)
        other.families = [self.families[i] for i in at]
        for name in ("X", "us", "sizes", "blocks", "kernels"):
            setattr(other, name, getattr(self, name)[at])
        return other


def _line(*columns: str) -> Fit:
    def fit(rows: Rows, us: np.ndarray) -> Callable[[Rows], np.ndarray]:
        model = LatencyModel(columns).fit(rows.X, us)
        return lambda asked: model.predict(asked.X)

    return fit


def _codl(rows: Rows, us: np.ndarray) -> Callable[[Rows], np.ndarray]:
    """Blocks times a unit's time, that linear in height, width and channels; what has no channels to block is linear in bytes."""
    if not rows.families[0].startswith(("conv", "gemm", "matmul")) or rows.families[0] in ("conv_depthwise", "conv_transpose"):
        return _line("fixed", "mbyte")(rows, us)

    def table(asked: Rows) -> np.ndarray:
        unit = np.stack([np.ones(len(asked.X)), asked.sizes[:, 5], asked.sizes[:, 6], asked.sizes[:, 1], asked.sizes[:, 4]], axis=1)
        return np.hstack([unit * asked.blocks[:, None], np.ones((len(unit), 1))])

    X = table(rows)
    scale = np.abs(X).max(axis=0) + 1e-300
    coef = np.linalg.lstsq(X / scale / us[:, None], np.ones(len(us)), rcond=None)[0] / scale
    return lambda asked: np.maximum(table(asked) @ coef, 1e-3)


def _trees(rows: Rows) -> np.ndarray:
    return np.hstack([rows.sizes, rows.X[:, [_MFLOP, _MBYTE, COLUMNS.index("mbyte_read"), COLUMNS.index("mbyte_written")]]])


def _random_forest(rows: Rows, us: np.ndarray) -> Callable[[Rows], np.ndarray]:
    model = forest("random").fit(_trees(rows), us)
    return lambda asked: model.predict(_trees(asked))


def _extra_trees(rows: Rows, us: np.ndarray) -> Callable[[Rows], np.ndarray]:
    model = forest("extra").fit(_trees(rows), np.log(us / np.maximum(rows.X[:, _MFLOP], 1e-6)))
    return lambda asked: np.exp(model.predict(_trees(asked))) * np.maximum(asked.X[:, _MFLOP], 1e-6)


#: Name -> (fit, whether rows are told apart by kernel, by family, or not at all).
BASELINES: dict[str, tuple[Fit, str]] = {
    "flops_linear": (_line("fixed", "mflop"), "family"),  # muLayer
    "codl_linear": (_codl, "kernel"),
    "random_forest": (_random_forest, "kernel"),  # nn-Meter
    "extra_trees": (_extra_trees, "all"),
}


def predictions(name: str, seen: Sequence[Measurement], asked: Sequence[Measurement], facts: Facts | None = None) -> np.ndarray:
    """Microseconds of the rows asked for, all of one unit, by a baseline fitted to the rows seen; above 0.

    Where a kernel has too few rows, those of its family serve, else all.
    """
    fit, by = BASELINES[name]
    facts = facts or facts_of_rows(seen)
    mine, theirs = Rows(seen, facts), Rows(asked, facts)
    us = np.full(len(asked), np.nan)
    for keys in {"kernel": ("kernel", "family", "all"), "family": ("family", "all"), "all": ("all",)}[by]:
        for key, at in _members(theirs, keys).items():
            at = at[np.isnan(us[at])]
            of = _members(mine, keys).get(key, np.array([], int))
            if len(at) and len(of) >= (LEAST_SAMPLES if keys != "all" else 1):
                us[at] = fit(mine.only(of), mine.us[of])(theirs.only(at))
    return np.maximum(us, 1e-3)


def _members(rows: Rows, by: str) -> dict[str, np.ndarray]:
    found: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(rows.kernels if by == "kernel" else rows.families if by == "family" else [""] * len(rows.us)):
        found[key].append(i)
    return {key: np.array(at) for key, at in found.items()}
