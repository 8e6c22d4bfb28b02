"""ConvTranspose: the gradient of a convolution as an operator, each input row spread over `kernel` output rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region
from .base import Op, SplitAxis, register
from .conv import group_span
from .sliding import best_first, not_floats, per_axis, spatial, widened


class ConvTransposeParams(NamedTuple):
    """Per spatial axis: output row o receives input row i through kernel row k where o == i*stride + k*dilation - pad_begin."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    group: int


def conv_transpose_params(node: Node) -> ConvTransposeParams:
    """The resolved parameters of that ConvTranspose; trailing padding and output_padding show in the output's shape alone."""
    x, kernel = node.inputs[0], node.inputs[1].shape[2:]
    count = len(kernel)
    strides, dilations = per_axis(node, "strides", count, 1), per_axis(node, "dilations", count, 1)
    auto_pad = node.attr("auto_pad", "NOTSET")
    begins = per_axis(node, "pads", 2 * count, 0)[:count]
    wanted = node.attr("output_shape")
    if wanted or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        extra = per_axis(node, "output_padding", count, 0)
        targets = [int(t) for t in wanted][-count:] if wanted else [n * s for n, s in zip(x.shape[2:], strides)]
        totals = [max(0, (n - 1) * s + e + (k - 1) * d + 1 - t)
                  for n, s, e, k, d, t in zip(x.shape[2:], strides, extra, kernel, dilations, targets)]
        begins = tuple(t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals)
    elif auto_pad == "VALID":
        begins = (0,) * count
    return ConvTransposeParams(tuple(kernel), strides, dilations, begins, int(node.attr("group", 1)))


def rows_reaching(out: Interval, size: int, kernel: int, stride: int, dilation: int, pad_begin: int) -> Interval:
    """The hull of the input rows that reach output rows `out`, of an input of `size` rows.

    One real row where none does (only bias is there), so that every kernel's addressing stays valid.
    """
    if not out.size:
        return Interval(0, 0)
    first = max(0, -(-(out.start + pad_begin - (kernel - 1) * dilation) // stride))
    last = min(size - 1, (out.stop - 1 + pad_begin) // stride)

    def reaches(i: int) -> bool:
        low, high = out.start + pad_begin - i * stride, out.stop - 1 + pad_begin - i * stride
        return max(0, -(-low // dilation)) <= min(kernel - 1, high // dilation)

    while first <= last and not reaches(first):
        first += 1
    while first <= last and not reaches(last):
        last -= 1
    if first > last:
        at = min(max(first, 0), size - 1)
        return Interval(at, at + 1)
    return Interval(first, last + 1)


@register
class ConvTranspose(Op):
    """X (N, C, *spatial), W (C, OC / group, *kernel), B (OC) -> Y (N, OC, *spatial)."""

    op_types = ("ConvTranspose",)

    def declines(self, node: Node) -> str | None:
        return not_floats(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        group = int(node.attr("group", 1))
        return best_first(node, range(len(node.output.shape)), {1: node.output.shape[1] // group if group > 1 else 1})

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        x, w = node.inputs[0], node.inputs[1]
        p = conv_transpose_params(node)
        rows = [rows_reaching(o, n, k, s, d, b) for o, n, k, s, d, b
                in zip(spatial(out_region), x.shape[2:], p.kernel, p.strides, p.dilations, p.pads_begin)]
        channels, weights = Interval(0, x.shape[1]), Region.whole(w.shape)
        if p.group > 1:
            channels = group_span(out_region[1], w.shape[1], x.shape[1] // p.group)
            weights = weights.replace(0, channels)
        else:
            weights = weights.replace(1, out_region[1])
        bias = None if node.operand(2) is None else Region([out_region[1]])
        return (Region([out_region[0], channels, *rows]), weights, bias)[:len(node.operands)]

    def flops(self, node: Node, out_region: Region) -> float:
        x = self.input_regions(node, out_region)[0]
        positions = x.shape[0] * int(np.prod(x.shape[2:], dtype=np.int64))
        weights = node.inputs[1].type.size * out_region[1].size / max(1, node.output.shape[1])
        return 2.0 * positions * weights + out_region.size * (node.operand(2) is not None)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        dtype = node.output.dtype
        if not out_region.size:
            return [np.empty(out_region.shape, dtype)]
        x, w = widened(inputs[0]), widened(inputs[1])
        p = conv_transpose_params(node)
        y = np.zeros(out_region.shape, x.dtype)
        if x.size:
            groups = out_region[1].size // w.shape[1] if p.group > 1 else 1
            _spread(x, w, y, groups, p, self.input_regions(node, out_region)[0], out_region)
        if len(inputs) > 2 and inputs[2] is not None:
            y += widened(inputs[2]).reshape(-1, *(1,) * (y.ndim - 2))
        return [y.astype(dtype, copy=False)]


def _spread(x: np.ndarray, w: np.ndarray, y: np.ndarray, groups: int, p: ConvTransposeParams, x_region: Region,
            out_region: Region) -> None:
    """Adds to y, one kernel element at a time, what the piece `x_region` of x contributes to `out_region`."""
    n, group_in = x.shape[0], x.shape[1] // groups
    x = x.reshape(n, groups, group_in, *x.shape[2:])
    w = w.reshape(groups, group_in, w.shape[1], *p.kernel)
    y = y.reshape(n, groups, w.shape[2], *y.shape[2:])
    for tap in itertools.product(*map(range, p.kernel)):
        of, into = [], []
        for t, rows, out, s, d, b in zip(tap, spatial(x_region), spatial(out_region), p.strides, p.dilations, p.pads_begin):
            shift = t * d - b
            first = max(rows.start, -(-(out.start - shift) // s))
            stop = min(rows.stop, (out.stop - 1 - shift) // s + 1)
            of.append(slice(first - rows.start, stop - rows.start))
            into.append(slice(first * s + shift - out.start, (stop - 1) * s + shift - out.start + 1, s))
        if any(i.stop <= i.start for i in of):
            continue
        part = x[(slice(None),) * 3 + tuple(of)]
        factors = w[(slice(None),) * 3 + tap].transpose(0, 2, 1)
        spread = np.matmul(factors, part.reshape(n, groups, group_in, -1))
        y[(slice(None),) * 3 + tuple(into)] += spread.reshape(n, groups, -1, *part.shape[3:])

