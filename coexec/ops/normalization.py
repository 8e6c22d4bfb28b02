"""Normalizations: cut along every axis whose statistics a piece still sees whole."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..graph.ir import Node
from ..regions import Interval, Region, Window, window_input
from .base import Op, SplitAxis, register
from .matmul import aligned_region
from .sliding import best_first, not_floats, widened


class _Normalization(Op):
    """X (and parameters) -> Y of X's shape."""

    #: Floating-point operations per element.
    effort = 7.0

    def declines(self, node: Node) -> str | None:
        return not_floats(node)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region,)

    def flops(self, node: Node, out_region: Region) -> float:
        return self.effort * out_region.size


class _PerChannel(_Normalization):
    """Operators whose parameters, every input but the first, have one entry per channel."""

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region, *(Region([out_region[1]]) for _ in node.operands[1:]))


def _by_channel(parameter: np.ndarray, rank: int) -> np.ndarray:
    return widened(parameter).reshape(-1, *(1,) * (rank - 2))


def _standardized(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x with mean 0 and variance 1 over `axes`; the mean; 1 / sqrt(variance + epsilon)."""
    mean = x.mean(axis=axes, keepdims=True)
    centered = x - mean
    inverse = 1 / np.sqrt((centered * centered).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    return centered * inverse, mean, inverse


@register
class BatchNormalization(_PerChannel):
    """(X - mean) * scale / sqrt(var + epsilon) + B. In training the statistics are X's own, over all axes but the channel; what was
    given as mean and variance goes, mixed with them, to the second and third output: momentum * given + (1 - momentum) * X's own."""

    op_types = ("BatchNormalization",)
    effort = 2.0

    def declines(self, node: Node) -> str | None:
        if not _trains(node) and any(v is not None for v in node.outputs[1:]):
            return "BatchNormalization gives its statistics in training only"
        if len(node.outputs) > 3:
            return "BatchNormalization in training as before opset 14 is not computed here"
        if _trains(node) and not node.output.type.size:  # pieces are pieces of the first output: nothing would make the others
            return "BatchNormalization in training of no elements"
        return "BatchNormalization needs a channel axis" if len(node.output.shape) < 2 else not_floats(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, (1,) if _trains(node) else range(len(node.output.shape)))

    def output_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region, *(None if v is None else Region([out_region[1]]) for v in node.outputs[1:]))

    def flops(self, node: Node, out_region: Region) -> float:
        return (_Normalization.effort if _trains(node) else self.effort) * out_region.size

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = widened(inputs[0])
        kind = np.result_type(x, *map(widened, inputs[1:]))
        scale, bias, mean, var = (_by_channel(p, x.ndim).astype(kind, copy=False) for p in inputs[1:])
        found = []
        if _trains(node):
            given, axes, momentum = (mean, var), (0, *range(2, x.ndim)), kind.type(node.attr("momentum", 0.9))
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no elements is NaN
                mean = x.astype(kind, copy=False).mean(axis=axes, keepdims=True)[0]
                var = np.square(x - mean).mean(axis=axes, keepdims=True)[0]
            found = [(old * momentum + new * (1 - momentum)).reshape(-1) for old, new in zip(given, (mean, var))]
        y = (x - mean) * (scale / np.sqrt(var + kind.type(node.attr("epsilon", 1e-5)))) + bias
        return [None if v is None else a.astype(v.dtype, copy=False) for v, a in zip(node.outputs, (y, *found))]


def _trains(node: Node) -> bool:
    return bool(node.attr("training_mode", 0))


@register
class InstanceNormalization(_PerChannel):
    """Each (batch, channel) plane standardized, then scaled and shifted per channel."""

    op_types = ("InstanceNormalization",)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, (0, 1))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = widened(inputs[0])
        y = _standardized(x, tuple(range(2, x.ndim)), node.attr("epsilon", 1e-5))[0]
        y = y * _by_channel(inputs[1], x.ndim) + _by_channel(inputs[2], x.ndim)
        return [y.astype(node.output.dtype, copy=False)]


@register
class GroupNormalization(_PerChannel):
    """`num_groups` groups of channels, each standardized per batch, then scaled and shifted per channel."""

    op_types = ("GroupNormalization",)

    def declines(self, node: Node) -> str | None:
        channels = node.output.shape[1]
        if any(v is not None and v.shape != (channels,) for v in node.operands[1:]):
            return "GroupNormalization with parameters per group (before opset 21) is not computed here"
        return not_floats(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, (0, 1), {1: self._group_size(node)})

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        if not out_region.size:
            return [np.empty(out_region.shape, node.output.dtype)]
        x = widened(inputs[0])
        grouped = x.reshape(x.shape[0], x.shape[1] // self._group_size(node), -1)
        y = _standardized(grouped, (2,), node.attr("epsilon", 1e-5))[0].reshape(x.shape)
        y = y * _by_channel(inputs[1], x.ndim) + _by_channel(inputs[2], x.ndim)
        return [y.astype(node.output.dtype, copy=False)]

    def _group_size(self, node: Node) -> int:
        return node.output.shape[1] // int(node.attr("num_groups"))


class _TrailingAxes(_Normalization):
    """Operators that normalize over the axes from `axis` (default: the last) on; parameters are broadcast over X."""

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, range(self._axis(node)))

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region, *(None if v is None else aligned_region(v.shape, out_region) for v in node.operands[1:]))

    def _axis(self, node: Node) -> int:
        return node.attr("axis", -1) % len(node.output.shape)


