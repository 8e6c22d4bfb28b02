"""Conv on OpenCL: which kernel makes a piece, panel and tiled matrix products, and a direct kernel for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pyopencl as cl

from ...ops import conv_ways
from ...ops.conv import conv_params
from . import host
from .builder import Compile, builds, short
from .conv_depthwise import build_depthwise
from .conv_few import build_few, can_few
from .conv_shape import Shape, conv_shape, late_operands, operands, strides
from .nd import local_along
from .products import Product, build_product, matrix
from .program import Forms
from .tail import five, i32
from .tiles import Tiles
from .winograd import Winograd, build_winograd


@builds("Conv", tail=True)
def build(c: Compile) -> None:
    shape = conv_shape(c)
    tiles = in_common(c, shape, c.tiles)
    method = choose(shape, tiles, c.node.attr("method") or tiles.method)
    _METHODS[method](c, shape, tiles)


def in_common(c: Compile, s: Shape, tiles: Tiles) -> Tiles:
    """Tiles as tall as the CPU's where that reads the same weights. Numbers of a tuner stay."""
    rows = host.common_rows()
    return replace(tiles, rows=rows) if not tiles.rows and s.out_channels >= rows and reads_in_common(c, s) else tiles


def reads_in_common(c: Compile, s: Shape) -> bool:
    """True for a piece cut along anything but channels, its weights constant, on a device that reads the host's memory."""
    return ("svm" in c.facts.sharing and s.constant and c.region.size < c.node.output.type.size
            and c.in_regions[1].size == c.value(1).size)


def reads_strips(c: Compile, s: Shape, rows: int) -> bool:
    """True where the CPU makes the other rows of a small map, and packs weights as strips of channels, whole tiles wide each."""
    shared, whole = reads_in_common(c, s), c.node.output.shape
    if not shared or s.groups != 1 or len(whole) != 4 or whole[3] != c.region.shape[3] or any(w % rows for w in host.strip_widths(s.out_channels)):
        return False
    p = conv_params(c.node)
    window = conv_ways.Window.of(s.kernel[1:], p.strides, p.dilations, is_dense=True)
    return host.packs_strips((s.in_channels, s.out_channels), window, whole[2] - c.region.shape[2], whole[3])


def choose(s: Shape, tiles: Tiles, wanted: str | None = None) -> str:
    """The method for a convolution: `wanted` (an attribute a tuner may set) where it can be, else the one that is usually fastest."""
    if not s.is_plane or not s.depth:
        return "direct"
    possible = ["direct"]
    if s.is_depthwise:
        possible.insert(0, "depthwise")
    else:
        possible.insert(0, "tiled")
        panel = Panel.of(s.flattened(), tiles) if tiles.panels else None
        if panel is not None and panel.nbytes <= tiles.local_bytes:
            possible.insert(0, "panel")
            winograd = Winograd.best(s, tiles)
            if winograd is not None:
                possible.insert(int(winograd.work(s, tiles) >= panel.work(s, tiles)), "winograd")
            if s.is_vector:
                possible.insert(0, "vector")
            if can_few(s, tiles):
                possible.insert(0, "few")
    if wanted in possible:
        return wanted
    if possible[0] in ("panel", "few") and s.out_channels == 1 and s.depth < 8:
        return "direct"
    return possible[0]


def build_direct(c: Compile, s: Shape, tiles: Tiles) -> None:
    w = five(c.input(1))
    defines, tail = operands(c, s)
    c.implementation = f"{short(s.y.dtype)}_conv_direct"
    c.launch("conv_direct.cl", "conv_direct", defines, (s.pixels, s.y.shape[1], s.y.shape[0]), local_along(c, s.pixels),
             s.x, strides(s.x), w, strides(w), s.y, strides(s.y), *i32(s.in_channels, s.out_channels), *s.args(), *tail)


