"""QuantizeLinear and DequantizeLinear, element by element: a scale and a zero point are spread as operands of a broadcast are."""

from __future__ import annotations

import numpy as np

from ...ops.operands import axes_of
from .builder import ClOperand, Compile, builds, short
from .nd import elementwise


@builds("QuantizeLinear", "DequantizeLinear")
def build(c: Compile) -> None:
    x, y, node = c.input(0), c.output(), c.node
    c.implementation = f"{short(x.dtype)}_{node.op_type.lower()}_{short(y.dtype)}"
    inputs, zero = [x, _spread(c, 1)], ""
    if c.value(2) is not None:
        inputs.append(_spread(c, 2))
        zero = " + a2" if node.op_type == "QuantizeLinear" else " - a2"
    text = f"(a0{zero}) * a1"
    if node.op_type == "QuantizeLinear":
        limits = np.iinfo(y.dtype)
        text = f"clamp(rint(QUOTIENT(T, a0, a1)){zero}, (T)({limits.min}.0f), (T)({limits.max}.0f))"
    elementwise(c, text, y, inputs, compute=np.dtype(np.float32), files=["exact.clh"])


def _spread(c: Compile, index: int) -> ClOperand:
    """A scale or zero point in float32, one number, or one for each index of the node's axis."""
    rank = len(c.node.output.shape)
    shape = [1] * rank
    if c.value(index).size > 1:
        shape[axes_of(rank, (c.node.attr("axis", 1),))[0]] = -1
    return c.packed(index, ("spread", *shape), lambda a: a.reshape(shape).astype(np.float32))
