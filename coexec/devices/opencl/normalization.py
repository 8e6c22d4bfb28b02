"""Normalizations on OpenCL: batch norm elementwise, LRN across channels, all others as statistics of lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...graph.ir import Node
from ..base import DeviceFacts
from .builder import ClOperand, Compile, builds, declines, short
from .conv_shape import strides
from .lines import arithmetic
from .nd import elementwise, local_along
from .statistics import Running, normalize
from .tail import five, i32, number, three, type_defines


def per_channel(parameter: ClOperand, rank: int) -> ClOperand:
    """A vector of channels as something that is broadcast over (batch, channel, ...)."""
    return replace(parameter, shape=(parameter.shape[0], *(1,) * (rank - 2)), strides=(parameter.strides[0], *(0,) * (rank - 2)))


@builds("BatchNormalization", tail=True)
def build_batch(c: Compile) -> None:
    x, y, kind = c.input(0), c.output(0), arithmetic(c.node.output.dtype)
    rank, epsilon = len(x.shape), float(c.node.attr("epsilon", 1e-5))
    if c.node.attr("training_mode", 0):
        scale, bias, *statistics = (None if w is None else per_channel(w, rank) for w in (*map(c.input, range(1, 5)), c.output(1), c.output(2)))
        normalize(c, "STANDARD", (0, *range(2, rank)), x, y, epsilon, scale, bias, c.residual,
                  running=Running(float(c.node.attr("momentum", 0.9)), *statistics))
        return
    c.implementation = f"{short(y.dtype)}_batchnormalization_elementwise"
    if all(c.is_constant(k) for k in range(1, 5)):
        scale, bias, mean, var = (c.value(k)[c.in_regions[k].slices].astype(np.float64) for k in range(1, 5))
        factor = scale / np.sqrt(var + epsilon)
        key = (*(id(c.value(k)) for k in range(1, 5)), tuple(c.in_regions[1]), epsilon)
        c.owned += [c.value(k) for k in range(1, 5)]
        folded = [per_channel(c.constant(a.astype(kind), (name, *key)), rank) for name, a in (("factor", factor), ("shift",
            bias - mean * factor))]
        elementwise(c, "FMA(a0, a1, a2)", y, [x, *folded], compute=kind, tail=True)
        return
    parameters = [per_channel(c.input(k), rank) for k in range(1, 5)]
    elementwise(c, "(a0 - a3) * (a1 / sqrt(a4 + (T)(p0))) + a2", y, [x, *parameters], compute=kind, scalars=[number(epsilon, kind)],
                tail=True)


@builds("InstanceNormalization", tail=True)
def build_instance(c: Compile) -> None:
    x = c.input(0)
    rank = len(x.shape)
    normalize(c, "STANDARD", range(2, rank), x, c.output(0), c.node.attr("epsilon", 1e-5), per_channel(c.input(1), rank),
              per_channel(c.input(2), rank),
              c.residual)


@builds("GroupNormalization", tail=True)
def build_group(c: Compile) -> None:
    size = c.node.output.shape[1] // int(c.node.attr("num_groups"))

    def grouped(w: ClOperand | None) -> ClOperand | None:
        """(batch, channel, ...) as (batch, group, channel of the group, ...)."""
        if w is None:
            return None
        return replace(w, shape=(w.shape[0], w.shape[1] // size, size, *w.shape[2:]), strides=(w.strides[0], w.strides[1] * size,
            w.strides[1], *w.strides[2:]))

    def parameter(w: ClOperand) -> ClOperand:
        rest = len(c.node.output.shape) - 2
        return replace(w, shape=(w.shape[0] // size, size, *(1,) * rest), strides=(w.strides[0] * size, w.strides[0], *(0,) * rest))

    x = grouped(c.input(0))
    normalize(c, "STANDARD", range(2, len(x.shape)), x, grouped(c.output(0)), c.node.attr("epsilon", 1e-5), parameter(c.input(1)),
              parameter(c.input(2)),
              grouped(c.residual))


def _trailing(c: Compile) -> Sequence[int]:
    rank = len(c.node.output.shape)
    return range(c.node.attr("axis", -1) % rank, rank)


@builds("LayerNormalization", tail=True)
def build_layer(c: Compile) -> None:
    normalize(c, "STANDARD", _trailing(c), c.input(0), c.output(0), c.node.attr("epsilon", 1e-5), c.input(1),
              c.input(2) if c.has(2) else None,
              c.residual, [c.output(1), c.output(2)])


@builds("RMSNormalization", tail=True)
def build_rms(c: Compile) -> None:
    normalize(c, "RMS", _trailing(c), c.input(0), c.output(0), c.node.attr("epsilon", 1e-5), c.input(1), None, c.residual)


@builds("LpNormalization", tail=True)
def build_lp(c: Compile) -> None:
    normalize(c, f"NORM{int(c.node.attr('p', 2))}", [c.node.attr("axis", -1)], c.input(0), c.output(0), r=c.residual)


@builds("MeanVarianceNormalization", tail=True)
def build_mean_variance(c: Compile) -> None:
    normalize(c, "MVN", c.node.attr("axes", (0, 2, 3)), c.input(0), c.output(0), 1e-9, r=c.residual)


@builds("LRN", tail=True)
def build_lrn(c: Compile) -> None:
    x, y, r = five(c.input(0)), five(c.output(0)), c.residual
    size, kind = int(c.node.attr("size")), arithmetic(y.dtype)
    pixels, windows = y.shape[2] * y.shape[3] * y.shape[4], [w for w in (x, y, r and five(r)) if w is not None]
    dense = all(replace(w, shape=w.shape[2:], strides=w.strides[2:]).is_contiguous for w in windows)
    width = 16 if dense and c.facts.emulated and y.dtype == np.float32 and pixels >= 16 else 1
    defines = {**type_defines(c), "V": width, **({"BETA_075": 1} if c.node.attr("beta", 0.75) == 0.75 else {})}
    c.implementation = f"{short(y.dtype)}_lrn_direct_{width}"
    items = -(-pixels // width)
    c.launch("lrn.cl", "lrn", defines, (items, y.shape[1], y.shape[0]), local_along(c, items), x, strides(x), y, strides(y),
             three(y.shape[2:], 1), *i32(x.shape[1], c.region[1].start - c.in_regions[0][1].start, size, (size - 1) // 2),
             number(c.node.attr("alpha", 1e-4) / size, kind), number(c.node.attr("beta", 0.75), kind), number(c.node.attr("bias", 1.0),
                 kind),
             *([r, strides(five(r))] if r is not None else []))


@declines("LRN", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
def many_axes(node: Node, facts: DeviceFacts) -> str | None:
    return "more than three spatial axes" if len(node.output.shape) > 5 else None


@declines("BatchNormalization")
def training_types(node: Node, facts: DeviceFacts) -> str | None:
    return other_types(node, facts) if node.attr("training_mode", 0) else None


@declines("InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization", "LpNormalization",
          "MeanVarianceNormalization")
def other_types(node: Node, facts: DeviceFacts) -> str | None:
    if len(node.output.shape) > 7:
        return "more than seven axes"
    if any(v is not None and v.dtype != node.output.dtype for v in node.operands):
        return "its operands have different types"
    if node.op_type == "LpNormalization" and int(node.attr("p", 2)) not in (1, 2):
        return "a norm other than 1 and 2"
    return None
