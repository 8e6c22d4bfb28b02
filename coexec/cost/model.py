"""LatencyModel: microseconds from features, by non-negative least squares on relative errors. scikit-learn is loaded by `fit` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ProfileMismatch, UsageError, suggest
from ..profiles import Latency
from .features import COLUMN_OF_TERM, COLUMNS, term


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
