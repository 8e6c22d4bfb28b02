"""Gather, GatherElements, GatherND: an element's source offset is computed from indices, constant or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .builder import ClOperand, Compile, builds
from .nd import as_bits, elementwise


def _spread(operand: ClOperand, shape: tuple[int, ...], strides: tuple[int, ...]) -> ClOperand:
    return replace(operand, shape=shape, strides=strides)


def _name(c: Compile, method: str) -> None:
    c.implementation = f"b{8 * c.node.output.dtype.itemsize}_{c.node.op_type.lower()}_{method}"


@builds("Gather", narrow=True)
def build(c: Compile) -> None:
    """y[before, indices, after] = x[before, index, after]: the axis has stride 0 in x and moves by the index instead."""
    data, picks, y = c.input(0), c.input(1), c.output()
    axis, rank = c.node.attr("axis", 0) % len(data.shape), len(picks.shape)
    steps = (*data.strides[:axis], *(0,) * rank, *data.strides[axis + 1:])
    picked = (*(0,) * axis, *picks.strides, *(0,) * (len(data.shape) - axis - 1))
    _name(c, "index")
    _take(c, y, _spread(data, y.shape, steps), [(_spread(picks, y.shape, picked), 0)],
          [(c.node.operands[0].shape[axis], c.in_regions[0][axis].start, data.strides[axis])])


@builds("GatherElements", narrow=True)
def build_elements(c: Compile) -> None:
    data, picks, y = c.input(0), c.input(1), c.output()
    axis = c.node.attr("axis", 0) % len(data.shape)
    steps = tuple(0 if d == axis else s for d, s in enumerate(data.strides))
    _name(c, "index")
    _take(c, y, _spread(data, y.shape, steps), [(_spread(picks, y.shape, picks.strides), 0)],
          [(c.node.operands[0].shape[axis], c.in_regions[0][axis].start, data.strides[axis])])


@builds("GatherND", narrow=True)
def build_nd(c: Compile) -> None:
    data, picks, y = c.input(0), c.input(1), c.output()
    batch, lead, depth = c.node.attr("batch_dims", 0), len(picks.shape) - 1, picks.shape[-1]
    steps = (*data.strides[:batch], *(0,) * (lead - batch), *data.strides[batch + depth:])
    picked = (*picks.strides[:lead], *(0,) * (len(y.shape) - lead))
    _name(c, "index")
    axes = range(batch, batch + depth)
    _take(c, y, _spread(data, y.shape, steps), [(_spread(picks, y.shape, picked), k * picks.strides[-1]) for k in range(depth)],
          [(c.node.operands[0].shape[a], c.in_regions[0][a].start, data.strides[a]) for a in axes])


def _take(c: Compile, y: ClOperand, x: ClOperand, picks: list[tuple[ClOperand, int]], axes: list[tuple[int, int, int]]) -> None:
    """y = x moved along each axis (extent, first element held, stride) by the index that `picks` (window, further elements) names."""
    inputs, scalars, terms = [as_bits(x)], [], []
    for (window, further), (extent, first, stride) in zip(picks, axes):
        k, p = len(inputs), len(scalars)
        inputs.append(replace(window, offset=window.offset + further))
        scalars += [np.int32(extent), np.int32(first), np.int32(stride)]
        index = f"r{k}[i * x{k}_s.s0]"
        # An index from the end counts backwards; one out of range is clamped, so that nothing outside the tensor is read.
        terms.append(f"(clamp((int)({index} < 0 ? {index} + p{p} : {index}), p{p + 1}, p{p} - 1) - p{p + 1}) * p{p + 2}")
    elementwise(c, f"r0[i * x0_s.s0 + {' + '.join(terms) or '0'}]", as_bits(y), inputs, kinds="r" * len(inputs), scalars=scalars)
