"""Sliding windows: the geometry that convolutions and poolings share, and what their pieces read.

Shapes are (batch, channel, *spatial); every tuple here has one entry per spatial axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region, Window, window_input
from .base import SplitAxis, axis_names

FLOATS = (np.float16, np.float32, np.float64)


class Windows(NamedTuple):
    """Kernel, strides, dilations and resolved padding (elements, `auto_pad` worked out) per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]

    @property
    def taps(self) -> int:
        """Number of elements under one window."""
        return int(np.prod(self.kernel, dtype=np.int64))


def per_axis(node: Node, name: str, count: int, default: int) -> tuple[int, ...]:
    """An integer-list attribute, one entry per spatial axis, or `default` everywhere where it is absent or empty."""
    return tuple(int(v) for v in node.attr(name) or (default,) * count)


def resolve_windows(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """The windows of a convolution or pooling over an input of `sizes` (spatial extents), as ONNX defines `auto_pad`.

    SAME pads so that the output has ceil(size / stride) rows, the odd one at the end (SAME_UPPER) or the beginning (SAME_LOWER).
    """
    count = len(sizes)
    kernel = tuple(int(k) for k in kernel)
    strides, dilations = per_axis(node, "strides", count, 1), per_axis(node, "dilations", count, 1)
    auto_pad = node.attr("auto_pad", "NOTSET")
    if auto_pad == "NOTSET":
        pads = per_axis(node, "pads", 2 * count, 0)
        return Windows(kernel, strides, dilations, pads[:count], pads[count:])
    if auto_pad == "VALID":
        return Windows(kernel, strides, dilations, (0,) * count, (0,) * count)
    missing = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n) for n, s, k, d in zip(sizes, strides, kernel, dilations)]
    less, more = tuple(m // 2 for m in missing), tuple(m - m // 2 for m in missing)
    return Windows(kernel, strides, dilations, *((less, more) if auto_pad == "SAME_UPPER" else (more, less)))


def needed(windows: Windows, sizes: Sequence[int], out: Sequence[Interval]) -> list[Window]:
    """Per spatial axis: the input rows that output rows `out` read, and the padding around them."""
    w = windows
    return [window_input(o, n, k, s, d, p) for o, n, k, s, d, p in zip(out, sizes, w.kernel, w.strides, w.dilations, w.pads_begin)]


def pad_or_crop(x: np.ndarray, spans: Sequence[Window], fill: float) -> np.ndarray:
    """The piece `x` (batch, channel, *spatial) with the padding its windows ask for; negative padding crops. May return `x`."""
    if not any((s.pad_begin, s.pad_end) != (0, 0) for s in spans):
        return x
    sizes = [n + s.pad_begin + s.pad_end for n, s in zip(x.shape[2:], spans)]
    padded = np.full((*x.shape[:2], *sizes), fill, x.dtype)
    into = tuple(slice(min(max(0, s.pad_begin), size), max(0, min(size, s.pad_begin + n))) for s, n, size in zip(spans, x.shape[2:], sizes))
    of = tuple(slice(i.start - s.pad_begin, i.stop - s.pad_begin) for i, s in zip(into, spans))
    if all(i.start < i.stop for i in into):
        padded[(..., *into)] = x[(..., *of)]
    return padded


def tap_slices(windows: Windows, tap: Sequence[int], out_sizes: Sequence[int]) -> tuple[slice, ...]:
    """Where, in a padded piece, kernel element `tap` of every window lies: slices of (batch, channel, *spatial)."""
    spatial = (slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in zip(tap, windows.dilations, windows.strides, out_sizes))
    return (slice(None), slice(None), *spatial)


def taps_inside(windows: Windows, axis: int, out: Interval, begin: int, end: int) -> np.ndarray:
    """How many kernel elements of each output row of `out` lie at input rows begin <= i < end, along one spatial axis."""
    w = windows
    first = np.arange(out.start, out.stop)[:, None] * w.strides[axis] - w.pads_begin[axis]
    rows = first + np.arange(w.kernel[axis]) * w.dilations[axis]
    return ((rows >= begin) & (rows < end)).sum(axis=1)


def best_first(node: Node, dims: Sequence[int], multiples: dict[int, int] | None = None) -> tuple[SplitAxis, ...]:
    """The split axes among `dims` of the first output that have room for a cut: first spatial axis, channel, the rest, batch."""
    shape, names = node.output.shape, axis_names(len(node.output.shape))
    rank = {2: 0, 1: 1, 0: len(shape) + 2}
    axes = [SplitAxis(names[d], d, shape[d], (multiples or {}).get(d, 1)) for d in sorted(dims, key=lambda d: rank.get(d, d + 1))]
    return tuple(a for a in axes if a.extent >= 2 and a.multiple < a.extent)


def widened(x: np.ndarray) -> np.ndarray:
    """`x` in the type it is computed in: float16 as float32, anything else as it is."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def not_floats(node: Node) -> str | None:
    """Why a node whose tensors must be float16, float32 or float64 is not computed here, or None."""
    for value in (*node.operands, *node.outputs):
        if value is not None and value.dtype not in FLOATS:
            return f"{node.op_type} of {value.dtype} is not computed here"
    return None


def spatial(region: Region) -> tuple[Interval, ...]:
    """The spatial part of a region of (batch, channel, *spatial)."""
    return tuple(region[2:])
