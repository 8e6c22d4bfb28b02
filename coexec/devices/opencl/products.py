"""Stacks of matrix products on OpenCL, however an operator describes them: Gemm and MatMul come here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyopencl as cl

from . import host
from .builder import ClOperand, Compile, short
from .nd import local_along
from .tail import i32, late_tail, number, type_defines
from .tiles import Tiles


@dataclass(frozen=True)
class Matrix:
    """The last two axes of a stack: strides of its rows and columns, and the offset of each product's matrix, all in elements."""

    window: ClOperand
    row: int
    column: int
    offsets: np.ndarray

    def args(self) -> list[Any]:
        return [self.window, *i32(self.row, self.column)]


def matrix(window: ClOperand, stack: tuple[int, ...]) -> Matrix:
    """A window (..., rows, columns), its leading axes broadcast to `stack`. Missing axes and axes of extent 1 do not move."""
    rank = len(window.shape)  # a vector is one row, a number one element
    steps = [0 if n == 1 else s for n, s in zip(window.shape, window.strides)]
    steps = [0] * (len(stack) + 2 - rank) + steps
    offsets = np.zeros(stack, np.int64)
    for dim, step in enumerate(steps[:-2]):
        offsets += (np.arange(stack[dim]) * step).reshape([-1 if d == dim else 1 for d in range(len(stack))])
    return Matrix(window, steps[-2], steps[-1], offsets.ravel())


@dataclass(frozen=True)
class Product:
    """y[s] = act(alpha * a[s] @ b[s] + beta * bias[s] + r[s]) for every s of a stack; a is rows x depth, b is depth x columns."""

    a: Matrix
    b: Matrix
    y: Matrix
    bias: Matrix | None
    r: Matrix | None
    rows: int
    depth: int
    columns: int
    alpha: float = 1.0
    beta: float = 1.0
    #: Which inputs a and b are, where constant (so that they may be packed), and how their host arrays are turned to rows x columns.
    constant_b: bool = False
    transposed_b: bool = False

    @property
    def count(self) -> int:
        return len(self.y.offsets)


def build_product(c: Compile, p: Product) -> None:
    """Launches the method that suits the product and the device."""
    tiles = c.tiles
    defines = {**type_defines(c), **({"BIAS": 1} if p.bias is not None else {})}
    wanted = c.node.attr("method") or tiles.method
    method = wanted if wanted in _METHODS else _choose(p, tiles)
    if method == "panel" and not _can_panel(p, tiles):
        method = "direct"
    _METHODS[method](c, p, tiles, defines)


def _is_float(p: Product) -> bool:
    return p.y.window.dtype == np.float32


def _can_panel(p: Product, tiles: Tiles) -> bool:
    return (tiles.panels and _is_float(p) and p.depth > 0 and p.y.column in (0, 1) and (p.r is None or p.r.column in (0, 1))
            and (_packs(p) or 4 * p.depth * tiles.width <= tiles.local_bytes))


def _packs(p: Product) -> bool:
    return p.constant_b and len(p.b.window.shape) == 2


def _choose(p: Product, tiles: Tiles) -> str:
    if _can_panel(p, tiles):
        return "panel"
    return "tiled" if p.rows * p.columns >= 64 and p.depth >= 4 and p.y.window.dtype.kind == "f" else "direct"


def _common(p: Product, defines: dict[str, Any], c: Compile) -> tuple[list[Any], list[Any]]:
    """The arguments every kernel starts with (stacks included) and ends with."""
    zeros = np.zeros(p.count, np.int64)
    table = np.stack([m.offsets if m is not None else zeros for m in (p.a, p.b, p.y, p.r, p.bias)], axis=1).astype(np.int32)
    stacks = c.constant(table, ("stacks", table.tobytes()))
    kind = {"double": np.float64, "long": np.int64, "ulong": np.uint64, "int": np.int32, "uint": np.uint32}.get(defines["ACC"], np.float32)
    tail = [] if p.bias is None else [*p.bias.args(), number(p.beta, kind)]
    return [stacks, np.int32(p.depth), number(p.alpha, kind)], tail + ([] if p.r is None else p.r.args())


def _direct(c: Compile, p: Product, tiles: Tiles, defines: dict[str, Any]) -> None:
    middle, tail = _common(p, defines, c)
    c.implementation = f"{short(p.y.window.dtype)}_{c.node.op_type.lower()}_direct"
    c.launch("gemm_direct.cl", "gemm_direct", defines, (p.columns, p.rows, p.count), local_along(c, p.columns),
             *p.a.args(), *p.b.args(), *p.y.args(), *middle, np.int32(p.columns), *tail)


def _tiled(c: Compile, p: Product, tiles: Tiles, defines: dict[str, Any]) -> None:
    middle, tail = _common(p, defines, c)
    c.implementation = f"{short(p.y.window.dtype)}_{c.node.op_type.lower()}_tiled_{tiles.block_rows}x{tiles.block_columns}"
    c.launch("tiled.cl", "gemm_tiled", {**defines, **tiles.block_defines()}, *tiles.block_groups(p.rows, p.columns, p.count),
             *p.a.args(), *p.b.args(), *p.y.args(), *middle, *i32(p.rows, p.columns), *tail)


def pack_columns(b: np.ndarray, columns: int) -> np.ndarray:
    """A matrix depth x n as [panel][depth][columns], zeros beyond the last column."""
    depth, n = b.shape
    panels = -(-n // columns)
    if b.dtype == np.float32:
        return host.columns(b, columns).reshape(panels, depth, columns)
    padded = np.zeros((depth, panels * columns), b.dtype)
    padded[:, :n] = b
    return padded.reshape(depth, panels, columns).transpose(1, 0, 2)


def _panel(c: Compile, p: Product, tiles: Tiles, defines: dict[str, Any]) -> None:
    packs = _packs(p)
    rows, vectors = tiles.tile_for(p.rows, p.columns, 4 if packs else tiles.local_bytes // (4 * p.depth * tiles.width))
    if p.rows <= 2 and packs:  # bound by reading B: more sums at once hide the latency of the additions
        rows, vectors = 1, max(vectors, min(8 // p.rows, -(-p.columns // tiles.width)))
    columns = vectors * tiles.width
    middle, tail = _common(replace(p, r=p.r or p.y), defines, c)
    late, chosen = late_tail(c)
    defines = {**late, **({"BIAS": 1} if p.bias is not None else {}), **tiles.panel_defines(rows, vectors)}
    if packs:
        def pack(b: np.ndarray) -> np.ndarray:
            b = b.reshape(b.shape[:2])  # weights of a convolution have axes of extent 1 behind
            return pack_columns(b.T if p.transposed_b else b, columns)

        b = c.packed(1, ("columns", p.transposed_b, columns), pack)
        right, local = [b, *i32(0, 0)], []
        defines["PACKED"] = 1
    else:
        right, local = p.b.args(), [cl.LocalMemory(4 * p.depth * columns)]
    c.implementation = f"f32_{c.node.op_type.lower()}_panel_{rows}x{columns}"
    # One panel of columns runs over all rows; where there are many products, each brings its own.
    c.launch(["vectors.clh", "gemm_tile.clh", "gemm_panel.cl"], "gemm_panel", defines, (-(-p.columns // columns), p.count), (1, 1),
             *p.a.args(), *right, *p.y.args(), *middle, *i32(p.rows, p.columns), *local, *tail, np.int32(p.r is not None), *chosen, in_step=True)


_METHODS = {"direct": _direct, "tiled": _tiled, "panel": _panel}
