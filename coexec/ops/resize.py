"""Resize: a separable resampling. Each axis has a table of taps: which input elements an output element weighs, and by how much.

`resize_tables` is what kernels on every device share; nothing else interprets a Resize node's attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type, hull, select, variable_among


@dataclass(frozen=True, eq=False)
class AxisTable:
    """Output element o along an axis is the sum over t of weights[o, t] * input[indices[o, t]].

    indices, weights: int64 and float64 [output extent, taps]; every index is inside the input, and a tap of weight 0 repeats an
    index of its own row that has a weight. outside: booleans [output extent] where `extrapolation_value` stands instead, or None.
    """

    indices: np.ndarray
    weights: np.ndarray
    outside: np.ndarray | None = None

    def __post_init__(self) -> None:
        # Tables are cached, and so shared.
        for array in (self.indices, self.weights, self.outside):
            if array is not None:
                array.flags.writeable = False

    @property
    def taps(self) -> int:
        return self.indices.shape[1]

    @property
    def is_copy(self) -> bool:
        """True where each output element is one input element (nearest, or an axis that keeps its size)."""
        return self.taps == 1 and bool((self.weights == 1).all())

    @property
    def is_identity(self) -> bool:
        """True where the axis is left as it is."""
        return self.is_copy and self.outside is None and bool((self.indices[:, 0] == np.arange(len(self.indices))).all())

    def interval(self, out: Interval, extent: int) -> Interval:
        """The input elements that these output elements read, of an axis of `extent` elements."""
        return hull(self.indices[out.slice], extent)


def _coordinates(coordinates: str, out: np.ndarray, extent: int, scale: float, start: float, end: float) -> np.ndarray:
    """Where on the input's axis each output element lies; `scale * extent`, the exact output extent, may be fractional."""
    exact, count = scale * extent, len(out)
    if coordinates == "align_corners":
        return np.zeros(count) if exact == 1 else out * (extent - 1) / (exact - 1)
    if coordinates == "asymmetric":
        return out / scale
    if coordinates == "tf_crop_and_resize":
        step = (end - start) * (extent - 1)
        return start * (extent - 1) + (np.full(count, step / 2) if exact == 1 else out * step / (exact - 1))
    if coordinates == "pytorch_half_pixel" and exact == 1:
        return np.zeros(count)
    centre = (out + 0.5) / scale - 0.5
    return centre + extent / 2 * (1 - count / exact) if coordinates == "half_pixel_symmetric" else centre


def _nearest(at: np.ndarray, nearest_mode: str) -> np.ndarray:
    if nearest_mode == "floor":
        return np.floor(at)
    if nearest_mode == "ceil":
        return np.ceil(at)
    return np.floor(at + 0.5) if nearest_mode == "round_prefer_ceil" else np.ceil(at - 0.5)


def _kernel(mode: str, distance: np.ndarray, a: float) -> np.ndarray:
    """The weight of a tap by its distance: a triangle, or Keys' cubic with coefficient a."""
    d = np.abs(distance)
    if mode == "linear":
        return np.maximum(1 - d, 0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


@lru_cache(maxsize=256)
def axis_table(extent: int, out_extent: int, scale: float, mode: str = "nearest", coordinates: str = "half_pixel",
               nearest_mode: str = "round_prefer_floor", antialias: bool = False, exclude_outside: bool = False,
               cubic_coeff_a: float = -0.75, start: float = 0.0, end: float = 1.0) -> AxisTable:
    """The taps of one axis, from `extent` input elements to `out_extent`; the words are those of ONNX's attributes.

    `start` and `end` are the axis's part of roi, for tf_crop_and_resize.
    """
    out = np.arange(out_extent, dtype=np.float64)
    whole_roi = coordinates != "tf_crop_and_resize" or (start == 0 and end == 1)
    if not out_extent or (extent == out_extent and np.isclose(scale, 1.0, 1e-9) and whole_roi):
        return AxisTable(np.arange(out_extent)[:, None], np.ones((out_extent, 1)))
    at = _coordinates(coordinates, out, extent, scale, start, end)
    outside = (at < 0) | (at > extent - 1) if coordinates == "tf_crop_and_resize" else None
    outside = outside if outside is not None and outside.any() else None
    if mode == "nearest":
        indices = np.clip(_nearest(at, nearest_mode), 0, extent - 1).astype(np.int64)
        return AxisTable(indices[:, None], np.ones((out_extent, 1)), outside)
    # Antialiasing widens the filter where the axis shrinks.
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = int(np.ceil((2 if mode == "cubic" else 1) / stretch))
    base = np.floor(at)
    indices = base[:, None].astype(np.int64) + np.arange(1 - reach, 1 + reach)
    weights = _kernel(mode, (indices - at[:, None]) * stretch, cubic_coeff_a)
    if antialias:
        weights /= weights.sum(axis=1, keepdims=True)
    if exclude_outside:
        weights = np.where((indices >= 0) & (indices < extent), weights, 0)
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total == 0, 1, total)
    indices = np.clip(indices, 0, extent - 1)
    used = (weights != 0).any(axis=0)
    used[0] |= not used.any()
    indices, weights = indices[:, used], weights[:, used]
    heaviest = np.take_along_axis(indices, np.abs(weights).argmax(axis=1)[:, None], axis=1)
    return AxisTable(np.where(weights == 0, heaviest, indices), weights, outside)


