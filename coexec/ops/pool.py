"""Poolings: MaxPool with indices, AveragePool, LpPool over sliding windows, and their Global forms over the whole plane."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region, Window
from .base import Op, SplitAxis, register
from .sliding import (
    FLOATS,
    Windows,
    best_first,
    needed,
    not_floats,
    pad_or_crop,
    resolve_windows,
    spatial,
    tap_slices,
    taps_inside,
    widened,
)


def pool_params(node: Node) -> Windows:
    """The resolved windows of that MaxPool, AveragePool or LpPool."""
    return resolve_windows(node, node.inputs[0].shape[2:], node.attr("kernel_shape"))


def pool_input(node: Node, out_region: Region) -> tuple[Region, list[Window]]:
    """The region of X that a piece reads, and per spatial axis the padding around it (for kernels that pad by themselves)."""
    spans = needed(pool_params(node), node.inputs[0].shape[2:], spatial(out_region))
    return Region([*out_region[:2], *(s.interval for s in spans)]), spans


def average_divisors(node: Node, out: Sequence[Interval]) -> list[np.ndarray]:
    """Per spatial axis, how many elements each output row's window counts; an average divides by the product over the axes.

    Padding counts where `count_include_pad` is set; what a ceil_mode window has beyond the padding never does.
    """
    windows, sizes = pool_params(node), node.inputs[0].shape[2:]
    padded = bool(node.attr("count_include_pad", 0))
    return [taps_inside(windows, axis, rows, -windows.pads_begin[axis] if padded else 0, size + (windows.pads_end[axis] if padded else 0))
            for axis, (rows, size) in enumerate(zip(out, sizes))]


def _outer(counts: Sequence[np.ndarray]) -> np.ndarray:
    product = np.ones((), np.int64)
    for count in counts:
        product = product[..., None] * count
    return product


class _Pool(Op):
    """X (N, C, *spatial) -> Y (N, C, *spatial), one window per output element."""

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, range(len(node.output.shape)))

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (pool_input(node, out_region)[0],)

    def flops(self, node: Node, out_region: Region) -> float:
        return float(out_region.size) * pool_params(node).taps

    def _taps(self, node: Node, x: np.ndarray, out_region: Region, fill: float) -> Iterator[np.ndarray]:
        """Every kernel element in row-major order, as an array of the piece's shape; `fill` where it lies in the padding."""
        windows = pool_params(node)
        x = pad_or_crop(x, pool_input(node, out_region)[1], fill)
        for tap in itertools.product(*map(range, windows.kernel)):
            yield x[tap_slices(windows, tap, out_region.shape[2:])]


@register
class MaxPool(_Pool):
    """The largest element of each window, and (second output) its flat index in the whole X."""

    op_types = ("MaxPool",)

    def declines(self, node: Node) -> str | None:
        dtype = node.output.dtype
        return None if dtype in (*FLOATS, np.int8, np.uint8) else f"MaxPool of {dtype} is not computed here"

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = inputs[0]
        wants_indices = len(node.outputs) > 1 and node.outputs[1] is not None
        if not out_region.size:
            return [np.empty(out_region.shape, x.dtype), *([np.empty(out_region.shape, np.int64)] if wants_indices else [])]
        lowest = np.finfo(x.dtype).min if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        if wants_indices:
            return list(self._with_indices(node, x, out_region, lowest))
        y = None
        for tap in self._taps(node, x, out_region, -np.inf if x.dtype.kind == "f" else lowest):
            y = tap.copy() if y is None else np.maximum(y, tap, out=y)
        if x.dtype.kind == "f":
            self._empty_windows(node, y, out_region, lowest)
        return [y]

    def _empty_windows(self, node: Node, y: np.ndarray, out_region: Region, lowest: float) -> None:
        """Gives windows that hold nothing but padding the lowest number of the type, as runtimes do."""
        windows, sizes = pool_params(node), node.inputs[0].shape[2:]
        held = _outer([taps_inside(windows, axis, rows, 0, n) for axis, (rows, n) in enumerate(zip(spatial(out_region), sizes))])
        if not held.all():
            y[:, :, held == 0] = lowest

    def _with_indices(self, node: Node, x: np.ndarray, out_region: Region, lowest: float) -> tuple[np.ndarray, np.ndarray]:
        windows, shape = pool_params(node), node.inputs[0].shape
        sizes = shape[2:]
        # Strides of a channel's plane: rows last in memory (storage_order 0), or first.
        order = range(len(sizes)) if node.attr("storage_order", 0) else reversed(range(len(sizes)))
        strides, step = [0] * len(sizes), 1
        for axis in order:
            strides[axis], step = step, step * sizes[axis]
        y = np.full(out_region.shape, lowest, x.dtype)
        where = np.full(out_region.shape, -1, np.int64)
        for tap, values in zip(itertools.product(*map(range, windows.kernel)), self._taps(node, x, out_region, lowest)):
            inside, flat = np.ones((), bool), np.zeros((), np.int64)
            for axis, rows in enumerate(spatial(out_region)):
                first = tap[axis] * windows.dilations[axis] - windows.pads_begin[axis]
                at = np.arange(rows.start, rows.stop) * windows.strides[axis] + first
                inside = inside[..., None] & ((at >= 0) & (at < sizes[axis]))
                flat = flat[..., None] + at * strides[axis]
            better = inside & ((where < 0) | (values > y) | ((values != values) & (y == y)))
            np.copyto(y, values, where=better)
            np.copyto(where, np.broadcast_to(flat, where.shape), where=better)
        planes = np.arange(*out_region[0])[:, None] * shape[1] + np.arange(*out_region[1])
        planes = planes.reshape(*planes.shape, *(1,) * len(sizes)) * step
        return y, np.where(where < 0, where, where + planes)


