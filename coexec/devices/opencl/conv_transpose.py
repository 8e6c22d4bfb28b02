"""ConvTranspose on OpenCL: dense float32 as one convolution for each phase of the strides; else every output gathers its taps."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from ...ops.conv_transpose import ConvTransposeParams, conv_transpose_params
from .builder import ClOperand, Compile, builds, short
from .conv import Panel, build_panel
from .conv_shape import Shape, strides
from .nd import local_along
from .tail import bias_args, five, i32, three, type_defines


@builds("ConvTranspose", tail=True)
def build(c: Compile) -> None:
    p = conv_transpose_params(c.node)
    # o + pad = i * stride + k * dilation, with o and i local to the piece
    pads = [out.start + pad - rows.start * s for out, rows, pad, s in zip(c.region[2:], c.in_regions[0][2:], p.pads_begin, p.strides)]
    if c.node.attr("method") == "direct" or not _phases(c, p, pads):
        _direct(c, p, pads)


def _direct(c: Compile, p: ConvTransposeParams, pads: list[int]) -> None:
    x, w, y, r = five(c.input(0)), five(c.input(1)), five(c.output(0)), c.residual
    groups = y.shape[1] // w.shape[1] if p.group > 1 else 1
    bias = c.input(2) if c.has(2) else None
    defines = {**type_defines(c), **({"BIAS": 1} if bias is not None else {})}
    c.implementation = f"{short(y.dtype)}_conv_transpose_direct"
    pixels = y.shape[2] * y.shape[3] * y.shape[4]
    c.launch("conv_direct.cl", "conv_transpose_direct", defines, (pixels, y.shape[1], y.shape[0]), local_along(c, pixels),
             x, strides(x), w, strides(w), y, strides(y), *i32(x.shape[1] // groups, w.shape[1]), three(x.shape[2:],
                 1), three(y.shape[2:], 1),
             three(p.kernel, 1), three(p.strides, 1), three(p.dilations, 1), three(pads, 0),
             *bias_args(bias), *([r, strides(five(r))] if r is not None else []))


def _every(window: ClOperand, starts: tuple[int, ...], steps: tuple[int, ...]) -> ClOperand:
    """Every steps[d]-th element of the spatial axes, from starts[d] on."""
    part = window.sub((0, 0, *starts), (*window.shape[:2], *(-(-(n - a) // s) for n, a, s in zip(window.shape[2:], starts, steps))))
    return replace(part, strides=(*part.strides[:2], *(n * s for n, s in zip(part.strides[2:], steps))))


def _phases(c: Compile, p: ConvTransposeParams, pads: list[int]) -> bool:
    """Outputs that are a stride apart see the same taps: a plain convolution whose outputs lie apart. False where that is not possible."""
    tiles, x, y = c.tiles, c.input(0), c.output(0)
    if not tiles.panels or not c.is_constant(1) or y.dtype != np.float32 or len(p.kernel) > 2 or set(p.dilations) != {1}:
        return False
    if x.strides[-1] != 1 and x.shape[-1] > 1:
        return False
    per_group = c.in_regions[1].shape[1]
    groups = y.shape[1] // per_group if p.group > 1 else 1
    lead = (1,) * (3 - len(p.kernel))
    shapes = []
    for starts in itertools.product(*(range(min(s, n)) for s, n in zip(p.strides, y.shape[2:]))):
        taps, before = [], []
        for a, pad, k, s in zip(starts, pads, p.kernel, p.strides):
            first = (a + pad) % s
            along = range(first, k, s)
            taps.append(tuple(reversed(along)))
            before.append(max(len(along), 1) - 1 - (a + pad - first) // s)
        r = c.residual and five(_every(c.residual, starts, p.strides))
        shapes.append((taps, Shape(five(x), five(_every(y, starts, p.strides)), r, groups, x.shape[1] // groups, per_group,
                                   (*lead, *(max(len(t), 1) for t in taps)), (1, 1, 1), (1, 1, 1), (*(0,) * len(lead), *before), True)))
    if not all(s.depth and Panel.of(s.flattened(), tiles).nbytes <= tiles.local_bytes for _, s in shapes):
        return False
    for taps, shape in shapes:
        build_panel(c, shape, tiles, ("phase", *taps), lambda w, taps=taps: _arranged(w, groups, taps))
    c.implementation = f"f32_conv_transpose_phases_{len(shapes)}"
    return True


def _arranged(w: np.ndarray, groups: int, taps: list[tuple[int, ...]]) -> np.ndarray:
    """Weights (in, out of a group, *kernel) as a convolution's (out, in of a group, *taps); zeros where an axis has no tap."""
    per_group = w.shape[0] // groups
    w = w.reshape(groups, per_group, *w.shape[1:]).swapaxes(1, 2)
    for axis, along in enumerate(taps, 3):
        w = np.take(w, along, axis) if along else np.zeros((*w.shape[:axis], 1, *w.shape[axis + 1:]), w.dtype)
    return w.reshape(groups * w.shape[1], per_group, *w.shape[3:])
