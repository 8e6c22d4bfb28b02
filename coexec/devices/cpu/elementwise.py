"""Elementwise operators on float32: one input or two, broadcast by row or by scalar, with the fused tail in the same pass."""

from __future__ import annotations

from functools import partial

import numpy as np

from .activations import ERF, EXP, GELU, GELU_TANH, HARD_SIGMOID, HARD_SWISH, LEAKY, SIGMOID, SILU, TANH, activate, apply
from .build import Piece, Program, builds
from .jit import flat, inlined, kernel
from .panels import NO_FLOATS, tail_of
from .rows import as_rows
from .simd import LANES, clamp, load, load_inside, magnitude, pick_less, pick_number, splat, square_root, store, store_first

#: Codes beyond those of activations.
SQRT, NEG, ABS, RECIPROCAL, COPY, SQUARE = 20, 21, 22, 23, 24, 25
_UNARY = {"Sigmoid": SIGMOID, "Tanh": TANH, "HardSwish": HARD_SWISH, "Silu": SILU, "Erf": ERF, "Exp": EXP, "Sqrt": SQRT, "Neg": NEG,
          "Abs": ABS,
          "Reciprocal": RECIPROCAL}
ADD, SUB, MUL, DIV, MAX, MIN, PRELU = range(7)
_BINARY = {"Add": ADD, "Sum": ADD, "Sub": SUB, "Mul": MUL, "Div": DIV, "Max": MAX, "Min": MIN, "PRelu": PRELU}


@builds("Relu", "Clip", "LeakyRelu", "HardSigmoid", "Gelu", "Swish", *_UNARY)
def unary(piece: Piece) -> Program | None:
    """Functions of one float32 tensor; Clip with constant bounds."""
    node = piece.node
    code, alpha, beta, low, high = _UNARY.get(node.op_type, COPY), 0.0, 0.0, -np.inf, np.inf
    if node.op_type == "Relu":
        low = 0.0
    elif node.op_type == "Clip":
        if any(not piece.absent(i) and piece.constant(i) is None for i in (1, 2)):
            return None
        low, high = (d if piece.absent(i) else float(piece.constant(i).reshape(())) for i, d in ((1, low), (2, high)))
        if np.isnan(low) or np.isnan(high):
            return None
    elif node.op_type == "LeakyRelu":
        code, alpha = LEAKY, node.attr("alpha", 0.01)
    elif node.op_type == "HardSigmoid":
        code, alpha, beta = HARD_SIGMOID, node.attr("alpha", 0.2), node.attr("beta", 0.5)
    elif node.op_type == "Gelu":
        approximate = node.attr("approximate", "none")
        code = GELU_TANH if approximate in ("tanh", b"tanh") else GELU
    elif node.op_type == "Swish":
        if node.attr("alpha", 1.0) != 1.0:
            return None
        code = SILU
    return _one_input(piece, code, alpha, beta, low, high)


def _one_input(piece: Piece, code: int, alpha: float = 0.0, beta: float = 0.0, low: float = -np.inf,
               high: float = np.inf) -> Program | None:
    x, y, residual = piece.inputs[0], piece.outputs[0], piece.residual
    if not piece.is_float32:
        return None
    rows = as_rows(x, y, residual)
    if rows is None:
        return None
    numbers = tuple(np.float32(v) for v in (alpha, beta, low, high))
    run = partial(rows_unary, flat(x), flat(y), NO_FLOATS if residual is None else flat(residual), rows.offsets, rows.length, rows.steps[0],
                  residual is not None, code, *numbers, *tail_of(piece.node.activation))
    return Program(f"f32_{piece.node.op_type.lower()}", lambda scratch: run)


@builds("Pow")
def power(piece: Piece) -> Program | None:
    """Only the square and the square root, which is what models raise to."""
    exponent = piece.constant(1)
    if exponent is None or exponent.size != 1 or piece.inputs[0].shape != piece.outputs[0].shape:
        return None
    code = {2.0: SQUARE, 0.5: SQRT}.get(float(exponent.reshape(())))
    return None if code is None else _one_input(piece, code)


@builds(*_BINARY)
def binary(piece: Piece) -> Program | None:
    """Two float32 inputs, each the output's shape or repeated along some axes."""
    if len(piece.node.operands) != 2 or not piece.is_float32:
        return None
    y, residual = piece.outputs[0], piece.residual
    a, b = (np.broadcast_to(v, y.shape) for v in piece.inputs[:2])
    rows = as_rows(a, b, y, residual)
    if rows is None:
        return None
    run = partial(rows_binary, flat(a), flat(b), flat(y), NO_FLOATS if residual is None else flat(residual), rows.offsets, rows.length,
                  rows.steps[0], rows.steps[1], residual is not None, _BINARY[piece.node.op_type], *tail_of(piece.node.activation))
    return Program(f"f32_{piece.node.op_type.lower()}", lambda scratch: run)


@inlined
def part(x, at, step, left):
    """LANES elements of a row (fewer where fewer are left), or one of them repeated."""
    if step == 0:
        return splat(x[at])
    if left >= LANES:
        return load(x, at)
    return load_inside(x, at, 1, 0, left)


@inlined
def put(y, at, value, left):
    """Writes LANES elements of a row, fewer where fewer are left."""
    if left >= LANES:
        store(y, at, value)
    else:
        store_first(y, at, value, left)


@inlined
def one(x, code, alpha, beta):
    """The function of that code of a vector."""
    if code == COPY:
        return x
    if code == SQRT:
        return square_root(x)
    if code == NEG:
        return x * np.float32(-1)
    if code == ABS:
        return magnitude(x)
    if code == RECIPROCAL:
        return np.float32(1) / x
    if code == SQUARE:
        return x * x
    return apply(x, code, alpha, beta)


@inlined
def two(a, b, code):
    """The function of that code of two vectors."""
    if code == ADD:
        return a + b
    if code == SUB:
        return a - b
    if code == MUL:
        return a * b
    if code == DIV:
        return a / b
    if code == MAX:
        return pick_number(b, pick_less(a, b, b, a))
    if code == MIN:
        return pick_number(b, pick_less(b, a, b, a))
    return pick_less(a, np.float32(0), a * b, a)


@kernel
def rows_unary(x, y, res, offsets, length, x_step, has_res, code, a1, b1, low1, high1, kind, alpha, beta, low, high):
    for i in range(0, offsets.size, 3):
        x_at, y_at, r_at = offsets[i], offsets[i + 1], offsets[i + 2]
        for j in range(0, length, LANES):
            left = length - j
            value = clamp(one(part(x, x_at + j * x_step, x_step, left), code, a1, b1), low1, high1)
            if has_res:
                value = value + part(res, r_at + j, 1, left)
            put(y, y_at + j, clamp(value, low, high), left)
        if kind != 0:
            activate(y, y_at, length, y, y_at, kind, alpha, beta)


@kernel
def rows_binary(a, b, y, res, offsets, length, a_step, b_step, has_res, code, kind, alpha, beta, low, high):
    for i in range(0, offsets.size, 4):
        a_at, b_at, y_at, r_at = offsets[i], offsets[i + 1], offsets[i + 2], offsets[i + 3]
        for j in range(0, length, LANES):
            left = length - j
            value = two(part(a, a_at + j * a_step, a_step, left), part(b, b_at + j * b_step, b_step, left), code)
            if has_res:
                value = value + part(res, r_at + j, 1, left)
            put(y, y_at + j, clamp(value, low, high), left)
        if kind != 0:
            activate(y, y_at, length, y, y_at, kind, alpha, beta)