def _given(node: Node, index: int) -> np.ndarray | None:
    """A constant operand; None where it is absent or empty, which ONNX uses alike."""
    value = node.operand(index)
    return None if value is None or value.data is None or not value.data.size else value.data.astype(np.float64)


def resize_tables(node: Node) -> tuple[AxisTable, ...]:
    """One table for each axis of a Resize node; its scales or sizes (and roi, where it matters) are constant."""
    shape, out_shape = node.operands[0].shape, node.output.shape
    rank = len(shape)
    axes = axes_of(rank, node.attr("axes") or range(rank))
    scales, sizes, roi = _given(node, 2), _given(node, 3), _given(node, 1)
    if scales is None:
        scales = np.array([size / max(shape[a], 1) for a, size in zip(axes, sizes)])
        policy = node.attr("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scales = np.full(len(axes), scales.min() if policy == "not_larger" else scales.max())
    by_axis = dict(zip(axes, scales))
    ends = {} if roi is None else {a: (roi[i], roi[i + len(axes)]) for i, a in enumerate(axes)}
    return tuple(
        axis_table(n, out, float(by_axis.get(d, 1.0)), node.attr("mode", "nearest"),
                   node.attr("coordinate_transformation_mode", "half_pixel"), node.attr("nearest_mode", "round_prefer_floor"),
                   bool(node.attr("antialias", 0)), bool(node.attr("exclude_outside", 0)), float(node.attr("cubic_coeff_a", -0.75)),
                   *(float(e) for e in ends.get(d, (0.0, 1.0))))
        for d, (n, out) in enumerate(zip(shape, out_shape)))


_KNOWN = {
    "mode": ("nearest", "linear", "cubic"),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "coordinate_transformation_mode": ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                                       "tf_crop_and_resize"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
}


@register
class Resize(Op):
    """May be cut on every axis; a piece reads the input elements that its tables name."""

    op_types = ("Resize",)

    def declines(self, node: Node) -> str | None:
        crops = node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        if reason := foreign_type(node) or variable_among(node, {**({1: "roi"} if crops else {}), 2: "scales", 3: "sizes"}):
            return reason
        for name, known in _KNOWN.items():
            if node.attr(name, known[0]) not in known:
                return f"{name} '{node.attr(name)}' is unknown"
        if _given(node, 2) is None and _given(node, 3) is None:
            return "neither scales nor sizes are given" if node.operands[0].shape else "a scalar cannot be resized"
        if crops and _given(node, 1) is None:
            return "tf_crop_and_resize without roi"
        if node.attr("antialias", 0) and node.attr("mode", "nearest") == "nearest":
            return "nearest is not antialiased"
        empty = any(n == 0 < out for n, out in zip(node.operands[0].shape, node.output.shape))
        return "there is nothing to resize" if empty else None

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def _data_region(self, node: Node, tables: Sequence[AxisTable], out_region: Region) -> Region:
        return Region([t.interval(out, n) for t, out, n in zip(tables, out_region, node.operands[0].shape)])

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        data = self._data_region(node, resize_tables(node), out_region)
        return (data, *(None if v is None else Region.whole(v.shape) for v in node.operands[1:]))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        tables, dtype = resize_tables(node), node.output.dtype
        data = self._data_region(node, tables, out_region)
        found = inputs[0]
        if not all(t.is_copy for t in tables):
            found = found.astype(np.float32 if dtype in (np.float16, np.float32) else np.float64)
        for dim, (table, out, mine) in enumerate(zip(tables, out_region, data)):
            found = _resample(found, dim, table.indices[out.slice] - mine.start, table.weights[out.slice])
        for dim, (table, out) in enumerate(zip(tables, out_region)):
            if table.outside is not None:
                mask = table.outside[out.slice].reshape(-1, *(1,) * (found.ndim - dim - 1))
                found = np.where(mask, found.dtype.type(node.attr("extrapolation_value", 0.0)), found)
        return [_saturate(found, dtype)]

    def flops(self, node: Node, out_region: Region) -> float:
        return float(sum(2 * t.taps for t in resize_tables(node) if not t.is_copy) * out_region.size)


def _resample(x: np.ndarray, dim: int, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The taps summed one after the other: in the same order for every piece, whatever its shape."""
    if indices.shape[1] == 1 and (weights == 1).all():
        return select(x, dim, indices[:, 0])
    shape = (-1,) + (1,) * (x.ndim - dim - 1)
    terms = (np.take(x, indices[:, t], axis=dim) * weights[:, t].astype(x.dtype).reshape(shape) for t in range(indices.shape[1]))
    total = next(terms)
    for term in terms:
        total += term
    return total


def _saturate(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A cast that clips to an integer type's range and rounds to it, halves to even."""
    if dtype.kind in "iu" and x.dtype != dtype:
        limits = np.iinfo(dtype)
        return np.clip(np.rint(x), limits.min, limits.max).astype(dtype)
    return np.asarray(x).astype(dtype, copy=False)