def strip_elements(s: Shape, columns: int, tiles: Tiles) -> int:
    """Upper bound of one channel's strip: the input rows, padding included, that `columns` output pixels read."""
    height, width = s.y.shape[3:]
    rows = min(height, (columns - 2) // width + 2)
    phase = ((width - 1) * s.strides[2] + (s.kernel[2] - 1) * s.dilations[2]) // s.strides[2] + 1 + tiles.width
    single = ((min(columns, width) - 1) * s.strides[2] + (s.kernel[2] - 1) * s.dilations[2]) // s.strides[2] + 1 + tiles.width
    high = (s.kernel[1] - 1) * s.dilations[1] + 1
    crossing = ((rows - 1) * s.strides[1] + high) * phase if width % columns or height == 1 and width < columns else 0
    return max(crossing if height > 1 else 0, high * single) * s.strides[2] + tiles.width


@dataclass(frozen=True)
class Panel:
    """How the panel method is cut: the register tile, input channels a block, and bytes of local memory (panel, strip, sums)."""

    rows: int
    vectors: int
    columns: int
    unit: int
    locals: tuple[int, int, int]

    @classmethod
    def of(cls, s: Shape, tiles: Tiles) -> Panel:
        rows, vectors = tiles.tile_for(s.out_channels, s.pixels)
        columns = vectors * tiles.width
        step = 4 * prod(s.kernel) * columns
        unit = s.in_channels if step * s.in_channels <= tiles.panel_bytes else max(1, tiles.panel_bytes // step)
        unit = -(-s.in_channels // -(-s.in_channels // unit))
        sums = 4 * -(-s.out_channels // rows) * rows * columns if unit < s.in_channels else 64
        return cls(rows, vectors, columns, unit, (unit * step + 4 * tiles.width, 4 * strip_elements(s, columns, tiles), sums))

    @property
    def nbytes(self) -> int:
        """Local memory it takes."""
        return sum(self.locals)

    def work(self, s: Shape, tiles: Tiles) -> float:
        """What there is to do, in multiply-adds of a lane."""
        return float(conv_ways.by_panels(s.in_channels, s.out_channels, s.pixels, prod(s.kernel), tiles.width, (self.rows, self.columns)))


def build_panel(c: Compile, s: Shape, tiles: Tiles, key: tuple = (), arrange: Callable[[np.ndarray], np.ndarray] = lambda w: w) -> None:
    """`arrange` brings constant input 1 to (out channels of all groups, in channels of one, *kernel); `key` names what it does."""
    s = s.flattened()
    cut = Panel.of(s, tiles)
    widths = cut.rows, 2**31 - 1, cut.rows
    if not key and reads_strips(c, s, cut.rows):
        widths, w = host.strip_widths(s.out_channels), c.shared(1, ("strips",), host.strips)
    else:
        w = c.shared(1, ("rows", *key, s.groups, cut.rows), lambda w: host.rows(arrange(w).reshape(s.groups, s.out_channels, -1), cut.rows))
    defines, tail = late_operands(c, s)
    c.implementation = f"f32_conv_panel_{cut.rows}x{cut.columns}"
    defines, tile = {**defines, **tiles.panel_defines(cut.rows, cut.vectors)}, {"MR": cut.rows, "NV": cut.vectors}
    often = [] if "ACT_ALPHA" in defines else [{"MR": r, "NV": v} for r, v in tiles.usual_shapes(host.common_rows())]
    c.launch(["vectors.clh", "strip.clh"], "conv_panel", {k: v for k, v in defines.items() if k not in tile},
             (-(-s.pixels // cut.columns), s.y.shape[0] * s.groups), (1, 1), s.x, strides(s.x), w, s.y, strides(s.y),
             *i32(s.groups, s.in_channels, s.out_channels), *s.args(), *i32(cut.unit, *widths), *map(cl.LocalMemory, cut.locals), *tail,
             forms=Forms(["gemm_tile.clh", "conv_panel.cl"], tile, often), in_step=True)


def build_tiled(c: Compile, s: Shape, tiles: Tiles) -> None:
    w = c.packed(1, "plain", lambda w: w)
    defines, tail = operands(c, s)
    c.implementation = f"f32_conv_tiled_{tiles.block_rows}x{tiles.block_columns}"
    sizes = tiles.block_groups(s.out_channels, s.pixels, s.y.shape[0] * s.groups)
    c.launch("tiled.cl", "conv_tiled", {**defines, **tiles.block_defines(), "CONV": 1}, *sizes, s.x, strides(s.x), w, s.y, strides(s.y),
             *i32(s.groups, s.in_channels, s.out_channels), *s.args(), *tail)


def build_vector(c: Compile, s: Shape, tiles: Tiles) -> None:
    """Maps of one pixel, as a product with the weights turned: a panel there is as wide as many channels, not as one pixel."""
    x, y = (replace(w, shape=w.shape[:2], strides=w.strides[:2]) for w in (s.x, s.y))
    r = s.r and matrix(replace(s.r, shape=s.r.shape[:2], strides=s.r.strides[:2]), ())
    w = c.input(1)
    turned = replace(w, shape=w.shape[1::-1], strides=w.strides[1::-1])
    bias = matrix(c.input(2), ()) if c.has(2) else None
    build_product(c, Product(matrix(x, ()), matrix(turned, ()), matrix(y, ()), bias, r, y.shape[0], s.in_channels, s.out_channels,
                             constant_b=True, transposed_b=True))


_METHODS = {"direct": build_direct, "panel": build_panel, "vector": build_vector, "tiled": build_tiled, "depthwise": build_depthwise,
            "winograd": build_winograd, "few": build_few}