@register
class AveragePool(_Pool):
    """The mean of each window; what lies in the padding counts only where `count_include_pad` is set."""

    op_types = ("AveragePool",)

    def declines(self, node: Node) -> str | None:
        return not_floats(node)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        if not out_region.size:
            return [np.empty(out_region.shape, node.output.dtype)]
        y = None
        for tap in self._taps(node, widened(inputs[0]), out_region, 0):
            y = tap.copy() if y is None else np.add(y, tap, out=y)
        y /= np.maximum(_outer(average_divisors(node, spatial(out_region))), 1).astype(y.dtype)
        return [y.astype(node.output.dtype, copy=False)]


@register
class LpPool(_Pool):
    """The p-norm of each window; padding counts as zero."""

    op_types = ("LpPool",)

    def declines(self, node: Node) -> str | None:
        return not_floats(node)

    def flops(self, node: Node, out_region: Region) -> float:
        return 2.0 * out_region.size * pool_params(node).taps

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        if not out_region.size:
            return [np.empty(out_region.shape, node.output.dtype)]
        p = int(node.attr("p", 2))
        y = np.zeros(out_region.shape, np.result_type(node.output.dtype, np.float32))
        for tap in self._taps(node, np.abs(widened(inputs[0])) ** p, out_region, 0):
            y += tap
        return [(y ** (1.0 / p)).astype(node.output.dtype, copy=False)]


class _GlobalPool(Op):
    """X (N, C, *spatial) -> Y (N, C, 1, ...): one window per plane."""

    def declines(self, node: Node) -> str | None:
        return not_floats(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, (0, 1))

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (Region([*out_region[:2], *Region.whole(node.inputs[0].shape[2:])]),)

    def flops(self, node: Node, out_region: Region) -> float:
        return float(out_region.size) * int(np.prod(node.inputs[0].shape[2:], dtype=np.int64))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = widened(inputs[0])
        y = self._reduce(node, x, tuple(range(2, x.ndim))) if out_region.size else np.empty(out_region.shape)
        return [np.asarray(y, node.output.dtype)]

    def _reduce(self, node: Node, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError


@register
class GlobalMaxPool(_GlobalPool):
    """The largest element of each plane."""

    op_types = ("GlobalMaxPool",)

    def _reduce(self, node: Node, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return x.max(axis=axes, keepdims=True)


@register
class GlobalAveragePool(_GlobalPool):
    """The mean of each plane."""

    op_types = ("GlobalAveragePool",)

    def _reduce(self, node: Node, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return x.mean(axis=axes, keepdims=True)


@register
class GlobalLpPool(_GlobalPool):
    """The p-norm of each plane."""

    op_types = ("GlobalLpPool",)

    def _reduce(self, node: Node, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        p = int(node.attr("p", 2))
        return (np.abs(x) ** p).sum(axis=axes, keepdims=True) ** (1.0 / p)
