"""Gather, GatherElements, GatherND: elements picked by index. Indices may be computed at run time; they are checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..graph.ir import Node
from ..regions import Interval, Region
from .base import Op, SplitAxis, register
from .operands import axes_of, every_axis, foreign_type, hull


def from_front(node: Node, indices: np.ndarray, extent: int) -> np.ndarray:
    """Indices counted from the front. Raises InputError where one is outside -extent ... extent - 1."""
    indices = np.asarray(indices, np.int64)
    outside = (indices < -extent) | (indices >= extent)
    if outside.any():
        raise InputError("an index is out of range", where=f"{node.op_type} '{node.name}'", found=int(indices[outside][0]),
                         expected=f"{-extent} ... {extent - 1}", hint="check the tensor of indices")
    return np.where(indices < 0, indices + extent, indices)


class Picking(Op):
    """What the three share: cut on every axis of the output."""

    def declines(self, node: Node) -> str | None:
        return foreign_type(node)

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        return every_axis(node)

    def flops(self, node: Node, out_region: Region) -> float:
        return 0.0


@register
class Gather(Picking):
    """Slices of the data along one axis; of constant indices only the rows between the least and the greatest are read."""

    op_types = ("Gather",)

    def _axis(self, node: Node) -> int:
        return axes_of(len(node.operands[0].shape), (node.attr("axis", 0),))[0]

    def _rows(self, node: Node, picked: Region) -> Interval:
        """The rows of the data that a piece of the indices may name."""
        extent, indices = node.operands[0].shape[self._axis(node)], node.operands[1].data
        if indices is None:
            return Interval(0, extent)
        return hull(from_front(node, indices[picked.slices], extent), extent)

    def _picked(self, node: Node, out_region: Region) -> Region:
        axis = self._axis(node)
        return Region(out_region[axis:axis + len(node.operands[1].shape)])

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        axis, picked = self._axis(node), self._picked(node, out_region)
        rows = self._rows(node, picked)
        return (Region([*out_region[:axis], rows, *out_region[axis + len(picked):]]), picked)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        axis, (data, indices) = self._axis(node), inputs
        at = from_front(node, indices, node.operands[0].shape[axis]) - self._rows(node, self._picked(node, out_region)).start
        # np.take is the quicker one, but makes all of a table contiguous first: a slice of an embedding is copied whole for a few rows.
        taken = np.take(data, at, axis=axis) if data.flags.c_contiguous else data[(slice(None),) * axis + (at,)]
        return [np.asarray(taken).reshape(out_region.shape)]


@register
class GatherElements(Picking):
    """An element of the data for each index, which replaces its own coordinate along one axis."""

    op_types = ("GatherElements",)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        shape = node.operands[0].shape
        axis = axes_of(len(shape), (node.attr("axis", 0),))[0]
        return (out_region.replace(axis, (0, shape[axis])), out_region)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        data, indices = inputs
        axis = axes_of(data.ndim, (node.attr("axis", 0),))[0]
        return [np.take_along_axis(data, from_front(node, indices, data.shape[axis]), axis=axis)]


@register
class GatherND(Picking):
    """Slices of the data, each named by a tuple of coordinates after `batch_dims` axes that both inputs share."""

    op_types = ("GatherND",)

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        data, indices = node.operands
        batch, lead, depth = node.attr("batch_dims", 0), len(indices.shape) - 1, indices.shape[-1]
        named = [(0, n) for n in data.shape[batch:batch + depth]]
        return (Region([*out_region[:batch], *named, *out_region[lead:]]), Region([*out_region[:lead], (0, depth)]))

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        data, indices = inputs
        batch, lead, depth = node.attr("batch_dims", 0), indices.ndim - 1, indices.shape[-1]
        # The batch's own coordinates, shaped to broadcast against the indices, make one fancy index of it all.
        at = [np.arange(n).reshape(tuple(n if d == b else 1 for d in range(lead))) for b, n in enumerate(data.shape[:batch])]
        at += [from_front(node, indices[..., d], data.shape[batch + d]) for d in range(depth)]
        return [np.asarray(data[tuple(at)]).reshape(out_region.shape)]
