"""Conv: convolution of one to three (or more) spatial axes, grouped, dilated, padded any way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..graph.ir import Node
from ..regions import Interval, Region, Window
from .base import Op, SplitAxis, register
from .sliding import Windows, best_first, needed, not_floats, pad_or_crop, resolve_windows, spatial, tap_slices, widened

#: Columns are built for so many output elements at a time that they stay near this size (bytes).
COLUMN_BYTES = 16 << 20


class ConvParams(NamedTuple):
    """The resolved parameters of a Conv: per spatial axis, with `auto_pad` worked out, and the number of groups."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    group: int

    @property
    def windows(self) -> Windows:
        return Windows(*self[:5])


def conv_params(node: Node) -> ConvParams:
    """The resolved parameters of that Conv."""
    found = node.kept.get(conv_params)
    if found is None:
        x, w = node.inputs[0], node.inputs[1]
        found = node.kept[conv_params] = ConvParams(*resolve_windows(node, x.shape[2:], w.shape[2:]), int(node.attr("group", 1)))
    return found


def group_span(channels: Interval, per_group: int, in_per_group: int) -> Interval:
    """Input channels that a piece of output channels reads: those of its groups (cuts lie between groups)."""
    if not channels.size:
        return Interval(0, 0)
    return Interval(channels.start // per_group * in_per_group, -(-channels.stop // per_group) * in_per_group)


def conv_input(node: Node, out_region: Region) -> tuple[Region, list[Window]]:
    """The region of X that a piece reads, and per spatial axis the padding around it (for kernels that pad by themselves)."""
    params = conv_params(node)
    x, w = node.inputs[0], node.inputs[1]
    spans = needed(params.windows, x.shape[2:], spatial(out_region))
    channels = Interval(0, x.shape[1])
    if params.group > 1:
        channels = group_span(out_region[1], w.shape[0] // params.group, w.shape[1])
    return tuple.__new__(Region, (out_region[0], channels, *(s.interval for s in spans))), spans


@register
class Conv(Op):
    """X (N, C, *spatial), W (OC, C / group, *kernel), B (OC) -> Y (N, OC, *spatial)."""

    op_types = ("Conv",)

    def declines(self, node: Node) -> str | None:
        return not_floats(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        group = int(node.attr("group", 1))
        return best_first(node, range(len(node.output.shape)), {1: node.output.shape[1] // group if group > 1 else 1})

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        w = Region.whole(node.inputs[1].shape).replace(0, out_region[1])
        bias = None if node.operand(2) is None else Region([out_region[1]])
        return (conv_input(node, out_region)[0], w, bias)[:len(node.operands)]

    def flops(self, node: Node, out_region: Region) -> float:
        per_output = 2 * int(np.prod(node.inputs[1].shape[1:], dtype=np.int64)) + (node.operand(2) is not None)
        return float(out_region.size) * per_output

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        dtype = node.output.dtype
        if not out_region.size:
            return [np.empty(out_region.shape, dtype)]
        x, w, bias = widened(inputs[0]), widened(inputs[1]), inputs[2] if len(inputs) > 2 else None
        x = pad_or_crop(x, conv_input(node, out_region)[1], 0)
        y = convolve(x, w, conv_params(node).windows, out_region.shape[2:])
        if bias is not None:
            y += widened(bias).reshape(-1, *(1,) * (y.ndim - 2))
        return [y.astype(dtype, copy=False)]


def convolve(x: np.ndarray, w: np.ndarray, windows: Windows, out_sizes: Sequence[int]) -> np.ndarray:
    """The convolution of x (N, C, *padded) with w (OC, C / groups, *kernel), already padded: (N, OC, *out_sizes)."""
    n, channels = x.shape[:2]
    groups = channels // w.shape[1] if w.shape[1] else 1
    per_group = w.shape[0] // groups
    if w.shape[1] == 1 and groups > 1:
        return _depthwise(x, w, windows, out_sizes)
    depth = w.shape[1] * windows.taps
    matrix = w.reshape(groups, per_group, depth)
    y = np.empty((n, groups, per_group, *out_sizes), np.result_type(x, w))
    if windows.taps == 1 and set(windows.strides) == {1}:
        np.matmul(matrix, x.reshape(n, groups, depth, -1), out=y.reshape(n, groups, per_group, -1))
        return y.reshape(n, -1, *out_sizes)
    seen = _windows_of(x.reshape(n, groups, w.shape[1], *x.shape[2:]), windows, out_sizes)
    row_bytes = max(1, n * channels * windows.taps * int(np.prod(out_sizes[1:], dtype=np.int64)) * x.itemsize)
    rows = max(1, COLUMN_BYTES // row_bytes)
    first_out = 3 + len(out_sizes)
    for start in range(0, out_sizes[0], rows):
        part = seen[(slice(None),) * first_out + (slice(start, start + rows),)]
        columns = part.reshape(n, groups, depth, -1)
        y[:, :, :, start:start + rows] = np.matmul(matrix, columns).reshape(n, groups, per_group, -1, *out_sizes[1:])
    return y.reshape(n, -1, *out_sizes)


def _windows_of(x: np.ndarray, windows: Windows, out_sizes: Sequence[int]) -> np.ndarray:
    """A view (N, groups, C, *kernel, *out_sizes) of x (N, groups, C, *padded)."""
    count = len(out_sizes)
    axes = tuple(range(3, 3 + count))
    seen = sliding_window_view(x, [(k - 1) * d + 1 for k, d in zip(windows.kernel, windows.dilations)], axis=axes)
    seen = seen[(slice(None),) * 3 + tuple(slice(None, None, s) for s in windows.strides)
                + tuple(slice(None, None, d) for d in windows.dilations)]
    return seen.transpose(0, 1, 2, *range(3 + count, 3 + 2 * count), *axes)


def _depthwise(x: np.ndarray, w: np.ndarray, windows: Windows, out_sizes: Sequence[int]) -> np.ndarray:
    """One input channel per group: a sum of shifted, scaled copies, since its matrices would be one row thin."""
    n, channels = x.shape[:2]
    y = np.zeros((n, channels, w.shape[0] // channels, *out_sizes), np.result_type(x, w))
    factors = w.reshape(channels, -1, *windows.kernel)
    ones = (1,) * len(out_sizes)
    for tap in itertools.product(*map(range, windows.kernel)):
        y += x[tap_slices(windows, tap, out_sizes)][:, :, None] * factors[(slice(None), slice(None), *tap)].reshape(channels, -1, *ones)
    return y.reshape(n, -1, *out_sizes)
