"""Strips: some output rows of one channel, made by one work-item from a copy of their input in local memory (strip.clh)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl as cl

from .tiles import Tiles

#: A strip is cut into rows so that it stays in the first-level cache.
STRIP_BYTES = 24 << 10
VECTORS = 4


@dataclass(frozen=True)
class Strip:
    """How many output rows a work-item makes, and the float32 elements of local memory it takes for the input and for the sums."""

    rows: int
    planes: int
    sums: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], tiles: Tiles) -> Strip:
        """For an output (batch, channel, 1, height, width) and windows given per axis (depth, height, width)."""
        height, width = shape[3:]
        (_, kh, kw), (_, sh, sw), (_, dh, dw) = kernel, strides, dilations
        tail, halo = (kw - 1) * dw // sw, (kh - 1) * dh // sh
        pitch, step = width + tail, tiles.width * VECTORS
        rows = max(1, min(height, STRIP_BYTES // (4 * pitch * (sh * sw + 1)) - halo))
        return cls(rows, sh * sw * (rows + halo) * pitch + tail + step, rows * pitch + step, tiles.width)

    @property
    def nbytes(self) -> int:
        return 4 * (self.planes + self.sums)

    def defines(self) -> dict[str, int]:
        return {"VW": self.width, "NV": VECTORS}

    def args(self) -> list[Any]:
        """rows, and local memory for planes and sums."""
        return [np.int32(self.rows), cl.LocalMemory(4 * self.planes), cl.LocalMemory(4 * self.sums)]
