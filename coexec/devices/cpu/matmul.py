"""MatMul and Gemm: stacks of matrix products from packed panels, constant operands packed once, bias and tail fused in."""

from __future__ import annotations

from functools import partial

import numpy as np

from .build import Piece, Program, builds
from .jit import flat, inlined, kernel, strides
from .packing import Packing, Strips, pack, strips_of
from .panels import DEPTH, NO_FLOATS, group_end, multiply_rows, pack_rows, round_up, strip_vectors, tail_of
from .simd import LANES, PANEL, ROWS, load, store, store_turned

#: What the partial sums of a group of strips may take between two blocks of k (bytes).
SUMS_BYTES = 256 * 1024


@builds("MatMul")
def matmul(piece: Piece) -> Program | None:
    """Operands of two or more axes, stacks broadcast; a bias is a third operand."""
    if not piece.is_float32 or min(piece.inputs[0].ndim, piece.inputs[1].ndim) < 2:
        return None
    extra = None if piece.absent(2) else piece.inputs[2]
    return product(piece, piece.inputs[0], piece.inputs[1], extra, 1.0, 1.0)


@builds("Gemm")
def gemm(piece: Piece) -> Program | None:
    """alpha and beta are folded into constants; where there are none to fold them into, NumPy does it."""
    if not piece.is_float32:
        return None
    a, b = piece.inputs[0], piece.inputs[1]
    a, b = a.T if piece.node.attr("transA", 0) else a, b.T if piece.node.attr("transB", 0) else b
    extra = None if piece.absent(2) else piece.inputs[2]
    return product(piece, a, b, extra, float(piece.node.attr("alpha", 1.0)), float(piece.node.attr("beta", 1.0)))