@register
class LayerNormalization(_TrailingAxes):
    """The trailing axes standardized, times Scale, plus B; second and third output: the mean, and 1 / standard deviation."""

    op_types = ("LayerNormalization",)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = widened(inputs[0])
        y, mean, inverse = _standardized(x, tuple(range(self._axis(node), x.ndim)), node.attr("epsilon", 1e-5))
        y = y * widened(inputs[1])
        if len(inputs) > 2 and inputs[2] is not None:
            y = y + widened(inputs[2])
        return [None if v is None else a.astype(v.dtype, copy=False) for v, a in zip(node.outputs, (y, mean, inverse))]


@register
class RMSNormalization(_TrailingAxes):
    """The trailing axes divided by their root mean square, times scale."""

    op_types = ("RMSNormalization",)
    effort = 4.0

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x = widened(inputs[0])
        power = (x * x).mean(axis=tuple(range(self._axis(node), x.ndim)), keepdims=True)
        y = x / np.sqrt(power + x.dtype.type(node.attr("epsilon", 1e-5))) * widened(inputs[1])
        return [y.astype(node.output.dtype, copy=False)]


@register
class LRN(_Normalization):
    """Each element divided by a power of the sum of squares of `size` channels around it; channel pieces read a halo."""

    op_types = ("LRN",)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, range(len(node.output.shape)))

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        return (out_region.replace(1, self._halo(node, out_region[1]).interval),)

    def flops(self, node: Node, out_region: Region) -> float:
        return float(out_region.size) * (2 * int(node.attr("size")) + 4)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        if not out_region.size:
            return [np.empty(out_region.shape, node.output.dtype)]
        x, size, count = widened(inputs[0]), int(node.attr("size")), out_region[1].size
        halo = self._halo(node, out_region[1])
        squares = np.pad(x * x, [(0, 0), (halo.pad_begin, halo.pad_end), *[(0, 0)] * (x.ndim - 2)])
        total = squares[:, :count].copy()
        for shift in range(1, size):
            total += squares[:, shift:shift + count]
        kind = x.dtype.type
        scale = kind(node.attr("bias", 1.0)) + kind(node.attr("alpha", 1e-4) / size) * total
        first = out_region[1].start - halo.interval.start
        y = x[:, first:first + count] / scale ** kind(node.attr("beta", 0.75))
        return [y.astype(node.output.dtype, copy=False)]

    def _halo(self, node: Node, channels: Interval) -> Window:
        size = int(node.attr("size"))
        return window_input(channels, node.inputs[0].shape[1], size, pad_begin=(size - 1) // 2)


@register
class LpNormalization(_Normalization):
    """Each line along `axis` divided by its 1- or 2-norm; a line of zeros stays zero."""

    op_types = ("LpNormalization",)
    effort = 3.0

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        rank = len(node.output.shape)
        return best_first(node, [d for d in range(rank) if d != node.attr("axis", -1) % rank])

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x, p = widened(inputs[0]), int(node.attr("p", 2))
        norm = (np.abs(x) ** p).sum(axis=node.attr("axis", -1), keepdims=True) ** x.dtype.type(1 / p)
        y = np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)
        return [y.astype(node.output.dtype, copy=False)]


@register
class MeanVarianceNormalization(_Normalization):
    """(X - mean) / (standard deviation + 1e-9) over `axes` (default: all but the channel)."""

    op_types = ("MeanVarianceNormalization",)

    def declines(self, node: Node) -> str | None:
        rank = len(node.output.shape)
        if any(not -rank <= a < rank for a in node.attr("axes", (0, 2, 3))):
            return f"MeanVarianceNormalization over axes {node.attr('axes', (0, 2, 3))} of a tensor of rank {rank}"
        return not_floats(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return best_first(node, [d for d in range(len(node.output.shape)) if d not in self._axes(node)])

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        x, axes = widened(inputs[0]), self._axes(node)
        centered = x - x.mean(axis=axes, keepdims=True)
        deviation = np.sqrt((centered * centered).mean(axis=axes, keepdims=True))
        return [(centered / (deviation + x.dtype.type(1e-9))).astype(node.output.dtype, copy=False)]

    def _axes(self, node: Node) -> tuple[int, ...]:
        rank = len(node.output.shape)
        return tuple(sorted({a % rank for a in node.attr("axes", (0, 2, 3))}))
