"""Conv on OpenCL: panel or tiled matrix products, strips for depthwise filters, Winograd for 3x3, and a direct kernel for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pyopencl as cl

from ...ops import conv_ways
from ...ops.conv import conv_input, conv_params
from . import host
from .builder import ClOperand, Compile, builds, int8, short
from .nd import local_along
from .products import Product, build_product, matrix
from .program import Forms
from .strips import Strip, share
from .tail import bias_args, five, i32, late_tail, three, type_defines
from .tiles import Tiles


@dataclass(frozen=True)
class Shape:
    """What of a convolution a kernel is told: windows (batch, channel, depth, height, width), and per-axis numbers local to the piece."""

    x: ClOperand
    y: ClOperand
    r: ClOperand | None
    groups: int
    in_channels: int  # of one group
    out_channels: int  # of one group
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    constant: bool

    @property
    def depth(self) -> int:
        return self.in_channels * prod(self.kernel)

    @property
    def pixels(self) -> int:
        return prod(self.y.shape[2:])

    @property
    def is_plane(self) -> bool:
        """True for at most two spatial axes of float32, weights constant, neighbours along a row side by side in memory."""
        windows = [w for w in (self.x, self.y, self.r) if w is not None]
        return (self.constant and self.kernel[0] == 1 and self.x.shape[2] == self.y.shape[2] == 1 and self.y.dtype == np.float32
                and all(w.strides[4] == 1 or w.shape[4] == 1 for w in windows))

    @property
    def is_depthwise(self) -> bool:
        return self.in_channels == self.out_channels == 1 and self.groups > 1

    def flattened(self) -> Shape:
        """A 1x1 convolution of dense planes as one of a single long row; anything else as it is."""
        windows = [w for w in (self.x, self.y, self.r) if w is not None]
        if prod(self.kernel) * prod(self.strides) != 1 or any(self.pads) or self.x.shape[2:] != self.y.shape[2:]:
            return self
        if any((w.strides[3], w.strides[4]) != (w.shape[4], 1) for w in windows):
            return self
        pixels = self.y.shape[3] * self.y.shape[4]
        flat = [w and replace(w, shape=(*w.shape[:2], 1, 1, pixels), strides=(*w.strides[:2], 0, pixels, 1)) for w in (self.x, self.y,
            self.r)]
        return replace(self, x=flat[0], y=flat[1], r=flat[2])

    @property
    def is_vector(self) -> bool:
        """True for maps of one pixel: a row of channels times a matrix."""
        windows = [w for w in (self.x, self.y, self.r) if w is not None]
        return (prod(self.kernel) == self.groups == 1 and not any(self.pads) and all(prod(w.shape[2:]) == 1 for w in windows)
                and all(w.strides[1] == 1 for w in windows[1:]))

    def args(self) -> list[Any]:
        """in, out, size, stride, dilation, pad as kernel arguments."""
        return [three(self.x.shape[2:], 1), three(self.y.shape[2:], 1), three(self.kernel, 1), three(self.strides, 1),
                three(self.dilations, 1),
                three(self.pads, 0)]


def conv_shape(c: Compile) -> Shape:
    """The piece's convolution with three spatial axes; missing ones come first, with extent 1."""
    p = conv_params(c.node)
    spans = conv_input(c.node, c.region)[1]
    x, y, r = c.input(0), c.output(0), c.residual
    w = c.node.inputs[1]
    per_group = w.shape[0] // p.group if p.group > 1 else y.shape[1]
    lead = (0,) * (3 - len(p.kernel))
    ones = (1,) * len(lead)
    return Shape(five(x), five(y), r and five(r), y.shape[1] // per_group, w.shape[1], per_group, (*ones, *p.kernel), (*ones, *p.strides),
                 (*ones, *p.dilations), (*lead, *(s.pad_begin for s in spans)), w.is_constant)


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
        if tiles.panels and Panel.of(s.flattened(), tiles).nbytes <= tiles.local_bytes:
            possible.insert(0, "panel")
            if Winograd.best(s, tiles) is not None:
                possible.insert(1, "winograd")
            if s.is_vector:
                possible.insert(0, "vector")
            if can_few(s, tiles):
                possible.insert(0, "few")
    if wanted in possible:
        return wanted
    if possible[0] in ("panel", "few") and s.out_channels == 1 and s.depth < 8:
        return "direct"
    if "winograd" in possible and Winograd.best(s, tiles).work(s, tiles) < Panel.of(s, tiles).work(s, tiles):  # type: ignore[union-attr]
        return "winograd"
    return possible[0]


