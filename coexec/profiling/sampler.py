"""What is timed: shapes as real networks have them, by family, whole and cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from ..graph.ir import Node
from ..ops import op_for
from ..regions import Region
from .table import Measurement, node_of


@dataclass(frozen=True)
class Sample:
    """A piece to time: the node, and the region of its output."""

    node: Node
    region: Region


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
    "conv_3x3": [_conv(64, 56, 64, 3), _conv(128, 28, 128, 3), _conv(256, 14, 256, 3), _conv(512, 7, 512, 3), _conv(16, 55, 64, 3),
                 _conv(32, 112, 32, 3), _conv(64, 112, 64, 3), _conv(48, 13, 192, 3), _conv(96, 28, 208, 3), _conv(3, 112, 32, 3)],
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

#: Shares of the first and second split axis that a cut gives a piece.
SHARES = (0.5, 0.25, 0.75)


def samples() -> Iterator[Sample]:
    """Everything worth timing, most telling first, the families taking turns; every third shape also cut."""
    turns = zip_longest(*([Sample(node, Region.whole(node.output.shape)) for node in map(node_of, rows)] for rows in SHAPES.values()))
    for rank, turn in enumerate(turns):
        whole = [s for s in turn if s is not None]
        yield from whole
        if rank % 3 == 0:
            for sample in whole:
                yield from cut_samples(sample.node, SHARES[rank // 3 % len(SHARES)])


def cut_samples(node: Node, share: float) -> Iterator[Sample]:
    """The first piece of a cut at about `share` along each of the first two axes."""
    axes = [a for a in op_for(node).split_axes(node) if a.extent > a.multiple]
    for axis in axes[:2]:
        fewest = 1 if axis.multiple == 1 else 2  # one group alone is no grouped convolution any more
        at = max(fewest, round(share * axis.extent / axis.multiple)) * axis.multiple
        if at < axis.extent:
            yield Sample(node, Region.whole(node.output.shape).replace(axis.dim, (0, at)))
