"""Matrix products from packed panels, the tail fused in: what convolutions, Gemm and MatMul are made of.

C (m x n) = A (m x k) B (k x n). A is packed once: for each block of at most DEPTH of k, panels of ROWS rows, each depth x ROWS.
B is packed as it is needed: strips of at most PANEL columns, each depth x columns, one block of k at a time, so that a strip stays
in the first-level cache while all of A's block passes over it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...graph.ir import Activation
from .activations import CLAMPED, activate, code_of
from .jit import helper, inlined
from .simd import LANES, PANEL, ROWS, multiply_tile

#: Depth of a block of k: a strip of that depth takes most of a 32-48 KB first-level cache where vectors are wide.
DEPTH = 192

NO_FLOATS = np.zeros(1, np.float32)


class Tail(NamedTuple):
    """A fused activation as kernels take it: `kind` 0 where the clamp between low and high is all there is."""

    kind: int
    alpha: np.float32
    beta: np.float32
    low: np.float32
    high: np.float32


def tail_of(activation: Activation | None) -> Tail:
    """Relu and Clip as a clamp, anything else by its code."""
    infinity, zero = np.float32(np.inf), np.float32(0)
    if activation is None:
        return Tail(0, zero, zero, -infinity, infinity)
    alpha, beta = np.float32(activation.alpha), np.float32(activation.beta)
    if activation.kind in CLAMPED:
        return Tail(0, zero, zero, *((zero, infinity) if activation.kind == "Relu" else (alpha, beta)))
    return Tail(code_of(activation.kind), alpha, beta, -infinity, infinity)


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def pack_rows(a: np.ndarray, unit: int = 1) -> np.ndarray:
    """A (m x k) as flat panels of ROWS rows, zero-padded; blocks of k hold a multiple of `unit` of it, at most DEPTH if that allows."""
    m, k = a.shape
    padded = np.zeros((round_up(m, ROWS), k), np.float32)
    padded[:m] = a
    step = block_depth(unit)
    blocks = [padded[:, at:at + step].reshape(-1, ROWS, min(step, k - at)).transpose(0, 2, 1).ravel() for at in range(0, k, step)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def pack_bias(bias: np.ndarray | None, m: int) -> np.ndarray:
    """One bias per row, padded with zeros to whole panels."""
    padded = np.zeros(round_up(m, ROWS), np.float32)
    if bias is not None:
        padded[:m] = bias
    return padded


def block_depth(unit: int) -> int:
    """Depth of a block of k that holds whole units."""
    return max(1, DEPTH // unit) * unit


@inlined
def strip_vectors(columns):
    """Vectors that a strip of so many columns takes."""
    return min((columns + LANES - 1) // LANES, PANEL // LANES)


@inlined
def multiply_rows(vectors, a, a_at, depth, b, b_at, m, c, c_at, c_row, edge, edge_at, columns, bias, bias_at, accumulate,
                  res, res_at, res_row, low, high):
    """One strip of one block of k: every row of A against it; res_row < 0 where no residual is to be added now.

    Goes to C directly where the tile is whole; else to `edge` (m padded to ROWS, PANEL wide), which keeps sums between blocks of k.
    """
    whole = columns == vectors * LANES
    at = a_at
    for row in range(0, m, ROWS):
        left = m - row
        direct = whole and (left >= ROWS or left == 1)
        to = c if direct else edge
        to_at = c_at + row * c_row if direct else edge_at + row * PANEL
        to_row = c_row if direct else PANEL
        r_at = res_at + row * res_row
        r_row = res_row if direct else -1
        lo = low if direct or res_row < 0 else np.float32(-np.inf)
        hi = high if direct or res_row < 0 else np.float32(np.inf)
        if left == 1:
            if vectors == 3:
                multiply_tile(1, 3, a, at, b, b_at, depth, to, to_at, to_row, bias, bias_at + row, accumulate, res, r_at, r_row, lo, hi)
            elif vectors == 2:
                multiply_tile(1, 2, a, at, b, b_at, depth, to, to_at, to_row, bias, bias_at + row, accumulate, res, r_at, r_row, lo, hi)
            else:
                multiply_tile(1, 1, a, at, b, b_at, depth, to, to_at, to_row, bias, bias_at + row, accumulate, res, r_at, r_row, lo, hi)
        elif vectors == 3:
            multiply_tile(ROWS, 3, a, at, b, b_at, depth, to, to_at, to_row, bias, bias_at + row, accumulate, res, r_at, r_row, lo, hi)
        elif vectors == 2:
            multiply_tile(ROWS, 2, a, at, b, b_at, depth, to, to_at, to_row, bias, bias_at + row, accumulate, res, r_at, r_row, lo, hi)
        else:
            multiply_tile(ROWS, 1, a, at, b, b_at, depth, to, to_at, to_row, bias, bias_at + row, accumulate, res, r_at, r_row, lo, hi)
        at += depth * ROWS


@helper
def finish_strip(vectors, m, c, c_at, c_row, edge, edge_at, columns, res, res_at, res_row, kind, alpha, beta, low, high):
    """What follows the last block of k: brings in what went to `edge` (residual and clamp included), applies other activations."""
    whole = columns == vectors * LANES
    if whole and m % ROWS <= 1 and kind == 0:
        return
    for row in range(m):
        left = m - row // ROWS * ROWS
        at = c_at + row * c_row
        if not (whole and (left >= ROWS or left == 1)):
            if res_row < 0:
                for j in range(columns):
                    c[at + j] = edge[edge_at + row * PANEL + j]
            else:
                for j in range(columns):
                    v = edge[edge_at + row * PANEL + j] + res[res_at + row * res_row + j]
                    v = low if v < low else v
                    c[at + j] = high if v > high else v
        if kind != 0:
            activate(c, at, columns, c, at, kind, alpha, beta)
