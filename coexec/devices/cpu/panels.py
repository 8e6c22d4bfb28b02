"""Matrix products from packed panels, the tail fused in: what convolutions, Gemm and MatMul are made of.

C (m x n) = A (m x k) B (k x n). A is packed once: panels of ROWS rows, each k x ROWS, of which a block of at most DEPTH of k is used at a
time. B is packed as it is needed: strips of at most PANEL columns, each depth x columns, one block of k at a time, so that a strip stays
in the first-level cache while all of A's block passes over it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...graph.ir import Activation
from .activations import CLAMPED, activate, code_of
from .jit import helper, inlined, strides
from .packing import Packing, pack, side_by_side, strips_of
from .simd import LANES, PANEL, ROWS, multiply_tile

#: Depth of a block of k: a strip of that depth takes most of a 32-48 KB first-level cache where vectors are wide.
DEPTH = 192

NO_FLOATS = np.zeros(1, np.float32)
#: A short last panel of rows is multiplied as so many.
HALF = ROWS // 2


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


def pack_rows(a: np.ndarray, to: np.ndarray | None = None, rows: int = ROWS) -> Packing:
    """A (m x k, or a stack of such, float32) as flat panels of `rows` rows, zero-padded; into `to`, or memory of their own."""
    m, k = a.shape[-2:]
    row, column = strides(a)[-2:]
    what = strips_of(k, m, rows, column, row)
    return pack(a, what if a.ndim == 2 else side_by_side(what, a.shape[0], strides(a)[0]), column, row, to=to)


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
    """Vectors of the next strip where so many columns are left: two strips of two are quicker than one of three and one of one."""
    left = (columns + LANES - 1) // LANES
    return left if left < 4 else 2 if left == 4 else PANEL // LANES


@inlined
def group_end(start, columns, strips):
    """Where the group of at most so many strips ends that begins at column `start`."""
    for _ in range(strips):
        if start < columns:
            start += strip_vectors(columns - start) * LANES
    return min(start, columns)


@helper
def multiply_rows(vectors, a, a_at, a_deep, depth, b, b_at, m, c, c_at, c_row, columns, bias, bias_at, by_column, accumulate, last,
                  res, res_at, res_row, kind, alpha, beta, low, high, shifts):
    """One strip of one block of k: every row of A against it; the tail where the block is the last. res_row < 0: no residual.

    Panels of A are a_deep * ROWS elements apart. b is packed where `shifts` is 0, else an array as multiply_tile takes it.
    """
    left_over = columns - (vectors - 1) * LANES
    bias_step = 0 if by_column else 1
    for row in range(0, m, ROWS):
        left = m - row
        at, to = a_at + row * a_deep, c_at + row * c_row
        b_a, r_at = bias_at + row * bias_step, res_at + row * res_row
        if left == 1:
            if vectors == 3:
                multiply_tile(1, 3, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                              low, high, 1, left_over, b, 0, shifts)
            elif vectors == 2:
                multiply_tile(1, 2, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                              low, high, 1, left_over, b, 0, shifts)
            else:
                multiply_tile(1, 1, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                              low, high, 1, left_over, b, 0, shifts)
        elif left <= HALF:
            if vectors == 3:
                multiply_tile(HALF, 3, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                              low, high, left, left_over, b, 0, shifts)
            elif vectors == 2:
                multiply_tile(HALF, 2, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                              low, high, left, left_over, b, 0, shifts)
            else:
                multiply_tile(HALF, 1, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                              low, high, left, left_over, b, 0, shifts)
        elif vectors == 3:
            multiply_tile(ROWS, 3, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                          low, high, left, left_over, b, 0, shifts)
        elif vectors == 2:
            multiply_tile(ROWS, 2, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                          low, high, left, left_over, b, 0, shifts)
        else:
            multiply_tile(ROWS, 1, a, at, b, b_at, depth, c, to, c_row, bias, b_a, by_column, accumulate, last, res, r_at, res_row,
                          low, high, left, left_over, b, 0, shifts)
        if last and kind != 0:
            for r in range(min(left, ROWS)):
                activate(c, to + r * c_row, columns, c, to + r * c_row, kind, alpha, beta)
