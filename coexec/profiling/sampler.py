"""What is timed: shapes as real networks have them, by family, whole and cut.

A few telling shapes come first (`SHAPES`), then random ones (`draw`): channels, maps and kernels of common families of networks, cut
at random. Which family is drawn from depends on how badly it is predicted so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from ..graph.ir import Node
from ..ops import op_for
from ..regions import Region
from .table import Measurement, node_of


@dataclass(frozen=True)
class Sample:
    """A piece to time: the node, the region of its output, and the row that the node was made of."""

    node: Node
    region: Region
    row: Measurement


def row(op_type: str, n: int, c: int, h: int, w: int, oc: int = 0, k: int = 0, s: int = 1, g: int = 1, oh: int = 0,
        ow: int = 0) -> Measurement:
    """The size columns of a shape; outputs default to what `same` padding makes."""
    return Measurement("", "cpu", None, op_type, "", "float32", n, c, h, w, oc or c, oh or -(-h // s), ow or -(-w // s), k or None,
                       k or None,
                       s if k else None, s if k else None, g, 0, 1.0)


def _conv(c: int, hw: int, oc: int, k: int, s: int = 1, g: int = 1) -> Measurement:
    return row("Conv", 1, c, hw, hw, oc, k, s, g)


def _product(rows: int, k: int, columns: int, stack: int = 1) -> Measurement:
    return row("MatMul", 1, k, rows, 1, columns, g=stack)


#: Per family, the most telling shapes first: a short budget takes a beginning of every list.
SHAPES: dict[str, list[Measurement]] = {
    "conv_1x1": [_conv(64, 56, 64, 1), _conv(256, 14, 1024, 1), _conv(512, 7, 512, 1), _conv(16, 112, 96, 1), _conv(32, 112, 64, 1),
                 _conv(256, 28, 128, 1), _conv(128, 28, 512, 1), _conv(96, 14, 576, 1), _conv(960, 7, 160, 1), _conv(24, 56, 144, 1),
                 _conv(144, 28, 32, 1), _conv(512, 13, 1000, 1), _conv(256, 56, 64, 1), _conv(1024, 14, 256, 1)],
    "conv_3x3": [_conv(64, 56, 64, 3), _conv(128, 28, 128, 3), _conv(256, 28, 256, 3), _conv(512, 14, 512, 3), _conv(64, 112, 64, 3),
                 _conv(256, 14, 256, 3), _conv(512, 7, 512, 3), _conv(16, 55, 64, 3), _conv(32, 112, 32, 3),
                 _conv(48, 13, 192, 3), _conv(96, 28, 208, 3), _conv(3, 112, 32, 3)],
    "conv_dense": [_conv(3, 224, 32, 3, 2), _conv(3, 224, 64, 7, 2), _conv(64, 56, 128, 3, 2), _conv(128, 28, 128, 5),
                   _conv(256, 14, 512, 3, 2),
                   _conv(64, 56, 128, 1, 2), _conv(16, 28, 48, 5), _conv(32, 64, 32, 9), _conv(96, 28, 64, 5)],
    "conv_depthwise": [_conv(144, 56, 144, 3, 1, 144), _conv(96, 112, 96, 3, 2, 96), _conv(512, 14, 512, 3, 1, 512),
                       _conv(32, 112, 32, 3, 1, 32),
                       _conv(960, 7, 960, 3, 1, 960), _conv(120, 28, 120, 5, 1, 120), _conv(256, 28, 256, 3, 2, 256),
                       _conv(672, 14, 672, 5, 2, 672)],
    "conv_grouped": [_conv(128, 56, 128, 3, 1, 32), _conv(240, 28, 240, 1, 1, 3), _conv(256, 28, 256, 3, 1, 32),
                     _conv(480, 14, 480, 1, 1, 3),
                     _conv(96, 27, 256, 5, 1, 2)],
    "conv_transpose": [row("ConvTranspose", 1, 64, 28, 28, 32, 2, 2, oh=56, ow=56),
                       row("ConvTranspose", 1, 128, 14, 14, 64, 2, 2, oh=28, ow=28),
                       row("ConvTranspose", 1, 32, 56, 56, 16, 2, 2, oh=112, ow=112),
                       row("ConvTranspose", 1, 256, 7, 7, 128, 2, 2, oh=14, ow=14)],
    "gemm": [row("Gemm", 1, 1024, 1, 1, 1000), row("Gemm", 1, 2048, 1, 1, 1000), row("Gemm", 1, 256, 128, 1, 1024),
             row("Gemm", 1, 512, 1, 1, 10),
             row("Gemm", 1, 1280, 1, 1, 1000), row("Gemm", 1, 512, 16, 1, 512), row("Gemm", 1, 4096, 1, 1, 1024)],
    "matmul": [_product(128, 256, 256), _product(128, 64, 128, 4), _product(128, 128, 64, 4), _product(128, 256, 1024),
               _product(128, 1024, 256),
               _product(384, 64, 384, 12), _product(64, 512, 512), _product(16, 64, 64, 8)],
    "pool": [row("MaxPool", 1, 64, 112, 112, k=3, s=2), row("MaxPool", 1, 128, 56, 56, k=2, s=2), row("AveragePool", 1, 192, 28, 28, k=3),
             row("MaxPool", 1, 256, 14, 14, k=3, s=2), row("MaxPool", 1, 512, 13, 13, k=5), row("AveragePool", 1, 64, 56, 56, k=2, s=2)],
    "reduction": [row("GlobalAveragePool", 1, 1024, 7, 7, oh=1, ow=1), row("GlobalAveragePool", 1, 144, 56, 56, oh=1, ow=1),
                  row("GlobalAveragePool", 1, 512, 14, 14, oh=1, ow=1), row("GlobalMaxPool", 1, 64, 112, 112, oh=1, ow=1)],
    "elementwise": [row("Relu", 1, 64, 56, 56), row("Add", 1, 256, 56, 56), row("Mul", 1, 96, 28, 28), row("Relu", 1, 512, 7, 7),
                    row("Add", 1, 64, 14, 14), row("Relu", 1, 64, 112, 112), row("Relu", 1, 16, 14, 14), row("Add", 1, 512, 28, 28)],
    "elementwise_slow": [row("Sigmoid", 1, 64, 56, 56), row("HardSwish", 1, 240, 28, 28), row("Tanh", 1, 1, 128, 256),
                         row("Erf", 1, 1, 128, 1024),
                         row("Sigmoid", 1, 1, 1, 960), row("Exp", 1, 32, 112, 112)],
    "normalization": [row("LayerNormalization", 1, 1, 128, 256), row("LayerNormalization", 1, 1, 384, 768),
                      row("BatchNormalization", 1, 64, 56, 56),
                      row("InstanceNormalization", 1, 32, 112, 112), row("BatchNormalization", 1, 512, 7, 7),
                      row("LayerNormalization", 1, 1, 16, 128)],
    "softmax": [row("Softmax", 1, 4, 128, 128), row("Softmax", 1, 1, 1, 1000), row("Softmax", 1, 12, 384, 384),
                row("Softmax", 1, 1, 64, 64),
                row("Softmax", 1, 1, 3000, 2)],
    "movement": [row("Concat", 1, 64, 56, 56, 128), row("Transpose", 1, 64, 56, 56, 56, oh=56, ow=64), row("Concat", 1, 128, 13, 13, 256),
                 row("Transpose", 1, 128, 4, 64, 4, oh=64, ow=128), row("Concat", 1, 16, 28, 28, 32), row("Concat", 1, 128, 56, 56, 256)],
}

#: How many of a family's most telling shapes come first. Most of a network's time goes into 3x3 convolutions that are larger than most drawn at
#: random: without some of them a short round tells of what it has not seen.
FIRST_OF = {"conv_3x3": 5, "conv_1x1": 3}

#: Shares of the first and second split axis that a cut gives a piece.
SHARES = (0.5, 0.25, 0.75)


def samples() -> Iterator[Sample]:
    """Everything worth timing, most telling first, the families taking turns; every third shape also cut."""
    turns = zip_longest(*(map(whole_of, rows) for rows in SHAPES.values()))
    for rank, turn in enumerate(turns):
        whole = [s for s in turn if s is not None]
        yield from whole
        if rank % 3 == 0:
            for sample in whole:
                yield from cut_samples(sample, SHARES[rank // 3 % len(SHARES)])


def whole_of(shape: Measurement) -> Sample:
    """The whole output of a row's node."""
    node = node_of(shape)
    return Sample(node, Region.whole(node.output.shape), shape)


