"""Gemm on OpenCL: transposes are strides, alpha, beta and the broadcast C join the store."""

from __future__ import annotations

from dataclasses import replace

from .builder import ClOperand, Compile, builds
from .products import Product, build_product, matrix


def _turned(window: ClOperand, turn: bool) -> ClOperand:
    return replace(window, shape=window.shape[::-1], strides=window.strides[::-1]) if turn else window


@builds("Gemm", tail=True)
def build(c: Compile) -> None:
    trans_a, trans_b = bool(c.node.attr("transA", 0)), bool(c.node.attr("transB", 0))
    a, b, y = _turned(c.input(0), trans_a), _turned(c.input(1), trans_b), c.output(0)
    bias = matrix(c.input(2), ()) if c.has(2) else None
    r = matrix(c.residual, ()) if c.node.residual else None
    build_product(c, Product(matrix(a, ()), matrix(b, ()), matrix(y, ()), bias, r, y.shape[0], a.shape[1], y.shape[1],
                             float(c.node.attr("alpha", 1.0)), float(c.node.attr("beta", 1.0)), c.is_constant(1), trans_b))