def _operands(c: Compile, s: Shape) -> tuple[dict[str, Any], list[Any]]:
    """Defines and trailing arguments of bias and residual."""
    bias = c.input(2) if c.has(2) else None
    defines = {**type_defines(c), **({"BIAS": 1} if bias is not None else {})}
    return defines, [*bias_args(bias), *([s.r, strides(s.r)] if s.r is not None else [])]


def _late_operands(c: Compile, s: Shape) -> tuple[dict[str, Any], list[Any]]:
    """As `_operands`, for kernels that look when they run whether there is a residual, and which activation."""
    bias = c.input(2) if c.has(2) else None
    defines, late = late_tail(c)
    r = s.y if s.r is None else s.r
    return {**defines, **({"BIAS": 1} if bias is not None else {})}, [*bias_args(bias), r, strides(r), np.int32(s.r is not None), *late]


def strides(window: ClOperand) -> np.ndarray:
    """A window's strides as an int8 argument."""
    return int8(window.strides)


def build_direct(c: Compile, s: Shape, tiles: Tiles) -> None:
    w = five(c.input(1))
    defines, tail = _operands(c, s)
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
    defines, tail = _late_operands(c, s)
    c.implementation = f"f32_conv_panel_{cut.rows}x{cut.columns}"
    defines, tile = {**defines, **tiles.panel_defines(cut.rows, cut.vectors)}, {"MR": cut.rows, "NV": cut.vectors}
    often = [] if "ACT_ALPHA" in defines else [{"MR": r, "NV": v} for r, v in tiles.usual_shapes(host.common_rows())]
    c.launch(["vectors.clh", "strip.clh"], "conv_panel", {k: v for k, v in defines.items() if k not in tile},
             (-(-s.pixels // cut.columns), s.y.shape[0] * s.groups), (1, 1), s.x, strides(s.x), w, s.y, strides(s.y),
             *i32(s.groups, s.in_channels, s.out_channels), *s.args(), *i32(cut.unit, *widths), *map(cl.LocalMemory, cut.locals), *tail,
             forms=Forms(["gemm_tile.clh", "conv_panel.cl"], tile, often), in_step=True)


def build_tiled(c: Compile, s: Shape, tiles: Tiles) -> None:
    w = c.packed(1, "plain", lambda w: w)
    defines, tail = _operands(c, s)
    c.implementation = f"f32_conv_tiled_{tiles.block_rows}x{tiles.block_columns}"
    sizes = tiles.block_groups(s.out_channels, s.pixels, s.y.shape[0] * s.groups)
    c.launch("tiled.cl", "conv_tiled", {**defines, **tiles.block_defines(), "CONV": 1}, *sizes, s.x, strides(s.x), w, s.y, strides(s.y),
             *i32(s.groups, s.in_channels, s.out_channels), *s.args(), *tail)


#: How a 3x3 filter becomes (m + 2) x (m + 2) points of F(m x m, 3 x 3), by m; and a 4x4 block of a larger one 7x7 points of F(4 x 4, 4 x 4).
_FILTERS = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    4: np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]),
}
_BLOCK_FILTER = np.array([[-1 / 2, 0, 0, 0], [-1 / 3] * 4, [1 / 9, -1 / 9, 1 / 9, -1 / 9], [1 / 36, 1 / 18, 1 / 9, 2 / 9],
                          [-1 / 60, 1 / 30, -1 / 15, 2 / 15], [32 / 45, 16 / 45, 8 / 45, 4 / 45], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Winograd:
    """How Winograd is cut: outputs along a tile's side, 4x4 blocks of the kernel (1: it is 3x3), the register tile, panels of tiles, and bytes of
    memory. `staged`: the transformed input goes through global memory, because it is too large for a core's own cache."""

    side: int
    blocks: int
    tiles: int
    rows: int
    vectors: int
    columns: int
    freq: int
    locals: tuple[int, int, int]  # points, lines, strip
    staged: bool

    @property
    def panels(self) -> int:
        return -(-self.tiles // self.columns)

    @property
    def nbytes(self) -> int:
        """Local memory it takes."""
        return sum(self.locals) + (0 if self.staged else self.freq)

    @classmethod
    def of(cls, s: Shape, tiles: Tiles, side: int, blocks: int = 1) -> Winograd:
        width, reach = tiles.width, side + 2 + (blocks > 1)
        across, down, points = -(-s.y.shape[4] // side) + (blocks > 1), -(-s.y.shape[3] // side), reach**2
        more = across + 1 if blocks > 1 else 0  # lanes of the input beyond a panel's own

        def held(vectors: int) -> int:
            return points * 4 * (s.in_channels * -(-(vectors * width + more) // width) + 1) * width

        staged = held(1) > tiles.local_bytes * 4 // 5
        most = 3 if staged else next(v for v in (3, 2, 1) if v == 1 or held(v) <= tiles.local_bytes // 2)
        rows, vectors = tiles.tile_for(s.out_channels, across * down, most)
        columns = vectors * width
        tile_rows = min(down + (blocks > 1), (columns + more - 2) // across + 2)
        strip = side * ((min(across, columns) if down == blocks == 1 else across) + 1 + max(width, 16 // side))
        memory = 4 * (points * rows * columns + width), 4 * side * side * columns, 4 * ((tile_rows - 1) * side + reach) * strip + 4 * width
        return cls(side, blocks, across * down, rows, vectors, columns, held(vectors), memory, staged)

    @classmethod
    def best(cls, s: Shape, tiles: Tiles) -> Winograd | None:
        """That with the least to do; None for filters but square ones of 3 or 5 to 8 elements along a side, with strides or dilations, or whose strips
        do not fit in local memory."""
        if {*s.strides, *s.dilations} != {1} or s.kernel[0] != 1 or s.kernel[1] != s.kernel[2]:
            return None
        ways = [(side, 1) for side in conv_ways.TILES] if s.kernel[1] == 3 else [(4, conv_ways.BLOCKS)] if s.kernel[1] in conv_ways.SIDES else []
        cuts = [cut for way in ways if (cut := cls.of(s, tiles, *way)).nbytes <= tiles.local_bytes]
        return min(cuts, key=lambda cut: cut.work(s, tiles), default=None)

    def work(self, s: Shape, tiles: Tiles) -> float:
        """What there is to do, beside `Panel.work`."""
        shape = s.in_channels, s.out_channels, self.tiles, tiles.width, (self.rows, self.columns)
        return float(conv_ways.by_tiles(self.side, *shape) if self.blocks == 1 else conv_ways.by_block_tiles(-(-s.y.shape[4] // 4), *shape))


def build_winograd(c: Compile, s: Shape, tiles: Tiles) -> None:
    cut = Winograd.best(s, tiles)
    assert cut is not None, "it was chosen because there is one"
    if cut.blocks > 1:
        layout, transform, along = ("winograd blocks", s.groups, cut.rows), _BLOCK_FILTER, 2
    else:
        layout, transform, along = ("winograd", cut.side, s.groups, cut.rows), _FILTERS[cut.side], 1
    w = c.shared(1, layout, lambda w: host.filters(w.reshape(*w.shape[:2], *s.kernel[1:]), transform, cut.rows, s.groups, along))
    defines, tail = _late_operands(c, s)
    defines |= {**tiles.panel_defines(cut.rows, cut.vectors), "M": cut.side, "BLOCKS": cut.blocks}
    inside, outside, *_, pad = s.args()
    stacks = s.y.shape[0] * s.groups
    shape = [s.x, strides(s.x), w, s.y, strides(s.y), *i32(s.groups, s.in_channels, s.out_channels), inside, outside, pad]
    memory = [cl.LocalMemory(n) for n in cut.locals]
    files = ["vectors.clh", "gemm_tile.clh", "conv_winograd.cl"]
    way = "blocks" if cut.blocks > 1 else f"{cut.side}x{cut.side}"
    c.implementation = f"f32_conv_winograd_{way}_{cut.rows}x{cut.columns}" + "_staged" * cut.staged
    if not cut.staged:
        c.launch(files, "conv_winograd", {**defines, "STAGE": 0}, (cut.panels, stacks), (1, 1), *shape, cl.LocalMemory(cut.freq), *memory,
                 *tail, in_step=True)
        return
    freq = c.scratch((stacks, cut.panels, cut.freq // 4))
    for stage, items in ((1, cut.panels), (2, -(-s.out_channels // cut.rows))):
        c.launch(files, "conv_winograd", {**defines, "STAGE": stage}, (items, stacks), (1, 1), *shape, freq, *memory, *tail, in_step=True)


#: Output channels that are made without gathering panels, and vectors of columns that a work-item makes of each at most.
MOST_FEW, FEW_VECTORS = 4, 6


def can_few(s: Shape, tiles: Tiles) -> bool:
    """True for one group of few output channels, more than one element of the kernel, a stride of 1 across, and rows of at least a vector."""
    return s.groups == 1 and s.out_channels <= MOST_FEW and prod(s.kernel) > 1 and s.strides[2] == 1 and s.y.shape[4] >= tiles.width


def build_few(c: Compile, s: Shape, tiles: Tiles) -> None:
    vectors = min(FEW_VECTORS, s.y.shape[4] // tiles.width, (tiles.registers - 1) // (s.out_channels + 1))
    columns = vectors * tiles.width
    w = c.packed(1, ("few",), lambda w: np.moveaxis(w.reshape(s.out_channels, -1), 0, 1))
    defines, tail = _late_operands(c, s)
    defines |= {"MR": s.out_channels, "NV": vectors, "VW": tiles.width, **tiles.fma_define()}
    strip = cl.LocalMemory(4 * (columns + (s.kernel[2] - 1) * s.dilations[2] + 2 * tiles.width))
    c.implementation = f"f32_conv_few_{s.out_channels}x{columns}"
    c.launch(["vectors.clh", "strip.clh", "conv_few.cl"], "conv_few", defines, (-(-s.y.shape[4] // columns), s.y.shape[3], s.y.shape[0]), (1, 1, 1),
             s.x, strides(s.x), w, s.y, strides(s.y), *i32(s.in_channels), *s.args(), strip, *tail, in_step=True)


def build_depthwise(c: Compile, s: Shape, tiles: Tiles) -> None:
    w = c.packed(1, "plain", lambda w: w)
    defines, tail = _operands(c, s)
    size = {"KH": s.kernel[1], "KW": s.kernel[2]}
    defines |= size
    batch, channels, _, height, width = s.y.shape
    if not tiles.panels:
        c.implementation = f"f32_conv_depthwise_items_{tiles.item_width}"
        items = -(-width // tiles.item_width) * height
        c.launch("conv_depthwise.cl", "conv_depthwise_items", {**defines, "PER": tiles.item_width, **tiles.fma_define()},
                 (items, channels, batch), local_along(c, items), s.x, strides(s.x), w, s.y, strides(s.y), *_plane_args(s), *tail)
        return
    if can_rows(s):
        wide = min(tiles.width, max(4, 1 << (width - 1).bit_length()))
        rows, many = share(batch, channels, height, width, tiles)
        c.implementation = f"f32_conv_depthwise_rows_{s.kernel[1]}x{s.kernel[2]}"
        inside, outside, *_, pad = s.args()
        late, chosen = late_tail(c)
        defines = {**late, **{name: 1 for name in ("BIAS", "RESIDUAL") if name in defines}, "VW": wide}
        both = Forms(["conv_depthwise_rows.cl"], {**size, "SH": s.strides[1], "SW": s.strides[2]}, [{**size, "SH": n, "SW": n} for n in (1, 2)])
        c.launch("vectors.clh", "conv_depthwise_rows", defines, (-(-height // rows), -(-channels // many), batch), (1, 1, 1), s.x, strides(s.x), w,
                 s.y, strides(s.y), inside, outside, pad, *i32(rows, many, channels), *tail, *chosen, forms=both,
                 in_step=True)
        return
    strip = Strip.of(s.y.shape, s.kernel, s.strides, s.dilations, tiles)
    c.implementation = f"f32_conv_depthwise_strip_{s.kernel[1]}x{s.kernel[2]}"
    c.launch(["vectors.clh", "strip.clh", "conv_depthwise.cl"], "conv_depthwise_strip", {**defines, **strip.defines()}, strip.groups, (1, 1, 1),
             s.x, strides(s.x), w, s.y, strides(s.y), *_plane_args(s), *strip.args(), *tail)


def can_rows(s: Shape) -> bool:
    """True for a small depthwise filter without dilation, of stride 1 or 2: it runs down the rows with its sums in registers."""
    return max(s.kernel) <= 5 and max(s.strides) <= 2 and set(s.dilations) == {1}


def _plane_args(s: Shape) -> list[Any]:
    """in, out, stride, dilation, pad: the size is compiled in."""
    args = s.args()
    return [*args[:2], *args[3:]]


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
