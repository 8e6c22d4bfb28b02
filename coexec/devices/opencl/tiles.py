"""Tile sizes of the matrix-product kernels: every number a tuner may change, in one place, with defaults by kind of device."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..base import DeviceFacts


@dataclass(frozen=True)
class Tiles:
    """`panel` kernels (one work-item owns a core): a register tile of up to `rows` rows by `vectors` vectors of `width` elements.
    `tiled` kernels (work-groups share local memory): blocks of `block_rows` x `block_columns`, `item_rows` x `item_columns` a work-item,
    `block_depth` deep. `local_bytes` is how much local memory a panel may take; 0 where panels do not suit the device.
    """

    rows: int = 12
    vectors: int = 2
    width: int = 16
    local_bytes: int = 0
    block_rows: int = 64
    block_columns: int = 32
    block_depth: int = 16
    item_rows: int = 8
    item_columns: int = 4

    @property
    def panels(self) -> bool:
        """True where the device is made of cores with caches and vector units, not of many thin threads."""
        return self.local_bytes > 0

    def rows_for(self, rows: int, vectors: int, choices: tuple[int, ...] = (1, 4, 8, 12)) -> int:
        """The tile height, of a few (each is a program to compile), that wastes least on a matrix of that many rows.

        Fewer than eight sums leave the multiply-add units waiting.
        """
        fits = [*(r for r in choices if r < self.rows), self.rows]
        return min(fits, key=lambda r: (ceil(rows / r) * (max(r, 8 / vectors) + 0.3), r))

    def vectors_for(self, columns: int) -> int:
        """How many vectors wide a tile is for that many columns: narrower only where a wide one would waste over a seventh."""
        return min(range(self.vectors, 0, -1), key=lambda v: ceil(columns / (v * self.width)) * v * (1 if v > 1 else 1.15))

    def panel_defines(self, rows: int, vectors: int) -> dict[str, int]:
        """What gemm_tile.clh is built with."""
        return {"MR": rows, "NV": vectors, "VW": self.width}

    def block_defines(self) -> dict[str, int]:
        """What tiled.cl is built with."""
        return {"BM": self.block_rows, "BN": self.block_columns, "BK": self.block_depth, "TM": self.item_rows, "TN": self.item_columns}

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
    if not facts.emulated or local < MIN_PANEL_BYTES:
        return Tiles(width=width)
    return Tiles(rows={16: 12, 8: 6}.get(width, 8), width=width, local_bytes=local * 3 // 4)
