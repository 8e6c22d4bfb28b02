"""What of a convolution its kernels are told, and the arguments that they have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ...ops.conv import conv_input, conv_params
from .builder import ClOperand, Compile, int8
from .tail import bias_args, five, late_tail, three, type_defines


@dataclass(frozen=True)
class Shape:
    """What of a convolution a kernel is told: windows (batch, channel, depth, height, width), and per-axis numbers local to the piece."""

    x: ClOperand
    y: ClOperand
    r: ClOperand | None
    groups: int
    in_channels: int  # of one group
    out_channels: int  # of one group
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    constant: bool

    @property
    def depth(self) -> int:
        return self.in_channels * prod(self.kernel)

    @property
    def pixels(self) -> int:
        return prod(self.y.shape[2:])

    @property
    def is_plane(self) -> bool:
        """True for at most two spatial axes of float32, weights constant, neighbours along a row side by side in memory."""
        windows = [w for w in (self.x, self.y, self.r) if w is not None]
        return (self.constant and self.kernel[0] == 1 and self.x.shape[2] == self.y.shape[2] == 1 and self.y.dtype == np.float32
                and all(w.strides[4] == 1 or w.shape[4] == 1 for w in windows))

    @property
    def is_depthwise(self) -> bool:
        return self.in_channels == self.out_channels == 1 and self.groups > 1

    def flattened(self) -> Shape:
        """A 1x1 convolution of dense planes as one of a single long row; anything else as it is."""
        windows = [w for w in (self.x, self.y, self.r) if w is not None]
        if prod(self.kernel) * prod(self.strides) != 1 or any(self.pads) or self.x.shape[2:] != self.y.shape[2:]:
            return self
        if any((w.strides[3], w.strides[4]) != (w.shape[4], 1) for w in windows):
            return self
        pixels = self.y.shape[3] * self.y.shape[4]
        flat = [w and replace(w, shape=(*w.shape[:2], 1, 1, pixels), strides=(*w.strides[:2], 0, pixels, 1)) for w in (self.x, self.y,
            self.r)]
        return replace(self, x=flat[0], y=flat[1], r=flat[2])

    @property
    def is_vector(self) -> bool:
        """True for maps of one pixel: a row of channels times a matrix."""
        windows = [w for w in (self.x, self.y, self.r) if w is not None]
        return (prod(self.kernel) == self.groups == 1 and not any(self.pads) and all(prod(w.shape[2:]) == 1 for w in windows)
                and all(w.strides[1] == 1 for w in windows[1:]))

    def args(self) -> list[Any]:
        """in, out, size, stride, dilation, pad as kernel arguments."""
        return [three(self.x.shape[2:], 1), three(self.y.shape[2:], 1), three(self.kernel, 1), three(self.strides, 1),
                three(self.dilations, 1),
                three(self.pads, 0)]


def conv_shape(c: Compile) -> Shape:
    """The piece's convolution with three spatial axes; missing ones come first, with extent 1."""
    p = conv_params(c.node)
    spans = conv_input(c.node, c.region)[1]
    x, y, r = c.input(0), c.output(0), c.residual
    w = c.node.inputs[1]
    per_group = w.shape[0] // p.group if p.group > 1 else y.shape[1]
    lead = (0,) * (3 - len(p.kernel))
    ones = (1,) * len(lead)
    return Shape(five(x), five(y), r and five(r), y.shape[1] // per_group, w.shape[1], per_group, (*ones, *p.kernel), (*ones, *p.strides),
                 (*ones, *p.dilations), (*lead, *(s.pad_begin for s in spans)), w.is_constant)


def operands(c: Compile, s: Shape) -> tuple[dict[str, Any], list[Any]]:
    """Defines and trailing arguments of bias and residual."""
    bias = c.input(2) if c.has(2) else None
    defines = {**type_defines(c), **({"BIAS": 1} if bias is not None else {})}
    return defines, [*bias_args(bias), *([s.r, strides(s.r)] if s.r is not None else [])]


def late_operands(c: Compile, s: Shape) -> tuple[dict[str, Any], list[Any]]:
    """As `_operands`, for kernels that look when they run whether there is a residual, and which activation."""
    bias = c.input(2) if c.has(2) else None
    defines, late = late_tail(c)
    r = s.y if s.r is None else s.r
    return {**defines, **({"BIAS": 1} if bias is not None else {})}, [*bias_args(bias), r, strides(r), np.int32(s.r is not None), *late]


def strides(window: ClOperand) -> np.ndarray:
    """A window's strides as an int8 argument."""
    return int8(window.strides)


def plane_args(s: Shape) -> list[Any]:
    """in, out, stride, dilation, pad: the size is compiled in."""
    args = s.args()
    return [*args[:2], *args[3:]]