def cut_samples(sample: Sample, share: float) -> Iterator[Sample]:
    """The first piece of a cut at about `share` along each of the first two axes."""
    node = sample.node
    axes = [a for a in op_for(node).split_axes(node) if a.extent > a.multiple]
    for axis in axes[:2]:
        fewest = 1 if axis.multiple == 1 else 2  # one group alone is no grouped convolution any more
        at = max(fewest, round(share * axis.extent / axis.multiple)) * axis.multiple
        if at < axis.extent:
            yield replace(sample, region=sample.region.replace(axis.dim, (0, at)))


# Random shapes

#: Heights and widths of feature maps, channels, and how often each family is drawn from: by how many operators of whole networks are of it and
#: how many kernels it has; light ones take little time to time.
MAPS = (7, 7, 8, 10, 12, 13, 14, 14, 16, 19, 20, 24, 26, 28, 28, 32, 38, 40, 48, 52, 56, 56, 64, 80, 96, 104, 112, 112, 128, 160, 192, 208, 224,
        256, 320, 416)
CHANNELS = (3, 8, 10, 16, 16, 20, 24, 24, 32, 32, 40, 48, 56, 64, 64, 72, 80, 96, 112, 120, 128, 128, 144, 160, 184, 192, 208, 240, 256,
            256, 288, 320, 384, 440, 480, 512, 512, 576, 640, 672, 768, 832, 960, 1000, 1024, 1024, 1280, 2048)
