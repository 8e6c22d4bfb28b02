"""Latency models: LatencyModel, a line per family of operators; KernelModel, a fit of one kernel's own features; ShapeModel, of kernels
that others wrote.

All are non-negative least squares on relative errors. A KernelModel multiplies that by a correction that depends on sizes, learnt
where it predicts samples that were left out better than the sum alone. scikit-learn and SciPy are loaded by `fit` alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ProfileMismatch, UsageError, suggest
from ..profiles import Correction, Latency
from . import shapes
from .features import COLUMN_OF_TERM, COLUMNS, term
from .geometry import Block


class LatencyModel:
    """latency_us = sum of coef_[i] * features[i], no coefficient negative, so that more work never takes less time.

    columns: which of `features.COLUMNS` it uses. After `fit`: coef_ float64[len(COLUMNS)], zero for columns not used.
    """

    def __init__(self, columns: Sequence[str] = ("fixed", "mflop", "mbyte")):
        self.columns = columns

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as scikit-learn asks for them."""
        return {"columns": self.columns}

    def set_params(self, **params: Any) -> LatencyModel:
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"LatencyModel has no parameter {name}")
            setattr(self, name, value)
        return self

    def fit(self, X: np.ndarray, y: np.ndarray) -> LatencyModel:
        """Learns from X (samples, len(COLUMNS)) and y (samples), microseconds above 0. Raises UsageError for anything else."""
        from sklearn.linear_model import LinearRegression

        X, y = np.asarray(X, float), np.asarray(y, float)
        if X.ndim != 2 or X.shape[1] != len(COLUMNS) or y.shape != X.shape[:1] or not len(y):
            raise UsageError("cannot fit latencies", found=f"X {X.shape}, y {y.shape}", expected=f"X (n, {len(COLUMNS)}) and y (n)")
        if not np.isfinite(X).all() or not np.isfinite(y).all() or (y <= 0).any():
            raise UsageError("cannot fit latencies", found="a latency that is 0, negative or no number", expected="microseconds above 0")
        used = [COLUMNS.index(c) for c in self.columns]
        relative = X[:, used] / y[:, None]  # dividing each row by its latency makes the squared error a relative one
        scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
        solved = LinearRegression(positive=True, fit_intercept=False).fit(relative / scale, np.ones(len(y))).coef_ / scale
        self.coef_ = np.zeros(len(COLUMNS))
        self.coef_[used] = solved
        self.n_features_in_ = X.shape[1]
        self.n_samples_ = len(y)
        self.error_pct_ = float(np.median(np.abs(self.predict(X) / y - 1)) * 100)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Microseconds of X (samples, len(COLUMNS)). Raises UsageError before `fit`."""
        if not hasattr(self, "coef_"):
            raise UsageError("this LatencyModel is not fitted yet", hint="call fit, or from_profile")
        return np.asarray(X, float) @ self.coef_

    def to_profile(self) -> Latency:
        """What a profile keeps of it, four digits of each."""
        terms = {term(c): _rounded(self.coef_[i]) for i, c in enumerate(COLUMNS) if self.coef_[i] > 0}
        return Latency(terms or {"fixed_us": 1e-3}, self.n_samples_, _rounded(self.error_pct_))

    @classmethod
    def from_profile(cls, latency: Latency, where: str = "profile") -> LatencyModel:
        """The model of a profile's terms. Raises ProfileMismatch for a term whose feature is not known here."""
        model = cls([COLUMNS[i] for i in _columns(latency.terms, where)])
        model.coef_ = np.zeros(len(COLUMNS))
        for name, value in latency.terms.items():
            model.coef_[COLUMN_OF_TERM[name]] = value
        model.weights_ = model.coef_.tolist()  # plain floats: one dot product of six is ten times faster without NumPy
        model.n_features_in_, model.n_samples_, model.error_pct_ = len(COLUMNS), latency.samples, latency.error_pct or 0.0
        return model


