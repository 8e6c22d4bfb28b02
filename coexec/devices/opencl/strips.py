"""Strips: some output rows of one channel, made by one work-item from a copy of their input in local memory (strip.clh)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl as cl

from .tiles import Tiles

VECTORS = 4

#: Output elements a work-item makes where planes are small: enough to hide what starting one costs.
ITEM = 4096


def share(batch: int, channels: int, height: int, width: int, tiles: Tiles) -> tuple[int, int]:
    """How many rows of how many channels a work-item makes: whole planes, several where they are small, parts where they are few."""
    wanted = 4 * tiles.cores
    rows = -(-height // min(height, -(-wanted // (batch * channels))))
    return rows, max(1, min(ITEM // (rows * width), channels * batch // wanted, channels))


@dataclass(frozen=True)
class Strip:
    """How many output rows of how many channels a work-item makes, the NDRange, and the float32 elements of local memory it takes."""

    rows: int
    many: int
    channels: int
    groups: tuple[int, int, int]
    planes: int
    sums: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], tiles: Tiles) -> Strip:
        """For an output (batch, channel, 1, height, width) and windows given per axis (depth, height, width)."""
        batch, channels, _, height, width = shape
        (_, kh, kw), (_, sh, sw), (_, dh, dw) = kernel, strides, dilations
        tail, halo = (kw - 1) * dw // sw, ((kh - 1) * dh + sh - 1) // sh
        pitch, step = width + tail + 1, tiles.width * VECTORS
        rows = max(1, min(height, tiles.strip_bytes // (4 * pitch * (sh * sw + 1)) - halo))
        strips = -(-height // rows)
        many = max(1, min(ITEM // (rows * pitch), strips * channels // (4 * tiles.cores), channels))
        planes = sh * sw * ((rows + halo) * pitch + tiles.width) + tail + step
        return cls(rows, many, channels, (strips, -(-channels // many), batch), planes, rows * pitch + step + tiles.width, tiles.width)

    @property
    def nbytes(self) -> int:
        return 4 * (self.planes + self.sums)

    def defines(self) -> dict[str, int]:
        return {"VW": self.width, "NV": VECTORS}

    def args(self) -> list[Any]:
        """rows, many, channels, and local memory for planes and sums."""
        return [np.int32(self.rows), np.int32(self.many), np.int32(self.channels), cl.LocalMemory(4 * self.planes),
                cl.LocalMemory(4 * self.sums)]