#: What a sample may take at most: millions of operations and of bytes; elements of a map. Most, some of a short round, some of a long one.
SMALL, MIDDLE, LARGE = (250.0, 12.0, 1 << 20), (1500.0, 30.0, 3 << 20), (4000.0, 60.0, 6 << 20)
#: The share of a short and of a long round's samples that may be larger: they take as long as many small ones.
MIDDLE_SHARE, LARGE_SHARE = 0.12, 0.3
SHARE = {"conv_1x1": 10.0, "conv_3x3": 9.0, "conv_dense": 4.0, "conv_depthwise": 4.0, "gemm": 1.0, "matmul": 1.5, "pool": 5.0, "movement": 5.0,
         "elementwise": 5.0, "elementwise_slow": 1.0, "normalization": 2.0, "softmax": 1.0, "reduction": 1.5, "resize": 0.7, "pad": 0.7, "space": 0.3,
         "conv_grouped": 1.0, "conv_transpose": 0.5, "lookup": 0.5}
#: What follows a convolution or product in a network, besides nothing and clamps, which cost nothing.
TAILS = ("+residual", "+HardSwish", "+LeakyRelu", "+Silu", "+residual+Relu", "+Tanh", "+Gelu")


def draw(family: str, rng: np.random.Generator, most: tuple[float, float, int] = SMALL) -> Sample:
    """A random shape of a family, whole or cut, within limits such as SMALL."""
    most_mflop, most_mbyte, elements = most
    for _ in range(60):
        made = _ROWS[family](rng, elements)
        if family.startswith("conv") and family != "conv_transpose" or family in ("gemm", "matmul"):
            if rng.random() < 0.2:
                made = replace(made, implementation=str(rng.choice(TAILS)))
        found = whole_of(made)
        if rng.random() < 0.5 and family not in _WHOLE:
            found = random_cut(found, rng) or found
        work = op_for(found.node).work(found.node, found.region)
        if work.flops <= most_mflop * 1e6 and work.bytes_read + work.bytes_written <= most_mbyte * 1e6:
            return found
    return whole_of(SHAPES[family][0] if family in SHAPES else made)


