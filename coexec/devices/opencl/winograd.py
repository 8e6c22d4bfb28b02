"""Convolutions by Winograd's algorithm, where a work-item owns a core: 3x3 kernels, and those of 5x5 to 8x8 in 4x4 blocks (conv_winograd.cl)."""

from __future__ import annotations

from dataclasses import dataclass

import pyopencl as cl

from ...ops import conv_ways
from . import host
from .builder import Compile
from .conv_shape import Shape, late_operands, strides
from .tail import i32
from .tiles import Tiles


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
        """That with the least to do; None for filters but square ones of 3 or 5 to 8 elements along a side, with strides or dilations, or
        whose strips do not fit in local memory."""
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
    w = c.shared(1, ("winograd", cut.side, s.groups, cut.rows),
                 lambda w: host.filters(w.reshape(*w.shape[:2], *s.kernel[1:]), cut.side, cut.rows, s.groups))
    defines, tail = late_operands(c, s)
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
