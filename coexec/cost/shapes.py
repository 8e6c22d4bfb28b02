"""Features of kernels that are not coexec's own: timings are known, their blocking is not. A fit chooses it, and these count by it.

A convolution or product is one of five forms. For each form a fit says how many output channels and pixels such a kernel makes at
once (a Block); the features are what such blocks compute and move, beside the sizes that a correction depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ..graph.ir import Node
from .geometry import Array, Block, Products, Windowed, up

#: Forms of a convolution, told apart as libraries do: 1x1, 3x3 of stride 1 (which may be Winograd's), others, depthwise. And products.
FORMS = ("pointwise", "square", "window", "depthwise", "product")
#: Every block that a fit tries: channels, and pixels of one row or of the whole map.
BLOCKS = tuple(Block(channels, pixels, rowwise) for channels in (1, 4, 8, 16)
               for pixels, rowwise in ((1, False), (2, True), (4, True), (8, True), (4, False), (8, False), (16, False), (32, False)))
#: What a form's block is until a fit has chosen: channels by four, as most phones' kernels have them.
USUAL = Block(4, 1, False)
#: Winograd is for convolutions of at least so many channels, by tiles of these sizes.
WINOGRAD_LEAST, WINOGRAD_TILES = 8, (2, 4, 6)
M = 1e-6


class Sizes(NamedTuple):
    """Sizes of pieces, float64 arrays of one entry a piece; `form` indexes FORMS. `read`: elements of the input that the piece reads."""

    form: Array
    images: Array
    groups: Array
    depth: Array
    channels: Array
    rows: Array
    columns: Array
    read: Array
    taps: Array
    stride: Array

    @property
    def pixels(self) -> Array:
        return self.rows * self.columns

    @property
    def flops(self) -> Array:
        return 2.0 * self.images * self.channels * self.pixels * self.depth * self.taps

    @classmethod
    def joined(cls, several: Iterable[Sizes]) -> Sizes:
        """Those of many nodes, one after another."""
        return cls(*map(np.concatenate, zip(*several)))


def form_of(node: Node) -> str | None:
    """The kernel's name; None where the node is neither convolution nor product."""
    if node.op_type == "Conv" and len(node.output.shape) in (3, 4):
        return "shape/conv"
    return "shape/product" if node.op_type in ("Gemm", "MatMul") and min(len(v.shape) for v in node.inputs[:2]) > 1 else None


def sizes_of(node: Node, start: Array, stop: Array) -> Sizes:
    """The sizes of pieces of a node that has a `form_of`, int64 (pieces, rank) each."""
    if node.op_type == "Conv":
        g = Windowed([(node, start, stop)])
        depthwise = (g.icg == 1) & (g.groups > 1)
        form = np.where(depthwise, 3, 0 if g.taps == 1 else 1 if (g.kh, g.kw, g.sh, g.sw) == (3, 3, 1, 1) else 2)
        told = (form, g.n, g.groups, g.icg, g.oc, g.oh, g.ow, g.n * g.groups * g.icg * g.ih * g.iw, g.taps, max(g.sh, g.sw))
    else:
        p = Products([(node, start, stop)])
        told = (4, p.count, 1, p.depth, p.columns, 1, p.rows, p.count * p.rows * p.depth, 1, 1)
    return Sizes(*(np.broadcast_to(np.asarray(v, np.float64), (len(start),)) for v in told))


def terms(s: Sizes, blocks: Mapping[str, Block]) -> dict[str, Array]:
    """Features of pieces by those blocks: what each form computes and stores, and the bytes. A form that has no block has the usual one."""
    found = {"fixed": np.ones(len(s.form)), "in_melem": s.read * M, "weights_melem": s.channels * s.depth * s.taps * M}
    for index in np.unique(s.form).astype(int):
        form, here = FORMS[index], s.form == index
        channels, pixels, rowwise = blocks.get(form, USUAL)
        made = s.images * up(s.channels, channels) * channels * here
        made = made * (s.rows * up(s.columns, pixels) if rowwise else up(s.pixels, pixels)) * pixels
        found |= {f"{form}": here * 1.0, f"{form}_mac_m": made * s.depth * s.taps * M, f"{form}_out_melem": made * M}
    unfolded = (s.taps > 1) & (s.form != FORMS.index("depthwise"))
    if unfolded.any():
        found["unfolded_melem"] = s.images * s.depth * s.taps * s.pixels * unfolded * M
    square = (s.form == FORMS.index("square")) & (np.minimum(s.depth, s.channels) >= WINOGRAD_LEAST)
    if square.any():
        for tile in WINOGRAD_TILES:
            tiles = s.images * up(s.rows, tile) * up(s.columns, tile) * (tile + 2) ** 2 * square
            found[f"winograd{tile}_m"] = tiles * up(s.depth, 4) * 4 * up(s.channels, 4) * 4 * M
        found["transformed_melem"] = s.images * up(s.rows, 4) * up(s.columns, 4) * 36 * (s.depth * s.groups + s.channels) * square * M
    return found


def sizes(s: Sizes) -> dict[str, Array]:
    """What a correction may depend on: the sizes, the work, and how much of blocks of channels and columns is wasted. All above 0."""
    moved = s.read + s.images * s.channels * s.pixels + s.channels * s.depth * s.taps
    found = {"depth": s.depth, "channels": s.channels, "pixels": s.pixels, "taps": s.taps, "stride": s.stride,
             "depthwise": 1.0 + (s.form == FORMS.index("depthwise")), "images": s.images, "flops": s.flops, "moved": moved,
             "reduced": s.depth * s.taps, "aspect": s.columns / s.rows}
    return found | {f"waste_channels_{b}": up(s.channels, b) * b / s.channels for b in (4, 8, 16)} \
        | {f"waste_columns_{b}": up(s.columns, b) * b / s.columns for b in (4, 8)}
