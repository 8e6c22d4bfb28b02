"""ConvTranspose on OpenCL: every output gathers the taps that reach it; dense float32 as one convolution a phase of the strides."""

from __future__ import annotations

from ...ops.conv_transpose import conv_transpose_params
from .builder import Compile, builds, short
from .conv import strides
from .tail import bias_args, five, i32, three, type_defines


@builds("ConvTranspose", tail=True)
def build(c: Compile) -> None:
    p = conv_transpose_params(c.node)
    x, w, y, r = five(c.input(0)), five(c.input(1)), five(c.output(0)), c.residual
    groups = y.shape[1] // w.shape[1] if p.group > 1 else 1
    # o + pad = i * stride + k * dilation, with o and i local to the piece
    pads = [out.start + pad - rows.start * s for out, rows, pad, s in zip(c.region[2:], c.in_regions[0][2:], p.pads_begin, p.strides)]
    bias = c.input(2) if c.has(2) else None
    defines = {**type_defines(c), **({"BIAS": 1} if bias is not None else {})}
    c.implementation = f"{short(y.dtype)}_conv_transpose_direct"
    c.launch("conv_direct.cl", "conv_transpose_direct", defines, (y.shape[2] * y.shape[3] * y.shape[4], y.shape[1], y.shape[0]), None,
             x, strides(x), w, strides(w), y, strides(y), *i32(x.shape[1] // groups, w.shape[1]), three(x.shape[2:], 1), three(y.shape[2:], 1),
             three(p.kernel, 1), three(p.strides, 1), three(p.dilations, 1), three(pads, 0),
             *bias_args(bias), *([r, strides(five(r))] if r is not None else []))
