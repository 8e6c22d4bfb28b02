"""MatMul on OpenCL: stacks broadcast by offsets; a stack times one matrix becomes one product of more rows where memory allows."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from .builder import ClOperand, Compile, builds
from .products import Product, build_product, matrix


def _grown(window: ClOperand, front: bool) -> ClOperand:
    """A window with one more axis of extent 1, before or behind the others."""
    one = ((1, *window.shape), (0, *window.strides)) if front else ((*window.shape, 1), (*window.strides, 0))
    return replace(window, shape=one[0], strides=one[1])


def _merged(window: ClOperand) -> ClOperand | None:
    """All axes but the last as one axis of rows, or None where the strides do not allow it."""
    extent, step = 1, None
    for n, s in zip(reversed(window.shape[:-1]), reversed(window.strides[:-1])):
        if n == 1:
            continue
        if step is not None and s != step * extent:
            return None
        step, extent = (s if step is None else step), extent * n
    return replace(window, shape=(extent, window.shape[-1]), strides=(step or 0, window.strides[-1]))


@builds("MatMul", tail=True)
def build(c: Compile) -> None:
    a, b, y = c.input(0), c.input(1), c.output(0)
    bias, r = c.input(2) if c.has(2) else None, c.residual
    vector_a, vector_b = len(a.shape) == 1, len(b.shape) == 1
    if vector_b:
        b, y = _grown(b, False), _grown(y, False)
        bias, r = bias and _grown(bias, False), r and _grown(r, False)
    if vector_a:
        def widen(w: ClOperand) -> ClOperand:
            if len(w.shape) < 2:
                return _grown(w, True)
            return replace(w, shape=(*w.shape[:-1], 1, w.shape[-1]), strides=(*w.strides[:-1], 0, w.strides[-1]))

        a, y = _grown(a, True), widen(y)
        bias, r = bias and widen(bias), r and widen(r)
    rows, depth, columns = y.shape[-2], a.shape[-1], y.shape[-1]
    if len(b.shape) == 2 and len(a.shape) > 2 and (bias is None or prod(bias.shape[:-1]) == 1):
        flat = [_merged(w) if w is not None else None for w in (a, y, r)]
        if flat[0] is not None and flat[1] is not None and (r is None or flat[2] is not None):
            a, y, r = flat
            rows = y.shape[0]
            bias = bias and replace(bias, shape=bias.shape[-1:], strides=bias.strides[-1:])
    stack = y.shape[:-2]
    build_product(c, Product(matrix(a, stack), matrix(b, stack), matrix(y, stack), bias and matrix(bias, stack), r and matrix(r, stack),
                             rows, depth, columns, constant_b=c.is_constant(1) and not vector_b))