def _columns(terms: Mapping[str, float], where: str) -> list[int]:
    for name in terms:
        if name not in COLUMN_OF_TERM:
            raise ProfileMismatch(f"unknown latency term '{name}'", where=where, hint=suggest(name, COLUMN_OF_TERM))
    return [COLUMN_OF_TERM[name] for name in terms]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


#: A correction multiplies or divides by at most this much.
MOST_CORRECTION = 1.8
#: At most so many samples become centres of a correction: it costs a prediction one exponential each.
MOST_CENTRES = 160
#: Scales of a correction are chosen by so many samples, and with so many centres.
MOST_SCORED, SCORED_CENTRES = 300, 96
#: How smooth corrections may be made: what their weights are held back by.
NOISES = (0.02, 0.1, 0.5, 2.0)
#: Fewer samples of a kernel are not fitted on their own.
LEAST_SAMPLES = 6


class KernelModel:
    """latency_us = sum of terms[i] * feature i, times exp(correction(sizes)); the correction is a sum of bumps around samples.

    Features and sizes are given by name, as `kernels.cases` makes them. After `fit`: latency_ (what a profile keeps; predictions use
    just that, so they are the same after saving), error_pct_ (median of the samples), left_out_pct_ (of samples left out).
    centres: samples that the correction is made of, at most.
    """

    def __init__(self, correct: bool = True, centres: int = MOST_CENTRES):
        self.correct, self.centres = correct, centres

    def fit(self, terms: Mapping[str, np.ndarray], sizes: Mapping[str, np.ndarray], y: np.ndarray,
            kin: Mapping[str, float] | None = None, prior: Mapping[str, float] | None = None) -> KernelModel:
        """Learns from features and sizes of n samples and their microseconds y, above 0. Raises UsageError for anything else.

        kin: what a feature costs in kernels that are like this one, by name; few samples are told by that better than by themselves.
        prior: the same of this kernel on another board, of which the proportions count.
        """
        y = np.asarray(y, float)
        X = np.stack([np.asarray(v, float) for v in terms.values()], axis=1) if len(y) else np.empty((0, 0))
        if X.shape[0] != len(y) or not len(y) or not np.isfinite(X).all() or not np.isfinite(y).all() or (y <= 0).any():
            raise UsageError("cannot fit latencies", found=f"{X.shape[0]} samples", expected="as many microseconds above 0 as features")
        coef, ratio = _fit_terms(list(terms), X, y, kin, prior if len(y) <= FEW_SAMPLES else None)
        names = [n for n, c in zip(terms, coef) if c > 0]
        told = {f"us_per_{n}" if n != "fixed" else "fixed_us": float(f"{coef[list(terms).index(n)]:.6g}") for n in names}
        base = sum((told[k] * np.asarray(terms[n], float) for k, n in zip(told, names)), np.zeros(len(y)))
        correction, left_out = None, np.abs(np.log(np.maximum(ratio, 1e-3)))
        if self.correct and len(y) >= 2 * LEAST_SAMPLES and sizes:
            correction, left_out = _correction(sizes, np.log(np.maximum(base, 1e-3) / y) * -1, left_out, self.centres)
        self.left_out_pct_ = float(np.expm1(np.median(left_out)) * 100)
        told = told or {"fixed_us": _rounded(float(np.median(y)))}
        self._keep(Latency(told, len(y), None, "measured", correction))
        # What disturbs a timing makes it longer: the middle of the samples lies below their mean, which least squares tell.
        middle = float(np.median(y / self.predict(terms, sizes)))
        self._keep(Latency({k: float(f"{v * middle:.6g}") for k, v in told.items()}, len(y), None, "measured", correction))
        self.error_pct_ = float(np.median(np.abs(self.predict(terms, sizes) / y - 1)) * 100)
        self.latency_ = Latency(self.latency_.terms, len(y), _rounded(self.error_pct_), "measured", correction, _rounded(self.left_out_pct_))
        return self

    def predict(self, terms: Mapping[str, np.ndarray], sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """Microseconds of each piece, above 0. Raises UsageError before `fit`."""
        if not hasattr(self, "latency_"):
            raise UsageError("this KernelModel is not fitted yet", hint="call fit, or from_profile")
        us: Any = 0.0
        for name, value in self._named:
            if name in terms:
                us = us + value * terms[name]
        if self._weights is not None and all(n in sizes for n in self.latency_.correction.inputs):
            z = _logs(np.stack([sizes[n] for n in self.latency_.correction.inputs], axis=1)) * self._scale
            most = np.log(self.latency_.correction.most)
            us = us * np.exp(np.clip(_bumps(z, self._centres) @ self._weights, -most, most))
        return np.maximum(us, 1e-3)

    def to_profile(self) -> Latency:
        """What a profile keeps of it."""
        return self.latency_

    @classmethod
    def from_profile(cls, latency: Latency) -> KernelModel:
        """The model that was saved; terms that this version has no feature for count nothing."""
        model = cls()
        model._keep(latency)
        return model

    def _keep(self, latency: Latency) -> None:
        self.latency_ = latency
        self._named = [("fixed" if k == "fixed_us" else k[len("us_per_"):], v) for k, v in latency.terms.items()]
        c = latency.correction
        self._weights = None if c is None else np.array(c.weights)
        if c is not None:
            self._scale = np.array(c.scale)
            self._centres = _logs(np.array(c.sizes).reshape(len(c.weights), len(c.inputs))) * self._scale


#: How strongly coefficients are held back, weakest first; samples that were left out choose. The second is what a first look has.
RIDGES = (1e-4, 1e-2, 0.05, 0.2)
#: The same towards what features cost in kernels that are alike, strongest first; and of the fit to all those at once.
KIN_RIDGES, KIN_RIDGE = (1.0, 0.3, 0.1, 0.03), 1e-3
#: Fits of so many samples at most lean on what features cost on another board, unless left-out samples are told by this much better without:
#: a way that tells a few small shapes well may be far off for large ones.
FEW_SAMPLES, SURELY_BETTER = 80, 0.75
#: How much more firmly than what tells most of the samples what tells next to nothing of them is held to such costs.
MOST_PULL = 300.0
#: Samples that must have something of a feature for its cost to be learnt.
FEW = 4
#: How strongly coefficients are held back is chosen by so many samples at most.
MOST_JUDGED = 250
#: Features that every kernel of any board has something of: few samples are better told by these alone.
_SIMPLE = ("fixed", "mflop")


def quick_costs(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients of features (n, terms) for microseconds y, without choosing how strongly they are held back: a first look."""
    return _robust(X, y, RIDGES[1])


def costs_of_kin(tables: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]]) -> dict[str, float]:
    """What features cost in several kernels at once, by their features and microseconds."""
    names = list(dict.fromkeys(n for terms, _ in tables for n in terms))
    X = np.concatenate([np.stack([np.broadcast_to(np.asarray(terms.get(n, 0.0), float), y.shape) for n in names], axis=1) for terms, y in tables])
    return dict(zip(names, _robust(X, np.concatenate([y for _, y in tables]), KIN_RIDGE).tolist()))


def _fit_terms(names: Sequence[str], X: np.ndarray, y: np.ndarray, kin: Mapping[str, float] | None = None,
               prior: Mapping[str, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients whose left-out predictions are best, and those predictions' ratios to y; beyond MOST_JUDGED samples the fit's own."""
    scaled_prior = None if prior is None else _scaled(np.array([prior.get(n, 0.0) for n in names]), X, y)
    # What is the same in all samples is told by `fixed`, and what few have by the others: a cost of its own would be a guess.
    X = X * np.array([n == "fixed" or np.ptp(x) > 1e-3 * np.abs(x).max() and np.count_nonzero(x) >= FEW for n, x in zip(names, X.T)])
    everything, some = (X, y), np.sort(np.random.default_rng(1).permutation(len(y))[:MOST_JUDGED])  # a choice does not need every sample
    X, y = X[some], y[some]
    fold = np.random.default_rng(0).permutation(len(y)) % min(len(y), 5)
    simplest = np.array([n in _SIMPLE for n in names])
    simple = simplest | np.array([n.startswith("mb") for n in names])
    best: tuple[float, np.ndarray, tuple] | None = None

    def judged(way: tuple[np.ndarray, float, np.ndarray | None]) -> None:
        nonlocal best
        allowed, ridge, near = way
        ratio = np.ones(len(y))
        for held in range(int(fold.max()) + 1):
            seen = fold != held
            ratio[~seen] = X[~seen] @ _robust(X[seen] * allowed, y[seen], ridge, near, near is scaled_prior) / y[~seen]
        score = float(np.minimum(np.abs(ratio - 1), 0.5).mean())
        better = SURELY_BETTER if best is not None and scaled_prior is not None and best[2][2] is scaled_prior and near is not scaled_prior else 0.98
        if best is None or score < better * best[0] - 5e-4:
            best = score, ratio, way

    for near in (scaled_prior, None if kin is None else np.array([kin.get(n, 0.0) for n in names])):
        for ridge in KIN_RIDGES if near is not None else ():
            judged((np.ones(len(names), bool), ridge, near))
    for allowed in (simplest, simple, np.ones(len(names), bool)):
        judged((allowed, RIDGES[1], None))
    chosen = best[2]  # type: ignore[index]
    if chosen[2] is None:  # how strongly the best of these are held back
        for ridge in RIDGES:
            if ridge != RIDGES[1]:
                judged((chosen[0], ridge, None))
    (allowed, ridge, near), ratio = best[2], np.ones(len(everything[1]))  # type: ignore[index]
    coef = _robust(everything[0] * allowed, everything[1], ridge, near, near is scaled_prior)
    if near is not None and near is scaled_prior:  # of what the samples have nothing the prior tells
        coef = np.where(np.abs(everything[0]).max(axis=0) > 0, coef, scaled_prior)
    if len(some) < len(ratio):
        ratio = everything[0] @ coef / everything[1]
    ratio[some] = best[1]  # type: ignore[index]
    return coef, ratio


def _scaled(costs: np.ndarray, X: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Another board's costs, all by the same factor more or less, so that they tell the middle of these samples; None where they tell nothing."""
    told = X @ costs
    return costs * _middle(y / told) if (told > 0).all() else None


def _middle(values: np.ndarray) -> float:
    """The median, of an even number the upper one of both: a fraction of what `np.median` takes."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def _robust(X: np.ndarray, y: np.ndarray, ridge: float, near: np.ndarray | None = None, firmly: bool = False) -> np.ndarray:
    """Non-negative coefficients with the least relative errors; those far off count less (a timing that was disturbed). They are held back
    by the ridge: towards `near` where that is given, else towards 0. firmly: each in proportion to its share in what `near` says.
    """
    from scipy.linalg.lapack import dposv, dtrtrs
    from scipy.optimize import nnls

    relative = X / y[:, None]
    used = np.abs(relative).max(axis=0) > 0
    # Each feature is measured by what it is in the samples where it counts most, so that a ridge treats all alike.
    scale = np.sqrt((relative ** 2).mean(axis=0)) + 1e-300
    weight = np.ones(len(y))
    coef = np.zeros(X.shape[1])
    count = int(used.sum())
    pull = np.ones(count)
    if firmly and near is not None:  # in proportion to what is expected: of what counts little, little may be made
        pull = np.clip(0.3 / (near[used] * scale[used] + 1e-9), 1.0, MOST_PULL)
    held = ridge * np.sqrt(len(y)) * np.diag(pull)
    aim = np.zeros(count) if near is None else np.diag(held) * near[used] * scale[used]
    for _ in range(3):
        # A least squares' normal equations, by a factor of them: as many rows as features, however many samples.
        weighted = relative[:, used] / scale[used] * weight[:, None]
        normal, wanted = weighted.T @ weighted + held @ held, weighted.T @ weight + held @ aim
        factor, solved, failed = dposv(normal, wanted)
        if failed:
            raise np.linalg.LinAlgError("the normal equations of a fit are not positive definite")
        if (solved < 0).any():  # else the least squares' own solution is the non-negative one
            solved = nnls(np.triu(factor), dtrtrs(factor, wanted, trans=1)[0])[0]
        coef[used] = solved / scale[used]
        share = relative @ coef
        if near is None:
            coef *= _middle(1 / np.maximum(share, 0.1))  # a ridge makes everything a little too short
        off = np.abs(relative @ coef - 1)
        limit = max(0.03, 2 * _middle(off))
        weight = np.sqrt(np.minimum(1, limit / np.maximum(off, 1e-9)))
    return coef


def _logs(sizes: np.ndarray) -> np.ndarray:
    """Logarithms of sizes, of which 0 counts as a half."""
    return np.log(np.maximum(sizes, 0.5))


def _six(numbers: np.ndarray) -> tuple[float, ...]:
    """With six significant digits each, as corrections are kept in profiles."""
    return tuple(float(f"{v:.6g}") for v in numbers.ravel())


def _bumps(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """How near each of z (n, d) is to each centre (m, d): 1 where they are one, smoothly down to 0."""
    square = (z * z).sum(1)[:, None] + (centres * centres).sum(1) - 2 * z @ centres.T
    distance = np.sqrt(np.maximum(square, 0.0) * 3)
    return (1 + distance) * np.exp(-distance)


def _correction(sizes: Mapping[str, np.ndarray], wanted: np.ndarray, without: np.ndarray, most: int) -> tuple[Correction | None, np.ndarray]:
    """The correction that predicts left-out samples best, and by how much it misses them; None where there is none better than nothing.

    wanted: logarithms of what samples took by what the terms say; without: how far off left-out samples are without a correction, as logarithms;
    most: bumps.
    """
    from scipy.linalg.lapack import dpotrf, dpotrs, dtrtrs

    inputs = [n for n, v in sizes.items() if np.ptp(v) > 0]
    if not inputs:
        return None, without
    timed = np.stack([sizes[n] for n in inputs], axis=1)
    raw = _logs(timed)
    spread = np.maximum(raw.std(axis=0), 1e-6)
    wanted = np.clip(wanted, -np.log(MOST_CORRECTION), np.log(MOST_CORRECTION))
    everything = raw, wanted, _spread_out(raw / spread, most)
    some = np.random.default_rng(0).permutation(len(raw))[:MOST_SCORED]  # a choice of scales does not need every sample
    scored = everything if len(some) == len(raw) else (raw[some], wanted[some], _spread_out(raw[some] / spread, min(most, SCORED_CENTRES)))

    def left_out(scale: np.ndarray, noises: Sequence[float], data: tuple = scored) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each noise the weights, and what every sample is missed by where it is left out."""
        z, target, chosen = data[0] * scale, data[1], data[2]
        phi, found = _bumps(z, z[chosen]), []
        inner, square, pull = phi[chosen], phi.T @ phi, phi.T @ target
        for noise in noises:
            normal = square + noise * inner
            normal[np.diag_indices_from(normal)] += 1e-8
            factor, failed = dpotrf(normal, lower=1)
            if failed:
                raise np.linalg.LinAlgError("the normal equations of a correction are not positive definite")
            weights = dpotrs(factor, pull, lower=1)[0]
            solved = dtrtrs(factor, phi.T, lower=1)[0]
            hat = np.einsum("ij,ij->j", solved, solved)
            found.append((weights, (target - phi @ weights) / np.maximum(1 - hat, 0.02)))
        return found

    def score(errors: np.ndarray) -> float:
        return float(np.minimum(np.abs(errors), 0.4).mean())

    best = (score(without[some]) - 1e-3, None, 0.0)
    for length in (1.0, 2.0, 4.0, 8.0):
        for noise, (_, missed) in zip(NOISES, left_out(1 / (spread * length), NOISES)):
            if (found := score(missed)) < best[0]:
                best = (found, 1 / (spread * length), noise)
    if best[1] is None:
        return None, without
    tried = {best[1].tobytes()}
    for factors in ((0.25, 0.5, 2.0, 4.0), (0.5, 2.0)):  # each size gets a scale of its own, then the better one
        for axis in range(len(inputs)):
            for factor in factors:
                scale = best[1].copy()
                scale[axis] *= factor
                if scale.tobytes() in tried:
                    continue
                tried.add(scale.tobytes())
                found = score(left_out(scale, [best[2]])[0][1])
                if found < 0.995 * best[0]:
                    best = (found, scale, best[2])
    scale = _six(best[1])
    (weights, errors), = left_out(np.array(scale), [best[2]], everything)
    return Correction(tuple(inputs), scale, _six(timed[everything[2]]), _six(weights), MOST_CORRECTION), np.abs(errors)


def _spread_out(z: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most so many rows that lie far from one another."""
    if len(z) <= most:
        return np.arange(len(z))
    chosen = [int(np.argmax(((z - z.mean(0)) ** 2).sum(1)))]
    nearest = ((z - z[chosen[0]]) ** 2).sum(1)
    while len(chosen) < most:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((z - z[chosen[-1]]) ** 2).sum(1))
    return np.array(chosen)


#: A correction of kernels whose algorithms nobody told may be larger: they change with the shape.
MOST_SHAPE_CORRECTION = 5.0
#: At most so many samples become its centres, and its scales are learnt from so many.
MOST_SHAPE_CENTRES, MOST_LEARNT = 400, 300
#: A timing that the others put so many standard deviations away was disturbed; at most this share of them.
FAR_OFF, MOST_FAR_OFF = 3.5, 0.08


class ShapeModel(KernelModel):
    """The fit of a kernel of which only sizes are known: blocks that predict left-out samples best, then a Gaussian process of the rest.

    After `fit`: blocks_, by form (`shapes.FORMS`), and what a KernelModel has. What is kept is a KernelModel's: terms and a correction.
    """

    def fit(self, s: shapes.Sizes, y: np.ndarray) -> ShapeModel:  # type: ignore[override]
        """Learns from the sizes of n samples and their microseconds y, above 0. Raises UsageError for anything else."""
        y = np.asarray(y, float)
        if len(s.form) != len(y) or not len(y) or not np.isfinite(y).all() or (y <= 0).any():
            raise UsageError("cannot fit latencies", found=f"{len(s.form)} samples", expected="as many microseconds above 0")
        self.blocks_ = _blocks(s, y)
        terms, sizes = shapes.terms(s, self.blocks_), shapes.sizes(s)
        coef = _robust(np.stack(list(terms.values()), axis=1), y, SHAPE_RIDGE)
        told = {f"us_per_{n}" if n != "fixed" else "fixed_us": float(f"{c:.6g}") for n, c in zip(terms, coef) if c > 0}
        self._keep(Latency(told or {"fixed_us": _rounded(float(np.median(y)))}, len(y)))
        correction, left_out = None, np.log(y / self.predict(terms, sizes))
        if self.correct and len(y) >= 2 * LEAST_SAMPLES:
            correction, left_out = _gaussian(sizes, left_out)
        self.left_out_pct_ = float(np.median(np.abs(np.expm1(left_out))) * 100)
        self._keep(Latency(self.latency_.terms, len(y), None, "measured", correction))
        self.error_pct_ = float(np.median(np.abs(self.predict(terms, sizes) / y - 1)) * 100)
        self._keep(Latency(self.latency_.terms, len(y), _rounded(self.error_pct_), "measured", correction, _rounded(self.left_out_pct_)))
        return self

    def at(self, s: shapes.Sizes) -> np.ndarray:
        """Microseconds of pieces of those sizes. Raises UsageError before `fit`."""
        return self.predict(shapes.terms(s, getattr(self, "blocks_", {})), shapes.sizes(s))


#: How strongly coefficients of forms and blocks are held back.
SHAPE_RIDGE = 0.01


def _blocks(s: shapes.Sizes, y: np.ndarray) -> dict[str, Block]:
    """Form by form, the block with the least error of left-out samples; a form's next change must be worth something."""
    chosen = {shapes.FORMS[i]: shapes.USUAL for i in np.unique(s.form).astype(int)}
    fold = np.random.default_rng(0).permutation(len(y)) % min(len(y), 4)

    def score(blocks: Mapping[str, Block]) -> float:
        X, ratio = np.stack(list(shapes.terms(s, blocks).values()), axis=1), np.ones(len(y))
        for held in range(int(fold.max()) + 1):
            seen = fold != held
            if seen.any():
                ratio[~seen] = X[~seen] @ _robust(X[seen], y[seen], SHAPE_RIDGE) / y[~seen]
        return float(np.minimum(np.abs(ratio - 1), 0.5).mean())

    best = score(chosen)
    for form in chosen:
        for block in shapes.BLOCKS:
            found = score({**chosen, form: block})
            if found < best - 5e-4:
                best, chosen = found, {**chosen, form: block}
    return chosen


def _gaussian(sizes: Mapping[str, np.ndarray], wanted: np.ndarray) -> tuple[Correction | None, np.ndarray]:
    """The mean of a Gaussian process of the logarithms of sizes, each with a scale of its own, that makes `wanted` most likely; and by how
    much it misses each sample that it is told to leave out.
    """
    from scipy.optimize import minimize
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    inputs = [n for n, v in sizes.items() if np.ptp(v) > 0]
    if not inputs or not np.ptp(wanted):
        return None, wanted
    timed = np.stack([sizes[n] for n in inputs], axis=1)
    raw = _logs(timed)
    spread = np.maximum(raw.std(axis=0), 1e-6)
    kept = _spread_out(raw / spread, MOST_SHAPE_CENTRES)
    z, target = (raw / spread)[kept], np.clip(wanted[kept], -np.log(MOST_SHAPE_CORRECTION), np.log(MOST_SHAPE_CORRECTION))
    variance = float(np.maximum(target.var(), 1e-4))

    def optimise(loss: Any, start: np.ndarray, bounds: Any) -> tuple[np.ndarray, float]:
        found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 60})
        return found.x, found.fun

    # Matern of 3/2 is what `_bumps` computes. Noise below one percent nobody measures, and would make weights that rounding breaks.
    kernel = ConstantKernel(variance, (variance * 1e-2, variance * 1e3)) * Matern(np.full(len(inputs), 2.0), (0.1, 100.0), nu=1.5) \
        + WhiteKernel(max(0.05 * variance, 2e-4), (1e-4, 1.0))
    some = np.random.default_rng(0).permutation(len(z))[:MOST_LEARNT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is that of an input that does not matter
        learnt = GaussianProcessRegressor(kernel, optimizer=optimise).fit(z[some], target[some]).kernel_
    # What the other samples say of each, and how surely: those far off were disturbed, and say nothing.
    inverse = np.linalg.inv(learnt(z))
    missed = (inverse @ target) / np.diag(inverse)
    off = np.abs(missed) * np.sqrt(np.diag(inverse))
    good = off <= max(FAR_OFF, float(np.quantile(off, 1 - MOST_FAR_OFF)))
    process = GaussianProcessRegressor(learnt, optimizer=None).fit(z[good], target[good])
    factor, lengths = learnt.k1.k1.constant_value, learnt.k1.k2.length_scale
    scale, weights = _six(np.atleast_1d(1 / (lengths * spread))), _six(process.alpha_ * factor)
    return Correction(tuple(inputs), scale, _six(timed[kept][good]), weights, MOST_SHAPE_CORRECTION), missed


def forest(kind: str, seed: int = 0) -> Any:
    """scikit-learn's forest of that kind, `random` or `extra`, of 300 trees: what baselines are made of."""
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    return {"random": RandomForestRegressor, "extra": ExtraTreesRegressor}[kind](n_estimators=300, random_state=seed)