def random_cut(sample: Sample, rng: np.random.Generator) -> Sample | None:
    """A piece of a cut anywhere along one of the first two axes, its beginning or its end."""
    node = sample.node
    axes = [a for a in op_for(node).split_axes(node)[:2] if a.extent > 2 * a.multiple]
    if not axes:
        return None
    axis = axes[int(rng.integers(len(axes)))]
    units = -(-axis.extent // axis.multiple)
    at = int(rng.integers(2 if axis.multiple > 1 else 1, units)) * axis.multiple
    if axis.extent >= 64 and axis.multiple == 1 and rng.random() < 0.7:
        at = max(8, at // 8 * 8)
    # Ends of a group's channels alone are no grouped convolution any more.
    span = (0, at) if rng.random() < 0.5 or axis.multiple > 1 and axis.extent - at < 2 * axis.multiple else (at, axis.extent)
    return replace(sample, region=sample.region.replace(axis.dim, span)) if 0 < at < axis.extent else None


def _map(rng: np.random.Generator, least: int = 7) -> int:
    return int(rng.choice([m for m in MAPS if m >= least]))


def _channels(rng: np.random.Generator, size: int, most: int) -> int:
    """Few channels on large maps, many on small ones; a third of them any multiple of eight."""
    fits = [c for c in CHANNELS if c * size * size <= most and (c >= 8 or size >= 28)]
    fits = [c for c in fits if c >= 0.04 * fits[-1]] or [8]
    if rng.random() < 0.33 and fits[-1] >= 16:
        return max(8, round(float(np.exp(rng.uniform(np.log(max(8, fits[0])), np.log(fits[-1])))) / 8) * 8)
    return int(rng.choice(fits))


def _random_conv(rng: np.random.Generator, most: int, k: int, s: int = 1) -> Measurement:
    hw = _map(rng, 14 if s > 1 else 7)
    wide = hw if rng.random() < 0.85 else max(4, hw + int(rng.integers(-hw // 3, hw // 3 + 1)))
    c, oc = _channels(rng, hw, most), _channels(rng, -(-hw // s), most)
    if k == 1 and rng.random() < 0.08:
        hw = wide = 1
        c, oc = int(rng.choice(CHANNELS[10:40])), int(rng.choice(CHANNELS[8:]))
    return row("Conv", 1, c, hw, wide, oc, k, s, oh=-(-hw // s), ow=-(-wide // s))


def _random_dense(rng: np.random.Generator, most: int) -> Measurement:
    k, s = [(3, 2), (3, 2), (5, 1), (5, 1), (7, 2), (1, 2), (9, 1), (7, 1), (7, 1), (5, 2)][int(rng.integers(10))]
    if rng.random() < 0.35:  # the first layer of a network
        hw = int(rng.choice([112, 128, 160, 192, 224, 256]))
        k, s = [(3, 2), (7, 2), (3, 1), (9, 1), (6, 2)][int(rng.integers(5))]
        return _conv(3, hw, int(rng.choice([16, 24, 32, 64])), k, s)
    return _random_conv(rng, most, k, s)


def _random_depthwise(rng: np.random.Generator, most: int) -> Measurement:
    hw, k, s = _map(rng), int(rng.choice([3, 3, 3, 3, 5, 5, 7])), int(rng.choice([1, 1, 2]))
    c = max(8, _channels(rng, hw, most))
    return _conv(c, hw, c, k, s, c)


def _random_product(rng: np.random.Generator, most: int) -> Measurement:
    inner, columns = (int(rng.choice([64, 128, 256, 312, 384, 512, 768, 1024, 2048])) for _ in range(2))
    if rng.random() < 0.5:
        return _product(int(rng.choice([1, 4, 16, 49, 64, 128, 197, 256, 384])), inner, columns)
    rows, head, heads = int(rng.choice([16, 49, 64, 128, 197, 256])), int(rng.choice([32, 64])), int(rng.choice([2, 4, 8, 12]))
    return _product(rows, head, rows, heads) if rng.random() < 0.5 else _product(rows, rows, head, heads)


#: How often one operand is a number for every channel: squeeze-and-excitation multiplies by such.
_BROADCAST = {"Add": 0.25, "Sub": 0.35, "Mul": 0.7, "Div": 0.5}


def _random_plain(op_types: str) -> Callable[[np.random.Generator, int], Measurement]:
    names = op_types.split()

    def make(rng: np.random.Generator, most: int) -> Measurement:
        kind, hw = str(rng.choice(names)), _map(rng)
        c = _channels(rng, hw, most)
        if kind == "Softmax" and rng.random() < 0.3:  # a classifier's
            return row(kind, 1, 1, 1, int(rng.choice([10, 21, 100, 512, 1000, 1000, 1001, 2048])))
        if kind == "Softmax" and rng.random() < 0.25:  # a detector's, for every box
            return row(kind, 1, int(rng.choice([200, 800, 1000, 2000, 4000, 8000])), 1, int(rng.choice([2, 2, 4, 21, 80])))
        if kind in _BROADCAST and rng.random() < 0.25:  # a transformer's, of words or of a mask
            many, length = int(rng.choice([1, 1, 4, 16, 64, 128, 197, 256, 384])), int(rng.choice([8, 32, 64, 128, 128, 256, 384, 512, 768, 1024]))
            return replace(row(kind, 1, many, 1, length), implementation=str(rng.choice(["", "+row", "+row", "+scalar"])))
        if kind in ("LayerNormalization", "Softmax", "RMSNormalization") and rng.random() < 0.9:
            heads, rows = int(rng.choice([1, 1, 4, 8, 12])), int(rng.choice([1, 16, 64, 128, 197, 256]))
            return row(kind, 1, heads, rows, int(rng.choice([64, 128, 197, 256, 512, 768, 1000])))
        if kind.startswith("Global"):
            return row(kind, 1, c, hw, hw, oh=1, ow=1)
        if kind == "Concat":
            inputs = int(rng.choice([2, 2, 3, 4, 4, 6]))
            if rng.random() < 0.12:  # a detector's boxes, few numbers for each
                boxes = int(rng.choice([100, 200, 400, 800, 1600, 3200]))
                return row(kind, 1, boxes, 1, int(rng.choice([1, 2, 4, 4, 8, 10, 16])), boxes * inputs, g=inputs)
            return row(kind, 1, max(1, 2 * c // inputs), hw, hw, max(1, 2 * c // inputs) * inputs, g=inputs)
        if kind == "Transpose" and rng.random() < 0.6:
            if rng.random() < 0.4:  # few numbers for every place, as detectors have them
                c = int(rng.choice([2, 3, 4, 6, 8, 10, 12, 16, 20, 24]))
            return row(kind, 1, c, hw, hw, hw, oh=hw, ow=c)
        if kind == "Transpose":  # groups of channels, or heads, change places; what lies in a row stays
            groups, inner = int(rng.choice([2, 3, 4, 4, 8, 12])), int(rng.choice([hw * hw, hw * hw, 32, 64]))
            many = max(1, c // groups) if inner == hw * hw else int(rng.choice([16, 64, 128, 197, 256]))
            return replace(row(kind, 1, groups, many, inner, many, oh=groups, ow=inner), implementation="+kept")
        made = row(kind, 1, c, hw, hw)
        if kind in ("InstanceNormalization", "BatchNormalization") and rng.random() < 0.5:
            return replace(made, implementation="+Relu")
        return replace(made, implementation="+broadcast") if kind in ("Add", "Mul", "Sub", "Div") and rng.random() < _BROADCAST[kind] else made

    return make


def _random_pool(rng: np.random.Generator, most: int) -> Measurement:
    if rng.random() < 0.12:  # the whole map, before the last layer
        hw = int(rng.integers(5, 14))
        return row("AveragePool", 1, max(8, _channels(rng, hw, most)), hw, hw, k=hw, oh=1, ow=1)
    k, s = [(3, 2), (2, 2), (3, 1), (3, 1), (5, 1)][int(rng.integers(5))]
    hw = _map(rng, 14)
    return row(str(rng.choice(["MaxPool", "MaxPool", "AveragePool"])), 1, _channels(rng, hw, most), hw, hw, k=k, s=s)


def _random_resize(rng: np.random.Generator, most: int) -> Measurement:
    hw, times = _map(rng), int(rng.choice([2, 2, 2, 4]))
    made = row("Resize", 1, _channels(rng, times * hw, most), hw, hw, oh=times * hw, ow=times * hw)
    return replace(made, implementation=str(rng.choice(["+nearest", "+nearest", "+linear"])))


def _random_pad(rng: np.random.Generator, most: int) -> Measurement:
    hw, more = _map(rng, 14), int(rng.choice([1, 1, 2, 3, 4]))
    made = row("Pad", 1, _channels(rng, hw, most), hw, hw, oh=hw + 2 * more, ow=hw + 2 * more)
    return replace(made, implementation=str(rng.choice(["+constant", "+reflect"])))


def _random_space(rng: np.random.Generator, most: int) -> Measurement:
    small, block = int(rng.choice([m for m in MAPS if m <= 128])), int(rng.choice([2, 2, 2, 3, 4]))
    few = max(1, _channels(rng, small * block, most) // 2)
    inner, outer = (few, small * block, small * block), (few * block * block, small, small)
    (c, h, w), (oc, oh, ow), name = (inner, outer, "SpaceToDepth") if rng.random() < 0.5 else (outer, inner, "DepthToSpace")
    return row(name, 1, c, h, w, oc, oh=oh, ow=ow)


def _random_grouped(rng: np.random.Generator, most: int) -> Measurement:
    hw, g = _map(rng, 14), int(rng.choice([2, 3, 4, 8, 32]))
    c = g * int(rng.choice([8, 16, 24, 32]))
    return _conv(c, hw, c, int(rng.choice([1, 3, 3])), 1, g)


def _random_transposed(rng: np.random.Generator, most: int) -> Measurement:
    hw = _map(rng)
    c = max(8, _channels(rng, 2 * hw, most))
    return row("ConvTranspose", 1, c, hw, hw, max(4, c // 2), int(rng.choice([2, 2, 3, 3, 4])), 2, oh=2 * hw, ow=2 * hw)


def _random_lookup(rng: np.random.Generator, most: int) -> Measurement:
    words, length = int(rng.choice([1, 8, 16, 64, 128, 197, 256, 384])), int(rng.choice([64, 128, 256, 312, 384, 512, 768, 1024]))
    kind = int(rng.integers(3))
    if kind == 0:  # rows of a table, for every word
        return row("Gather", int(rng.choice([128, 512, 1000, 4000])), length, 1, 1, words, oh=1, ow=length)
    if kind == 1:  # one row, the first
        return row("Gather", 1, 1, 1, length, length, oh=1, ow=1)
    return row("Cast", 1, 1, int(rng.choice([1, 1, 16, 128])), words)


_ROWS: dict[str, Callable[[np.random.Generator, int], Measurement]] = {
    "conv_1x1": lambda rng, most: _random_conv(rng, most, 1), "conv_3x3": lambda rng, most: _random_conv(rng, most, 3), "conv_dense": _random_dense,
    "conv_depthwise": _random_depthwise, "conv_grouped": _random_grouped, "conv_transpose": _random_transposed,
    "gemm": lambda rng, most: row("Gemm", 1, int(rng.choice([256, 512, 576, 960, 1024, 1280, 2048, 4096])), int(rng.choice([1, 1, 1, 16, 128])), 1,
                            int(rng.choice([2, 10, 100, 256, 1000, 1000, 1024, 1280, 2048]))),
    "matmul": _random_product, "pool": _random_pool, "movement": _random_plain("Concat Concat Transpose"),
    "elementwise": _random_plain("Relu Add Add Mul Mul Mul Sum Sub Div"), "elementwise_slow": _random_plain("Sigmoid HardSwish Tanh Exp"),
    "normalization": _random_plain("LayerNormalization BatchNormalization InstanceNormalization LRN"), "softmax": _random_plain("Softmax"),
    "reduction": _random_plain("GlobalAveragePool"), "resize": _random_resize, "pad": _random_pad, "space": _random_space,
    "lookup": _random_lookup,
}
#: Of these no piece is drawn: what it reads is not told by its sizes.
_WHOLE = ("space", "pad", "lookup")


class Sampler:
    """Samples without end: the telling shapes' beginning, then random ones, more of families that are predicted badly.

    large: whether some may be as large as the largest layers. error: family -> how far off fits are so far (relative); set by whoever fits.
    """

    def __init__(self, seed: int = 0, large: bool = False, first: int = 2):
        self.rng, self.large, self.first = np.random.default_rng(seed), large, first
        self.error: dict[str, float] = {}

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        for rank in range(max(self.first, *FIRST_OF.values()) if self.first else 0):
            for name, rows in SHAPES.items():
                if rank < min(len(rows), max(self.first, FIRST_OF.get(name, 0))):
                    yield name, whole_of(rows[rank])
        names = list(_ROWS)
        while True:
            weights = np.array([SHARE[n] * (0.7 + min(0.6, 3 * self.error.get(n, 0.1))) for n in names])
            name = str(self.rng.choice(names, p=weights / weights.sum()))
            yield name, self.draw(name)

    def draw(self, family: str) -> Sample:
        """One more of that family, now and then a larger one."""
        share, larger = (LARGE_SHARE, LARGE) if self.large else (MIDDLE_SHARE, MIDDLE)
        return draw(family, self.rng, larger if self.rng.random() < share else SMALL)
