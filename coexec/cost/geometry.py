"""Sizes of many pieces of one node at once, as arrays: what the kernels' features are computed from. Also what a board's kernels look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..graph.ir import Node
from ..ops import op_for
from ..ops.conv import conv_params
from ..ops.pool import pool_params
from ..regions import Region

Array = np.ndarray


class Block(NamedTuple):
    """What a kernel makes at once: output channels, and pixels, of one row or (not rowwise) of the map as one line."""

    channels: int
    pixels: int
    rowwise: bool


@dataclass(frozen=True)
class Facts:
    """What decides how kernels cut their work. A profile's `facts` hold these by name; missing ones have the defaults.

    lanes, tile_rows: float32 elements of a CPU vector, rows of its matrix tile. *_bytes: caches of a core; local_bytes: what a GPU
    panel may take, 0 where the device runs no panels. gpu_width: elements of its vectors. common_rows: rows of the tiles of a GPU's pieces that
    read the CPU's weights, 0 where it cannot. threads: of the CPU.
    blocks: where the kernels are not coexec's own, the block of each form of `shapes.FORMS`; else empty. In a profile, a block is
    `block_<form>_channels`, and `block_<form>_columns` (of one row) or `block_<form>_pixels`.
    """

    lanes: int = 8
    tile_rows: int = 4
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    gpu_width: int = 16
    local_bytes: int = 0
    common_rows: int = 0
    threads: int = 1
    blocks: tuple[tuple[str, Block], ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, float], threads: int = 1) -> Facts:
        """From a profile's facts; names that are not known here are left out."""
        known = {f.name for f in fields(cls)} - {"blocks"}
        forms = [k[len("block_"):-len("_channels")] for k in told if k.startswith("block_") and k.endswith("_channels")]
        blocks = tuple((form, Block(max(1, int(told[f"block_{form}_channels"])),
                                    max(1, int(told.get(f"block_{form}_columns", told.get(f"block_{form}_pixels", 1)))),
                                    f"block_{form}_columns" in told)) for form in forms)
        return cls(**{"threads": max(1, threads), "blocks": blocks, **{k: int(v) for k, v in told.items() if k in known}})

    def told(self) -> dict[str, float]:
        """As a profile keeps them: all but the threads, which have a key of their own."""
        found = {f.name: float(getattr(self, f.name)) for f in fields(self) if f.name not in ("threads", "blocks")} if not self.blocks else {}
        for form, block in self.blocks:
            found[f"block_{form}_channels"] = float(block.channels)
            found[f"block_{form}_{'columns' if block.rowwise else 'pixels'}"] = float(block.pixels)
        return found

    @property
    def panel(self) -> int:
        """Columns of a full strip of the CPU's matrix kernels."""
        return 3 * self.lanes

    @property
    def gpu_rows(self) -> int:
        """The tallest register tile of the GPU's panel kernels."""
        return {16: 12, 8: 6}.get(self.gpu_width, 8)