def product(piece: Piece, a: np.ndarray, b: np.ndarray, extra: np.ndarray | None, alpha: float, beta: float) -> Program | None:
    """alpha * a @ b + beta * extra, then the tail; None where a factor has no constant to go into or strides do not fit."""
    y, residual = piece.outputs[0], piece.residual
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    a_fixed, b_fixed = piece.constant(0) is not None and a.ndim == 2, piece.constant(1) is not None and b.ndim == 2
    if not k or (alpha != 1.0 and not b_fixed):
        return None
    if n > 1 and any(v is not None and v.strides[-1] != 4 for v in (y, residual)):
        return None
    if extra is not None and beta != 1.0:
        if piece.constant(2) is None:
            return None
        extra = extra * np.float32(beta)
    if extra is not None:
        extra = np.broadcast_to(extra, y.shape)
        if n > 1 and extra.strides[-1] != 4:
            if piece.constant(2) is None:
                return None
            extra = np.ascontiguousarray(extra)
    column_bias, constant_bias = np.zeros(round_up(n, LANES), np.float32), piece.constant(2) is not None
    by_column = extra is not None and constant_bias and all(s == 0 or e == 1 for s, e in zip(extra.strides[:-1], extra.shape))
    if by_column:
        column_bias[:n], extra = extra.reshape(-1, n)[0], None
    if extra is not None and residual is not None:
        first, extra = extra, residual
    else:
        first, extra = None, extra if residual is None else residual
    stack = y.shape[:-2]
    if not all(_fits(v) for v in (a, b, y, extra, first)):
        return None
    key = piece.region, alpha
    if a_fixed:
        a_pack = piece.packed.get(piece.values[0], ("rows", key), lambda: piece.packed.later(pack_rows(a)))
    if b_fixed:
        b_pack = piece.packed.get(piece.values[1], ("strips", piece.regions[1], alpha), lambda: piece.packed.later(pack_strips(b, alpha)))
    rows = round_up(m, ROWS)
    strips = 1 if k <= DEPTH else max(1, min(16, SUMS_BYTES // (rows * PANEL * 4)))
    offsets = np.stack([matrix_offsets(v, stack) for v in (a, b, y, extra, first)], axis=1).reshape(-1)
    sizes = [0 if a_fixed else rows * k + ROWS * LANES, 0 if b_fixed else DEPTH * PANEL]
    starts = np.cumsum([0, *(round_up(s, LANES) for s in sizes)])
    geometry = np.array([offsets.size // 5, m, n, k, a_fixed, b_fixed, *_matrix_strides(a), *_matrix_strides(b), _matrix_strides(y)[0],
                         -1 if extra is None else _matrix_strides(extra)[0], -1 if first is None else _matrix_strides(first)[0],
                         strips, *starts[:2]], np.int64)
    arrays = (a_pack if a_fixed else flat(a), b_pack if b_fixed else flat(b), column_bias, flat(y),
              NO_FLOATS if extra is None else flat(extra), NO_FLOATS if first is None else flat(first))
    tail = tail_of(piece.node.activation)

    def bind(scratch: np.ndarray):
        return partial(matmul_panels, *arrays, scratch.view(np.float32), offsets, geometry, *tail)

    return Program(f"f32_{piece.node.op_type.lower()}_{'strips' if b_fixed else 'packed'}_{ROWS}x{PANEL}", bind, 4 * int(starts[2]))


def pack_strips(b: np.ndarray, factor: float = 1.0) -> Packing:
    """B (k x n, float32) times a factor as flat strips of at most PANEL columns, the last one padded to whole vectors."""
    (k, n), (row, column) = b.shape, strides(b)
    whole = max(0, n - 4 * LANES) // PANEL * PANEL  # what comes before the last strips is full ones
    table, at = [strips_of(k, whole, PANEL, row, column).table], whole
    while at < n:
        width = strip_vectors.py_func(n - at) * LANES
        table.append(np.array([[at * k, at * column, k, width, min(width, n - at)]], np.int64))
        at += width
    return pack(b, Strips(np.concatenate(table), at * k), row, column, factor)


def _fits(view: np.ndarray | None) -> bool:
    return view is None or all(s >= 0 and s % 4 == 0 for s in view.strides)


def _matrix_strides(view: np.ndarray) -> tuple[int, int]:
    return view.strides[-2] // 4, view.strides[-1] // 4


def matrix_offsets(view: np.ndarray | None, stack: tuple[int, ...]) -> np.ndarray:
    """Where each matrix of the stack begins, in elements."""
    count = int(np.prod(stack, dtype=np.int64))
    if view is None:
        return np.zeros(count, np.int64)
    steps = [0] * (len(stack) + 2 - view.ndim) + [0 if n == 1 else s // 4 for n, s in zip(view.shape[:-2], view.strides[:-2])]
    at = np.zeros((), np.int64)
    for extent, step in zip(stack, steps):
        at = at[..., None] + np.arange(extent, dtype=np.int64) * step
    return at.reshape(-1)


@inlined
def pack_a(s, at, a, a_at, row_step, column_step, m, k):
    """A into panels of ROWS rows, block of k after block of k."""
    to = at
    for k0 in range(0, k, DEPTH):
        depth = min(DEPTH, k - k0)
        for row in range(0, m, ROWS):
            count = min(ROWS, m - row)
            source = a_at + row * row_step + k0 * column_step
            done = 0
            if count == ROWS and column_step == 1:
                done = depth // LANES * LANES
                for j in range(0, done, LANES):
                    store_turned(s, to + j * ROWS, a, source + j, row_step)
            for r in range(count):
                for j in range(done, depth):
                    s[to + j * ROWS + r] = a[source + r * row_step + j * column_step]
            to += depth * ROWS


@inlined
def pack_b(s, at, b, b_at, row_step, column_step, depth, columns, width):
    """A strip of a block of B."""
    if column_step == 1 and columns == width:
        for k in range(depth):
            for v in range(0, width, LANES):
                store(s, at + k * width + v, load(b, b_at + k * row_step + v))
    else:
        for j in range(columns):
            for k in range(depth):
                s[at + k * width + j] = b[b_at + k * row_step + j * column_step]


@kernel
def matmul_panels(a, b, bias, y, extra, start_with, s, offsets, g, kind, alpha, beta, low, high):
    count, m, n, k, a_fixed, b_fixed = g[0], g[1], g[2], g[3], g[4], g[5]
    a_row, a_column, b_row, b_column, y_row, e_row = g[6], g[7], g[8], g[9], g[10], g[11]
    f_row, strips, a_at, b_at = g[12], g[13], g[14], g[15]
    padded = (m + ROWS - 1) // ROWS * ROWS
    packed = np.int64(-1)
    block = k if m == 1 and b_fixed else DEPTH  # one row's sums stay in registers: b is one stream
    for i in range(count):
        y_at, e_at = offsets[5 * i + 2], offsets[5 * i + 3]
        if a_fixed == 0 and packed != offsets[5 * i]:
            packed = offsets[5 * i]
            pack_a(s, a_at, a, packed, a_row, a_column, m, k)
        group = 0
        while group < n:
            stop = group_end(group, n, strips)
            for k0 in range(0, k, block):
                depth = min(block, k - k0)
                last = 1 if k0 + depth == k else 0
                start = group
                while start < stop:
                    vectors = strip_vectors(n - start)
                    width = vectors * LANES
                    columns = min(width, n - start)
                    if k0 == 0 and f_row >= 0:
                        f_at = offsets[5 * i + 4] + start
                        for r in range(m):
                            for j in range(columns):
                                y[y_at + r * y_row + start + j] = start_with[f_at + r * f_row + j]
                    if b_fixed == 0:
                        pack_b(s, b_at, b, offsets[5 * i + 1] + k0 * b_row + start * b_column, b_row, b_column, depth, columns, width)
                    more = 1 if k0 or f_row >= 0 else 0
                    if a_fixed == 0 and b_fixed == 0:
                        multiply_rows(vectors, s, a_at + k0 * padded, depth, depth, s, b_at, m, y, y_at + start, y_row, columns,
                                      bias, start, 1, more, last, extra, e_at + start, e_row, kind, alpha, beta, low, high, 0)
                    elif a_fixed == 0:
                        multiply_rows(vectors, s, a_at + k0 * padded, depth, depth, b, start * k + k0 * width, m, y, y_at + start, y_row, columns,
                                      bias, start, 1, more, last, extra, e_at + start, e_row, kind, alpha, beta, low, high, 0)
                    elif b_fixed == 0:
                        multiply_rows(vectors, a, k0 * ROWS, k, depth, s, b_at, m, y, y_at + start, y_row, columns,
                                      bias, start, 1, more, last, extra, e_at + start, e_row, kind, alpha, beta, low, high, 0)
                    else:
                        multiply_rows(vectors, a, k0 * ROWS, k, depth, b, start * k + k0 * width, m, y, y_at + start, y_row, columns,
                                      bias, start, 1, more, last, extra, e_at + start, e_row, kind, alpha, beta, low, high, 0)
                    start += width
            group = stop
