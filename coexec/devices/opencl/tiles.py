"""Tile sizes and forms of the compute-heavy kernels: every number a tuner may change, in one place, with defaults by kind of device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ..base import DeviceFacts

#: Register tiles of fewer sums are for narrow operators alone.
LEAST_SUMS = 12


@dataclass(frozen=True)
class Tiles:
    """`panel` kernels (one work-item owns a core): a register tile of `rows` rows by `vectors` vectors of `width` elements (0: by shape, as
    many as `registers` hold; rows alone may be given), panels of at most `panel_bytes`, strips of `strip_bytes` (both are to stay in
    cache), weights fetched `ahead` elements before their use; `local_bytes` is how much local memory they may take, 0 where
    panels do not suit the device.
    `tiled` kernels (work-groups share local memory): blocks of `block_rows` x `block_columns`, `item_rows` x `item_columns` a work-item,
    `block_depth` deep; a depthwise work-item makes `item_width` outputs. `fma`: 1 calls fma(), 0 leaves a * b + c to the compiler, -1 does
    what the driver says is fast. `method`: a convolution's or a product's method, "" for the one that is usually fastest.
    """

    rows: int = 0
    vectors: int = 0
    width: int = 16
    registers: int = 32
    panel_bytes: int = 192 << 10
    strip_bytes: int = 24 << 10
    ahead: int = 1024
    cores: int = 1
    local_bytes: int = 0
    block_rows: int = 64
    block_columns: int = 32
    block_depth: int = 16
    item_rows: int = 8
    item_columns: int = 4
    item_width: int = 4
    fma: int = -1
    method: str = ""

    @property
    def panels(self) -> bool:
        """True where the device is made of cores with caches and vector units, not of many thin threads."""
        return self.local_bytes > 0

    def tile_shapes(self) -> tuple[tuple[int, int], ...]:
        """(rows, vectors) of every register tile that may be compiled; a few, since each is a program."""
        if self.rows and self.vectors:
            return ((self.rows, self.vectors),)
        if self.rows:
            return tuple((self.rows, v) for v in range(1, 5) if v == 1 or self.rows * v + v + 1 <= self.registers)
        shapes = []
        for vectors in range(1, 5):
            fits = [r for r in (1, 4, 6, 8, 12) if r * vectors + vectors + 1 <= self.registers]
            shapes += [(r, vectors) for r in dict.fromkeys((fits[-1], *([4, 1] if vectors == 4 else [])) if fits else ()) if r in fits]
        return tuple(shapes)

    def usual_shapes(self, rows: int) -> tuple[tuple[int, int], ...]:
        """The register tiles of most pieces, those of `rows` rows among them."""
        free = replace(self, rows=0, vectors=0)
        shapes = dict.fromkeys((*free.tile_shapes(), *replace(free, rows=rows).tile_shapes()))
        return tuple((r, v) for r, v in shapes if r * v >= LEAST_SUMS)

    def tile_for(self, rows: int, columns: int, most_vectors: int = 4) -> tuple[int, int]:
        """(rows, vectors) of the register tile that takes the fewest cycles on a matrix of that size.

        A step along the depth takes half a cycle a multiply-add of vectors, and four where too few sums hide its latency;
        every panel of columns reads all of the left matrix anew.
        """
        def cycles(tile: tuple[int, int]) -> float:
            tall, wide = tile
            full, rest = divmod(ceil(columns / self.width), wide)
            steps = full * self._step(tall, wide) + (self._step(tall, rest if wide < 4 else wide) if rest else 0)
            return ceil(rows / tall) * steps

        shapes = self.tile_shapes()
        return min([t for t in shapes if t[1] <= most_vectors] or [(shapes[0][0], 1)], key=cycles)

    @staticmethod
    def _step(rows: int, vectors: int) -> float:
        return max(rows * vectors, 8) / 2 + rows / 10 + vectors * vectors / 16 + 0.5

    def panel_defines(self, rows: int, vectors: int) -> dict[str, int]:
        """What gemm_tile.clh is built with."""
        return {"MR": rows, "NV": vectors, "VW": self.width, "AHEAD": self.ahead, **self.fma_define()}

    def block_defines(self) -> dict[str, int]:
        """What tiled.cl is built with."""
        return {"BM": self.block_rows, "BN": self.block_columns, "BK": self.block_depth, "TM": self.item_rows, "TN": self.item_columns,
                **self.fma_define()}

    def fma_define(self) -> dict[str, int]:
        """What common.clh chooses the multiply-add by; nothing where the driver's word is taken."""
        return {} if self.fma < 0 else {"FMA_FORM": self.fma}

    def fits(self, facts: DeviceFacts) -> bool:
        """True where blocks divide into items, and a work-group, its local memory and the register tile are possible."""
        if self.block_rows % self.item_rows or self.block_columns % self.item_columns or bool(self.rows) != bool(self.vectors):
            return False
        items = (self.block_rows // self.item_rows) * (self.block_columns // self.item_columns)
        shared = 4 * self.block_depth * (self.block_rows + self.block_columns + 2)
        most = facts.extra.get("max_work_group_size", 256), facts.extra.get("local_mem_bytes", 16 << 10)
        return items <= most[0] and shared <= most[1] and self.rows * self.vectors + self.vectors < 2 * self.registers

    def block_groups(self, rows: int, columns: int, count: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Global and local size of a tiled kernel over `count` matrices of rows x columns."""
        local = (self.block_columns // self.item_columns, self.block_rows // self.item_rows, 1)
        return (ceil(columns / self.block_columns) * local[0], ceil(rows / self.block_rows) * local[1], count), local


#: Local memory below this holds no panel worth making.
MIN_PANEL_BYTES = 128 << 10


def tiles_for(facts: DeviceFacts) -> Tiles:
    """The defaults for a device of these facts."""
    local = facts.extra.get("local_mem_bytes", 0)
    width = 1 << max(2, min(4, int(facts.extra.get("vector_width_float", 4)).bit_length() - 1))
    registers = 16 if width == 8 else 32
    if not facts.emulated or local < MIN_PANEL_BYTES:
        return Tiles(width=width, registers=registers)
    return Tiles(width=width, registers=registers, local_bytes=local * 3 // 4, cores=facts.compute_units)


#: The numbers a tuner may set, each with the least and the largest that makes sense.
LIMITS = {
    "rows": (1, 24), "vectors": (1, 8), "panel_bytes": (4 << 10, 16 << 20), "strip_bytes": (1 << 10, 1 << 20), "ahead": (0, 1 << 14),
    "block_rows": (1, 256), "block_columns": (1, 256), "block_depth": (1, 64), "item_rows": (1, 16), "item_columns": (1, 16),
    "item_width": (1, 16), "fma": (0, 1),
}
METHODS = ("", "direct", "panel", "tiled", "winograd", "depthwise", "few")
