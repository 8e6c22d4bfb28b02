"""The operator contract and its registry. One family per file beside this one; a file is found by being there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np

from ..errors import IllegalCut
from ..graph.ir import Node
from ..regions import Region
from .epilogue import apply_epilogue


class SplitAxis(NamedTuple):
    """An axis of the first output that may be cut: its name, dimension, extent, and the multiple at which cuts are legal."""

    name: str
    dim: int
    extent: int
    multiple: int = 1


@dataclass(frozen=True)
class Work:
    """What a piece costs in principle: floating-point operations, and the bytes it must read and write once."""

    flops: float
    bytes_read: float
    bytes_written: float


def axis_names(rank: int) -> tuple[str, ...]:
    """The names of a tensor's axes: one vocabulary for plans, options and messages."""
    named = {
        0: (), 1: ("length",), 2: ("batch", "channel"), 3: ("batch", "channel", "length"),
        4: ("batch", "channel", "height", "width"), 5: ("batch", "channel", "depth", "height", "width"),
    }
    return named.get(rank) or tuple(f"axis{d}" for d in range(rank))


class Op:
    """One operator type, stateless. Subclasses override what differs; the defaults describe an operator that cannot be cut.

    The law every operator keeps: for each axis of `split_axes` and every legal cut, computing the pieces from their
    `input_regions` and putting them side by side equals computing the whole.
    """

    #: Types defined here are static: `declines` may name what this class does not compute, which then falls back.
    op_types: tuple[str, ...] = ()
    domain: str = ""
    #: True where the operator only renames its first input's memory (same elements in the same order).
    is_view: bool = False

    def declines(self, node: Node) -> str | None:
        """Why this node is not computed here (the reference then computes it), or None."""
        return None

    def form(self, node: Node) -> Op:
        """The operator that computes this node: this one, unless some forms of its type are another operator (a view, and none)."""
        return self

    def split_axes(self, node: Node) -> tuple[SplitAxis, ...]:
        """The axes of the first output that may be cut, best known first."""
        return ()

    def input_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        """What of each input a piece `out_region` of the first output needs; None for an absent input.

        Subclasses describe their operands; a fused residual is added by `regions_read`.
        """
        return tuple(None if v is None else Region.whole(v.shape) for v in node.operands)

    def output_regions(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        """What of each output is written together with `out_region` of the first: the same cut where extents agree."""
        first = Region.whole(node.output.shape)
        regions: list[Region | None] = [out_region]
        for value in node.outputs[1:]:
            if value is None:
                regions.append(None)
                continue
            region = Region.whole(value.shape)
            for dim, (cut, full) in enumerate(zip(out_region, first)):
                if cut != full and dim < len(region) and region[dim] == full:
                    region = region.replace(dim, cut)
            regions.append(region)
        return tuple(regions)

    def compute(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        """The reference: the piece `out_region` of every output, from exactly the pieces `input_regions` names.

        Shapes: inputs[i] has the shape of input_regions[i]. Called with the whole region, it is the operator itself.
        """
        raise NotImplementedError

    def flops(self, node: Node, out_region: Region) -> float:
        """Floating-point operations of a piece (a multiply-add counts as two); one per element unless overridden."""
        return float(out_region.size)

    # What the rest of the project calls; not overridden.

    def regions_read(self, node: Node, out_region: Region) -> tuple[Region | None, ...]:
        """`input_regions`, and the residual's."""
        key, kept = (type(self), out_region), node.kept
        if key not in kept:  # planner, schedule and kernels ask for the same pieces again and again
            regions = tuple(self.input_regions(node, out_region))
            kept[key] = (*regions, out_region) if node.residual else regions
        return kept[key]

    def run(self, node: Node, inputs: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
        """`compute`, then what fusion put behind it. inputs[i] has the shape of regions_read[i]."""
        operands = inputs[:-1] if node.residual else inputs
        outputs = self.compute(node, operands, out_region)
        if node.residual or node.activation:
            outputs = [apply_epilogue(outputs[0], inputs[-1] if node.residual else None, node.activation), *outputs[1:]]
        return outputs

    def run_whole(self, node: Node, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """The operator itself: every output, from whole inputs."""
        region = Region.whole(node.output.shape)
        read = self.regions_read(node, region)
        return self.run(node, [None if a is None or r is None else a[r.slices] for a, r in zip(inputs, read)], region)

    def work(self, node: Node, out_region: Region) -> Work:
        """Work of a piece, fused tail included; kept, as `regions_read` is."""
        key, kept = (Op.work, type(self), out_region), node.kept
        if key not in kept:
            kept[key] = self._work(node, out_region)
        return kept[key]

    def _work(self, node: Node, out_region: Region) -> Work:
        read = sum(r.size * v.dtype.itemsize for v, r in zip(node.inputs, self.regions_read(node, out_region)) if r is not None and v is not None)
        written = sum(r.size * v.dtype.itemsize for v, r in zip(node.outputs, self.output_regions(node, out_region))
                      if r is not None and v is not None)
        tail = out_region.size * (node.residual + (node.activation is not None))
        return Work(self.flops(node, out_region) + tail, float(read), float(written))

    def axis(self, node: Node, name: str) -> SplitAxis:
        """The split axis of that name. Raises IllegalCut where the operator has none such."""
        axes = self.split_axes(node)
        for axis in axes:
            if axis.name == name:
                return axis
        raise IllegalCut(f"cannot cut output axis '{name}'", where=f"{node.op_type} '{node.name}'",
                         expected=" or ".join(a.name for a in axes) or "no cut: this operator runs whole")


def pieces_along(node: Node, axis: SplitAxis, bounds: Sequence[int]) -> list[Region]:
    """The output regions that `bounds` make along `axis`. Raises IllegalCut where a bound is not legal."""
    where = f"{node.op_type} '{node.name}'"
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != axis.extent or any(a > b for a, b in zip(bounds, bounds[1:])):
        raise IllegalCut(f"bounds of axis '{axis.name}' must rise from 0 to its extent", where=where, found=list(bounds),
                         expected=f"0 ... {axis.extent}")
    for cut in bounds:
        if cut % axis.multiple and cut != axis.extent:
            below = cut - cut % axis.multiple
            raise IllegalCut(f"cannot cut output axis '{axis.name}' at {cut}", where=where,
                             expected=f"a multiple of {axis.multiple}",
                             hint=f"nearest legal cuts are {below} and {min(below + axis.multiple, axis.extent)}")
    whole = Region.whole(node.output.shape)
    return [whole.replace(axis.dim, (a, b)) for a, b in zip(bounds, bounds[1:])]


T = TypeVar("T", bound=type[Op])
_registry: dict[tuple[str, str], Op] = {}


def register(cls: T) -> T:
    """Class decorator: makes the operator known. A type that is known already is an error."""
    op = cls()
    for op_type in cls.op_types:
        if (cls.domain, op_type) in _registry:
            raise ValueError(f"operator {op_type} is defined twice")
        _registry[cls.domain, op_type] = op
    return cls


@lru_cache(maxsize=1)
def _discover() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def native_ops() -> frozenset[tuple[str, str]]:
    """Every (domain, op_type) with a meaning of its own here."""
    _discover()
    return frozenset(_registry)


def find_op(domain: str, op_type: str) -> Op | None:
    """The operator of that type, or None where it has no meaning of its own here."""
    _discover()
    return _registry.get((domain, op_type))


def is_native(node: Node) -> bool:
    """True where the operator's own meaning computes this node, so that it may be cut and fused."""
    op = find_op(node.domain, node.op_type)
    return op is not None and node.is_static and node.outputs[0] is not None and op.declines(node) is None


def op_for(node: Node) -> Op:
    """The meaning of this node: its own operator, or the fallback that asks onnx's reference implementation."""
    found = node.kept.get(op_for)
    if found is None:
        from .fallback import FALLBACK

        op = find_op(node.domain, node.op_type)
        found = node.kept[op_for] = op.form(node) if op is not None and is_native(node) else FALLBACK
    return found


def axes_of(node: Node) -> tuple[SplitAxis, ...]:
    """The operator's `split_axes` of this node, kept: planners ask for the same ones again and again."""
    found = node.kept.get(axes_of)
    if found is None:
        found = node.kept[axes_of] = op_for(node).split_axes(node)
    return found
