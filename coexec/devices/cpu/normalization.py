"""Normalizations on float32: rows standardized (layer, instance, group, RMS), channels scaled (batch), neighbours summed (LRN)."""

from __future__ import annotations

from functools import partial

import numpy as np

from .activations import activate
from .build import Piece, Program, builds
from .elementwise import part, put
from .jit import flat, kernel
from .panels import tail_of
from .rows import Rows, as_rows
from .simd import LANES, clamp, keep, splat, square_root, total


def _usable(piece: Piece) -> bool:
    return piece.is_float32 and not piece.node.residual and all(v is None for v in piece.node.outputs[1:])


def _standardize(piece: Piece, rows: Rows, scale: np.ndarray, shift: np.ndarray, by_element: bool, repeat: int, centered: bool) -> Program:
    run = partial(rows_standardize, flat(piece.inputs[0]), flat(piece.outputs[0]), rows.offsets, rows.length, flat(scale), flat(shift),
                  by_element,
                  repeat, centered, np.float32(piece.node.attr("epsilon", 1e-5)), *tail_of(piece.node.activation))
    return Program(f"f32_{piece.node.op_type.lower()}", lambda scratch: run)


@builds("LayerNormalization", "RMSNormalization")
def trailing(piece: Piece) -> Program | None:
    """Trailing axes side by side; constant parameters of those axes."""
    x, y = piece.inputs[0], piece.outputs[0]
    if not _usable(piece) or piece.constant(1) is None or (not piece.absent(2) and piece.constant(2) is None):
        return None
    first = piece.node.attr("axis", -1) % x.ndim
    rows, count = as_rows(x, y, keep=first), int(np.prod(x.shape[first:]))
    if rows is None or rows.length != count or rows.steps != (1, 1):
        return None
    parameters = []
    for i, default in ((1, 1.0), (2, 0.0)):
        value = np.float32(default) if piece.absent(i) else piece.constant(i)
        if value.ndim > x.ndim - first and any(n != 1 for n in value.shape[:value.ndim - (x.ndim - first)]):
            return None
        value = value.reshape(value.shape[max(0, value.ndim - (x.ndim - first)):])
        parameters.append(np.array(np.broadcast_to(value, x.shape[first:]), np.float32).reshape(-1))
    return _standardize(piece, rows, *parameters, True, 1, piece.node.op_type == "LayerNormalization")


@builds("InstanceNormalization")
def instance(piece: Piece) -> Program | None:
    """Planes side by side; constant parameters."""
    x, y = piece.inputs[0], piece.outputs[0]
    if not _usable(piece) or x.ndim < 3 or piece.constant(1) is None or piece.constant(2) is None:
        return None
    rows = as_rows(x, y, keep=2)
    if rows is None or rows.length != int(np.prod(x.shape[2:])) or rows.steps != (1, 1):
        return None
    scale, shift = (np.tile(np.array(p, np.float32), x.shape[0]) for p in piece.inputs[1:3])
    return _standardize(piece, rows, scale, shift, False, 1, True)