def up(n: Any, d: Any) -> Any:
    """n / d, rounded up."""
    return -(-n // d)


def bounds(regions: Sequence[Region], rank: int) -> tuple[Array, Array]:
    """Starts and stops of regions, int64 (pieces, rank) each."""
    flat = chain.from_iterable(chain.from_iterable(regions))
    both = np.fromiter(flat, np.int64, 2 * rank * len(regions)).reshape(len(regions), rank, 2)
    return both[..., 0], both[..., 1]


#: Operators whose work `work_of` computes for all pieces at once.
_WINDOWS = {"Conv": conv_params, "MaxPool": pool_params, "AveragePool": pool_params, "LpPool": pool_params}
_COPIES = ("Transpose", "Concat")  # as many elements read as written


def work_of(node: Node, start: Array, stop: Array) -> Array:
    """`Op.work` of pieces that are not empty: operations, bytes read and bytes written, float64 (pieces, 3); the same to the last bit."""
    op = op_for(node)
    if node.domain or node.op_type not in (*_WINDOWS, *_COPIES):
        found = [op.work(node, Region(zip(a, b))) for a, b in zip(start.tolist(), stop.tolist())]
        return np.array([(w.flops, w.bytes_read, w.bytes_written) for w in found]).reshape(len(start), 3)
    size = stop - start
    elements = np.prod(size, axis=1, dtype=np.int64)
    read = elements * (node.inputs[-1].dtype.itemsize if node.residual else 0)
    written = elements * sum(v.dtype.itemsize for v in node.outputs if v is not None)
    each = op.flops(node, Region([(0, 1)] * size.shape[1])) + node.residual + (node.activation is not None)
    flops = elements * float(each)
    if node.op_type in _COPIES:
        return np.stack([flops, (read + elements * node.inputs[0].dtype.itemsize).astype(float), written.astype(float)], axis=1)
    params, x, channels = _WINDOWS[node.op_type](node), node.inputs[0].shape, size[:, 1]
    if node.op_type == "Conv":
        w = node.inputs[1]
        per_group = w.shape[0] // params.group
        channels = (up(stop[:, 1], per_group) - start[:, 1] // per_group) * w.shape[1] if params.group > 1 else np.full(len(size), x[1])
        read = read + size[:, 1] * (prod(w.shape[1:]) * w.dtype.itemsize)
        if node.operand(2) is not None:
            read = read + size[:, 1] * node.operand(2).dtype.itemsize
    whole = size[:, 0] * channels
    for axis, (k, s, d, pad) in enumerate(zip(params.kernel, params.strides, params.dilations, params.pads_begin)):
        a, b = start[:, 2 + axis], stop[:, 2 + axis]
        inside = np.clip((b - 1) * s - pad + (k - 1) * d + 1, 0, x[2 + axis]) - np.clip(a * s - pad, 0, x[2 + axis])
        whole = whole * np.maximum(inside, min(1, x[2 + axis]))
    read = read + whole * node.inputs[0].dtype.itemsize
    return np.stack([flops, read.astype(float), written.astype(float)], axis=1)


#: A node, and the starts and stops of pieces of it that are asked for, int64 (pieces, rank) each.
Asked = tuple[Node, Array, Array]


class Windowed:
    """Pieces of Convs or poolings of at most two spatial axes: arrays of one entry a piece. Of several nodes, one after another, that share
    what `window_kind` tells, for which there are scalars.
    """

    def __init__(self, asked: Sequence[Asked]):
        first = asked[0][0]
        conv, flat = first.op_type == "Conv", len(first.output.shape) == 3
        params = conv_params(first) if conv else pool_params(first)
        one = (1,) if flat else ()
        self.kh, self.kw = (*one, *params.kernel)
        self.sh, self.sw = (*one, *params.strides)
        self.dh, self.dw = (*one, *params.dilations)
        self.taps = self.kh * self.kw
        start, stop = (np.concatenate([a[i] for a in asked]) for i in (1, 2))
        if flat:
            ones = np.ones(len(start), np.int64)
            start, stop = (np.stack([a[:, 0], a[:, 1], ones * (i), a[:, 2]], 1) for i, a in enumerate((start, stop)))
        told = np.array([self._fixed(node, conv, flat) for node, _, _ in asked], np.int64)
        told = np.repeat(told, [len(a[1]) for a in asked], axis=0).T
        self.full_oc, self.full_oh, self.full_ow, self.h, self.w, top, left, self.icg, group, per = told
        size = stop - start
        self.n, self.oc, self.oh, self.ow = size.T
        self.ih, self.top = self._read(start[:, 2], stop[:, 2], self.sh, top, self.kh, self.dh, self.h)
        self.iw, self.left = self._read(start[:, 3], stop[:, 3], self.sw, left, self.kw, self.dw, self.w)
        self.padded = is_padded(params)
        self.grouped = conv and params.group > 1
        self.depthwise = self.grouped and first.inputs[1].shape[1] == 1
        if conv:
            self.groups = up(self.oc, per) if self.grouped else np.ones_like(self.oc)
            self.ocg = per if self.grouped else self.oc
        else:
            self.groups, self.ocg = self.oc, np.ones_like(self.oc)

    @staticmethod
    def _fixed(node: Node, conv: bool, flat: bool) -> tuple[int, ...]:
        """What is the same for all pieces of a node: sizes of output and input, padding, channels and groups."""
        params = conv_params(node) if conv else pool_params(node)
        x, y = node.inputs[0].shape, node.output.shape
        if flat:
            x, y = (*x[:2], 1, x[2]), (*y[:2], 1, y[2])
        top, left = (*((0,) if flat else ()), *params.pads_begin)
        group = params.group if conv else 1
        weights = node.inputs[1].shape if conv else (1, 1)
        return *y[1:], x[2], x[3], top, left, weights[1], group, weights[0] // group

    @staticmethod
    def _read(start: Array, stop: Array, stride: int, pad: Array, kernel: int, dilation: int, size: Array) -> tuple[Array, Array]:
        first = start * stride - pad
        last = (stop - 1) * stride - pad + (kernel - 1) * dilation + 1
        return np.maximum(0, np.minimum(size, last) - np.maximum(0, first)), np.maximum(0, -first)

    def resized(self, oc: Array, oh: Array) -> Windowed:
        """The same pieces with fewer channels or rows: a thread's share."""
        other = object.__new__(Windowed)
        other.__dict__.update(self.__dict__)
        other.ih = np.minimum(self.ih, (oh - 1) * self.sh + (self.kh - 1) * self.dh + 1)
        other.oc, other.oh = oc, oh
        if self.grouped:
            other.groups = np.maximum(1, up(oc, self.ocg))
        else:
            other.ocg = oc
        return other

    @cached_property
    def pixels(self) -> Array:
        return self.oh * self.ow


def window_kind(node: Node) -> tuple[Any, ...]:
    """What pieces of a Conv or pooling must have in common to be one `Windowed`."""
    conv = node.op_type == "Conv"
    params = conv_params(node) if conv else pool_params(node)
    grouped = conv and params.group > 1
    return (conv, len(node.output.shape), params.kernel, params.strides, params.dilations, is_padded(params), grouped,
            grouped and node.inputs[1].shape[1] == 1)


def is_padded(params: Any) -> bool:
    """Whether windows reach beyond the map anywhere."""
    return any(params.pads_begin) or any(params.pads_end)


class Products:
    """Pieces of Gemms or MatMuls as `count` products of (rows x depth) by (depth x columns): arrays of one entry a piece. Of several nodes,
    one after another, that share what `product_kind` tells.
    """

    def __init__(self, asked: Sequence[Asked]):
        (self.a_fixed, self.b_fixed, self.flat_b, self.biased, self.a_turned, self.b_turned) = product_kind(asked[0][0])
        self.rows, self.columns, self.count = np.concatenate([self._sizes(*a) for a in asked], axis=1)
        self.depth = np.repeat([int(n.inputs[0].shape[0 if self.a_turned else -1]) for n, _, _ in asked], [len(a[1]) for a in asked])

    @staticmethod
    def _sizes(node: Node, start: Array, stop: Array) -> Array:
        size, ones = stop - start, np.ones(len(start), np.int64)
        a, b = node.inputs[0], node.inputs[1]
        columns = size[:, -1] if len(b.shape) > 1 else ones
        body = size[:, :-1] if len(b.shape) > 1 else size
        rows = body[:, -1] if len(a.shape) > 1 and body.shape[1] else ones
        count = np.prod(body[:, :-1], axis=1, dtype=np.int64) if len(a.shape) > 1 else ones
        return np.stack([rows, columns, count])

    @classmethod
    def of_vectors(cls, rows: Array, columns: Array, depth: Array) -> Products:
        """Pieces of a convolution whose maps have one pixel: rows of channels times the weights, turned."""
        made = object.__new__(cls)
        made.__dict__.update(depth=depth, b_turned=True, a_turned=False, rows=rows, columns=columns, count=np.ones_like(rows), a_fixed=False,
                             b_fixed=True, flat_b=True, biased=True)
        return made

    def resized(self, rows: Array, columns: Array, count: Array) -> Products:
        """The same products with fewer rows, columns or matrices: a thread's share."""
        other = object.__new__(Products)
        other.__dict__.update(self.__dict__, rows=rows, columns=columns, count=count)
        return other


def product_kind(node: Node) -> tuple[bool, ...]:
    """What pieces of a Gemm or MatMul must have in common to be one `Products`: whether the first and the second operand are weights, the
    second is one matrix, something is added, and the first and the second are turned.
    """
    a, b, gemm = node.inputs[0], node.inputs[1], node.op_type == "Gemm"
    return (a.is_constant and len(a.shape) == 2, b.is_constant and len(b.shape) == 2, len(b.shape) == 2, node.operand(2) is not None,
            bool(gemm and node.attr("transA", 0)), bool(gemm and node.attr("transB", 0)))


def _run(node: Node, size: Array) -> Array:
    """Elements of the longest runs that lie in a row in the output and in every operand, or that an operand repeats one element for."""
    whole = node.output.shape
    if node.op_type == "Transpose":
        perm = [int(v) for v in node.attr("perm") or range(len(whole))[::-1]]
        moved = max((d for d, p in enumerate(perm) if p != d), default=-1)
        return np.prod(size[:, moved + 1:], axis=1, dtype=np.int64)
    operands = [] if node.op_type == "Concat" else [v.shape for v in node.operands if v is not None]
    if node.op_type in ("BatchNormalization", "InstanceNormalization", "PRelu"):  # vectors of the channels
        operands = [(whole[1] if len(whole) > 1 else 1, *(1,) * (len(whole) - 2))]
    padded = [(1,) * (len(whole) - len(s)) + tuple(s) for s in operands]
    run, going, inner = np.ones(len(size), np.int64), np.ones(len(size), bool), None
    for axis in range(len(whole) - 1, -1, -1):
        if whole[axis] == 1:
            continue
        kind = tuple(s[axis] == whole[axis] for s in padded)
        going = going & (inner is None or kind == inner)
        run = np.where(going, run * size[:, axis], run)
        going, inner = going & (size[:, axis] == whole[axis]), kind
    return run


class Turned(NamedTuple):
    """A transposed piece as matrices, neighbouring axes that lie side by side before and after taken as one.

    run: elements that stay side by side. height, width: of the matrices that are turned, which come out with rows of `width`; 0 where it
    is no such turn.
    """

    run: int
    height: int
    width: int


def turned(node: Node, size: Sequence[int]) -> Turned:
    """How a piece of a Transpose lies in memory, by its extents."""
    given, made = node.inputs[0].shape, node.output.shape
    perm = [int(v) for v in node.attr("perm") or range(len(made))[::-1]]
    reads = [prod(given[p + 1:]) for p in perm]
    axes: list[list[int]] = []  # extent, and elements from one to the next in input and output
    for d, extent in enumerate(size):
        step = reads[d], prod(made[d + 1:])
        if extent == 1:
            continue
        if axes and axes[-1][1:] == [extent * step[0], extent * step[1]]:
            axes[-1] = [axes[-1][0] * extent, *step]
        else:
            axes.append([extent, *step])
    if not axes or axes[-1][1:] == [1, 1]:
        return Turned(axes[-1][0] if axes else 1, 0, 0)
    height = next((extent for extent, read, _ in axes[:-1] if read == 1), 0)
    return Turned(1, height, axes[-1][0] if height and axes[-1][2] == 1 else 0)


class Plain:
    """Pieces of any other operators, each node's as parts, (starts, stops), along which only one axis changes: elements and bytes of what is
    read and written.
    """

    def __init__(self, asked: Sequence[tuple[Node, Sequence[tuple[Array, Array]]]]):
        told = [self._of(node, parts) for node, parts in asked]
        self.flops, self.read, self.written, self.parts, self.elements, self.inner, self.rows, self.runs, self.chunks = (
            np.concatenate(column) for column in zip(*told))
        if asked[0][0].op_type == "Transpose":
            self.turned = np.array([turned(node, size) for node, parts in asked for start, stop in parts for size in (stop - start).tolist()])

    def _of(self, node: Node, parts: Sequence[tuple[Array, Array]]) -> tuple[Array, ...]:
        op = op_for(node)
        flops, read, written = np.concatenate([self._work(op, node, *part) for part in parts]).T
        start, stop = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        size = stop - start
        count = self._parts(node, start, stop) if node.op_type == "Concat" else np.ones(len(size), np.int64)
        elements = np.prod(size, axis=1, dtype=np.int64)
        inner = size[:, -1] if size.shape[1] else np.ones(len(size), np.int64)
        rows = elements // np.maximum(1, inner)
        runs = elements // np.maximum(1, _run(node, size))
        return flops, read, written, count, elements, inner, rows, runs, np.maximum(self._chunks(node, size, rows, count), runs)

    @staticmethod
    def _work(op: Any, node: Node, start: Array, stop: Array) -> Array:
        """Operations and bytes of each piece; of many, of a few, and the others by their sizes."""
        few = np.arange(len(start)) if len(start) <= 4 else np.array([0, len(start) // 2, len(start) - 1])
        work = [op.work(node, Region(zip(start[i].tolist(), stop[i].tolist()))) for i in few]
        told = np.array([(w.flops, w.bytes_read, w.bytes_written) for w in work]).reshape(len(few), 3)
        if len(few) == len(start):
            return told
        size = np.prod(stop - start, axis=1, dtype=np.float64)
        order = few[np.argsort(size[few], kind="stable")]
        at = [int(np.flatnonzero(few == i)[0]) for i in order]
        return np.stack([np.interp(size, size[order], told[at, c]) for c in range(3)], axis=1)

    @staticmethod
    def _parts(node: Node, start: Array, stop: Array) -> Array:
        """How many inputs of a Concat a piece has something of: each is copied for itself."""
        axis = int(node.attr("axis", 0)) % start.shape[1]
        extents = np.array([v.shape[axis] for v in node.inputs if v is not None])
        ends = np.cumsum(extents)
        return ((start[:, axis, None] < ends) & (stop[:, axis, None] > ends - extents)).sum(axis=1)

    @staticmethod
    def _chunks(node: Node, size: Array, rows: Array, parts: Array) -> Array:
        """Contiguous runs that are copied or computed one after another."""
        if node.op_type in ("Concat", "Split"):
            axis = int(node.attr("axis", 0)) % size.shape[1]
            return np.prod(size[:, :axis], axis=1, dtype=np.int64) * (parts if node.op_type == "Concat" else len(node.outputs))
        if node.op_type == "InstanceNormalization" or node.op_type.startswith("Global"):
            return np.prod(size[:, :2], axis=1, dtype=np.int64)
        return rows
