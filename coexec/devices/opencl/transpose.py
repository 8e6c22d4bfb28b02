"""Transpose: a copy with the source's strides in another order."""

from __future__ import annotations

from dataclasses import replace

from ...ops.transpose import permutation
from .builder import Compile, builds
from .nd import copy


@builds("Transpose", tail=True, narrow=True)
def build(c: Compile) -> None:
    x = c.input(0)
    order = permutation(c.node)
    c.implementation = f"b{8 * x.dtype.itemsize}_transpose_copy"
    copy(c, replace(x, shape=tuple(x.shape[d] for d in order), strides=tuple(x.strides[d] for d in order)), c.output(), tail=True)