@builds("GroupNormalization")
def group(piece: Piece) -> Program | None:
    """Whole groups of channels side by side; constant parameters."""
    x, y = piece.inputs[0], piece.outputs[0]
    if not _usable(piece) or x.ndim < 3 or piece.constant(1) is None or piece.constant(2) is None:
        return None
    per_group = piece.node.output.shape[1] // int(piece.node.attr("num_groups"))
    if not (x.flags.c_contiguous and y.flags.c_contiguous) or x.shape[1] % per_group:
        return None
    grouped = (x.shape[0] * x.shape[1] // per_group, per_group * int(np.prod(x.shape[2:])))
    rows = as_rows(x.reshape(grouped), y.reshape(grouped), keep=1)
    if rows is None or rows.steps != (1, 1):
        return None
    scale, shift = (np.tile(np.array(p, np.float32), x.shape[0]) for p in piece.inputs[1:3])
    return _standardize(piece, rows, scale, shift, False, per_group, True)


@builds("BatchNormalization")
def batch(piece: Piece) -> Program | None:
    """Constant statistics: a scale and a shift per channel."""
    x, y = piece.inputs[0], piece.outputs[0]
    if not _usable(piece) or piece.node.attr("training_mode", 0) or any(piece.constant(i) is None for i in range(1, 5)):
        return None
    rows = as_rows(x, y, keep=2)
    if rows is None:
        return None
    scale, shift, mean, variance = (p.astype(np.float64) for p in piece.inputs[1:5])
    factor = scale / np.sqrt(variance + piece.node.attr("epsilon", 1e-5))
    per_row = rows.count // (x.shape[0] * x.shape[1])
    by_row = [np.tile(np.repeat(v.astype(np.float32), per_row), x.shape[0]) for v in (factor, shift - mean * factor)]
    run = partial(rows_scale, flat(x), flat(y), rows.offsets, rows.length, *by_row, *tail_of(piece.node.activation))
    return Program("f32_batchnormalization", lambda scratch: run)


@builds("LRN")
def lrn(piece: Piece) -> Program | None:
    """The power 0.75 that models use, planes side by side."""
    x, y = piece.inputs[0], piece.outputs[0]
    if not _usable(piece) or piece.node.activation or x.ndim < 3 or piece.node.attr("beta", 0.75) != 0.75:
        return None
    rows_x, rows_y = as_rows(x, keep=2), as_rows(y, keep=2)
    plane = int(np.prod(x.shape[2:]))
    if rows_x is None or rows_y is None or rows_x.length != plane or rows_y.length != plane:
        return None
    size = int(piece.node.attr("size"))
    shift = piece.region[1].start - piece.regions[0][1].start
    geometry = np.array([x.shape[0], x.shape[1], y.shape[1], plane, size, (size - 1) // 2, shift], np.int64)
    run = partial(lrn_planes, flat(x), flat(y), rows_x.offsets, rows_y.offsets, geometry, np.float32(piece.node.attr("bias", 1.0)),
                  np.float32(piece.node.attr("alpha", 1e-4) / size))
    return Program("f32_lrn", lambda scratch: run)


@kernel
def rows_standardize(x, y, offsets, length, scale, shift, by_element, repeat, centered, epsilon, kind, alpha, beta, low, high):
    run = length // repeat
    for i in range(offsets.size // 2):
        x_at, y_at = offsets[2 * i], offsets[2 * i + 1]
        mean = np.float32(0)
        if centered:
            s0, s1 = splat(np.float32(0)), splat(np.float32(0))
            for j in range(0, length, 2 * LANES):
                s0 = s0 + part(x, x_at + j, 1, length - j)
                if length - j > LANES:
                    s1 = s1 + part(x, x_at + j + LANES, 1, length - j - LANES)
            mean = total(s0 + s1) / np.float32(length)
        squares = splat(np.float32(0))
        for j in range(0, length, LANES):
            v = keep(part(x, x_at + j, 1, length - j) - mean, 0, length - j)
            squares = squares + v * v
        inverse = np.float32(1) / np.sqrt(total(squares) / np.float32(length) + epsilon)
        if by_element:
            for j in range(0, length, LANES):
                left = length - j
                v = (part(x, x_at + j, 1, left) - mean) * inverse * part(scale, j, 1, left) + part(shift, j, 1, left)
                put(y, y_at + j, clamp(v, low, high), left)
        else:
            for r in range(repeat):
                factor, more = scale[i * repeat + r] * inverse, shift[i * repeat + r]
                for j in range(0, run, LANES):
                    v = (part(x, x_at + r * run + j, 1, run - j) - mean) * factor + more
                    put(y, y_at + r * run + j, clamp(v, low, high), run - j)
        if kind != 0:
            activate(y, y_at, length, y, y_at, kind, alpha, beta)


@kernel
def rows_scale(x, y, offsets, length, scale, shift, kind, alpha, beta, low, high):
    for i in range(offsets.size // 2):
        x_at, y_at = offsets[2 * i], offsets[2 * i + 1]
        for j in range(0, length, LANES):
            put(y, y_at + j, clamp(part(x, x_at + j, 1, length - j) * scale[i] + shift[i], low, high), length - j)
        if kind != 0:
            activate(y, y_at, length, y, y_at, kind, alpha, beta)


@kernel
def lrn_planes(x, y, x_offsets, y_offsets, g, bias, factor):
    n, read, channels, plane, size, before, shift = g[0], g[1], g[2], g[3], g[4], g[5], g[6]
    for image in range(n * channels):
        batch_at, channel = image // channels, image % channels
        first, stop = max(0, channel + shift - before), min(read, channel + shift - before + size)
        x_at = x_offsets[batch_at * read + channel + shift]
        for j in range(0, plane, LANES):
            left = plane - j
            squares = splat(np.float32(0))
            for c in range(first, stop):
                v = part(x, x_offsets[batch_at * read + c] + j, 1, left)
                squares = squares + v * v
            root = square_root(squares * factor + bias)
            put(y, y_offsets[image] + j, part(x, x_at + j, 1, left) / (root * square_root(root)), left)
