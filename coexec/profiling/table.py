"""Measurement, and the CSV of raw measurements: one row a kernel timing, the same columns out and in."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import TextIO

import numpy as np

from .. import files
from ..cost.plain_kernels import spread
from ..errors import UsageError, suggest
from ..graph.ir import Activation, Node, TensorType, Value, constant
from ..ops import op_for
from ..regions import Region
from .references import FACTS


@dataclass(frozen=True)
class Measurement:
    """One timing of one kernel. None where unknown; for a piece of a cut, the sizes are those of the piece, and of_* those of the whole output
    where that decides how the piece lies in memory (not of convolutions, products and poolings).

    implementation: the kernel's own name, then what is fused behind it: `f32_conv_pointwise_8x48+residual+HardSwish`.
    MatMul (stacks of groups matrices) and Gemm: out_height rows, in_channels the inner size, out_channels columns.
    Concat: groups inputs, told as if they were alike.
    reference_*_ns: what the processor's reference kernels took beside the timing (`profiling.drift`).
    """

    device: str
    unit: str
    threads: int | None
    op_type: str
    implementation: str
    dtype: str
    batch: int | None
    in_channels: int | None
    in_height: int | None
    in_width: int | None
    out_channels: int | None
    out_height: int | None
    out_width: int | None
    kernel_h: int | None
    kernel_w: int | None
    stride_h: int | None
    stride_w: int | None
    groups: int | None
    busy_other: int | None
    latency_us: float
    spread_us: float | None = None
    count: int | None = None
    of_channels: int | None = None
    of_height: int | None = None
    of_width: int | None = None
    reference_far_ns: float | None = None
    reference_store_ns: float | None = None
    reference_compute_ns: float | None = None

    @property
    def shape_key(self) -> tuple:
        """What says that two rows timed the same shape, whatever unit or device."""
        return _shape_of(self)

    @property
    def piece_key(self) -> tuple:
        """The shape, and what it is a piece of."""
        return _piece_of(self)


COLUMNS = tuple(f.name for f in fields(Measurement))
#: The sizes of the whole output. Tables may lack these columns, and those of the reference kernels.
OF = ("of_channels", "of_height", "of_width")
OPTIONAL = (*OF, *FACTS)
_shape_of, _piece_of = attrgetter("op_type", "dtype", *COLUMNS[6:18]), attrgetter("op_type", "dtype", *COLUMNS[6:18], *OF)
_TEXT = ("device", "unit", "op_type", "implementation", "dtype")
_REAL = ("latency_us", "spread_us", *FACTS)


def write_table(rows: Iterable[Measurement], path: str | os.PathLike[str]) -> None:
    """Writes the rows as CSV, whole or not at all. Raises OSError where the folder cannot be written."""
    with files.written(path) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(["" if (v := getattr(row, c)) is None else v for c in COLUMNS] for row in rows)


def open_table(path: str | os.PathLike[str]) -> TextIO:
    """A table that was written before, to append rows to."""
    return open(path, "a", newline="", encoding="utf-8")


def append_row(file: TextIO, row: Measurement) -> None:
    """One more row, on the disk at once: whoever measures may be stopped at any moment."""
    csv.writer(file).writerow(["" if (v := getattr(row, c)) is None else v for c in COLUMNS])
    file.flush()


def read_table(path: str | os.PathLike[str]) -> list[Measurement]:
    """The rows of a CSV file; columns in any order, unknown ones refused. Raises UsageError naming line and column."""
    where = str(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _rows(csv.reader(file), where)
    except OSError as error:
        raise UsageError("cannot read the table", where=where, found=error.strerror or str(error),
                         expected="a CSV file of measurements") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError("not a CSV table", where=where, found=str(error)[:200], expected="a header and one row a measurement") from None


def _rows(reader: Iterable[Sequence[str]], where: str) -> list[Measurement]:
    lines = iter(reader)
    header = [h.strip() for h in next(lines, [])]
    for name in header:
        if name not in COLUMNS:
            raise UsageError(f"unknown column '{name}'", where=f"{where}, line 1", hint=suggest(name, COLUMNS))
    missing = [c for c in COLUMNS if c not in header and c not in OPTIONAL]
    if missing or len(set(header)) != len(header):
        raise UsageError("the header is wrong", where=f"{where}, line 1",
                         found=f"no {', '.join(missing)}" if missing else "a column that is there twice", expected=",".join(COLUMNS))
    rows = []
    for number, line in enumerate(lines, 2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise UsageError("a row has another length than the header", where=f"{where}, line {number}", found=len(line),
                             expected=len(header))
        rows.append(Measurement(**{name: _cell(name, cell.strip(), f"{where}, line {number}") for name, cell in zip(header, line)}))
    if not rows:
        raise UsageError("the table has no rows", where=where)
    return rows


def _cell(name: str, text: str, where: str) -> str | int | float | None:
    if name in _TEXT:
        if not text and name in ("unit", "op_type"):
            raise UsageError(f"column '{name}' is empty", where=where)
        if name == "unit" and text not in ("cpu", "gpu"):
            raise UsageError("column 'unit' is wrong", where=where, found=repr(text), expected="cpu or gpu")
        return text or ("float32" if name == "dtype" else "")
    if not text:
        if name == "latency_us":
            raise UsageError("column 'latency_us' is empty", where=where)
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (name == "latency_us" and value == 0):
        raise UsageError(f"column '{name}' is wrong", where=where, found=repr(text),
                         expected="a number above 0" if name == "latency_us" else "a number, at least 0")
    if name in _REAL:
        return value
    if value != int(value) or value > 2**31:
        raise UsageError(f"column '{name}' is wrong", where=where, found=repr(text), expected="a whole number")
    return int(value)


def describe(node: Node, region: Region) -> dict[str, int | None]:
    """The size columns of the piece `region` of a node: sizes of what it reads and writes."""
    reads = op_for(node).regions_read(node, region)
    read, written = reads[0].shape, region.shape
    kernel, strides, groups = node.attr("kernel_shape"), node.attr("strides"), int(node.attr("group", 1))
    if node.op_type in ("Conv", "ConvTranspose"):
        kernel = kernel or node.inputs[1].shape[2:]
        if groups > 1:  # the groups of this piece: cuts of the channel lie between groups
            groups = max(1, groups * written[1] // node.output.shape[1])
    if node.op_type == "MatMul":
        stack = int(np.prod(written[:-2], dtype=np.int64))
        shared = len(node.inputs[1].shape) <= 2
        return _sizes(1, node.inputs[0].shape[-1], stack * written[-2] if shared else written[-2], 1, written[-1],
                      stack * written[-2] if shared else written[-2], 1, None, None, 1 if shared else stack)
    if node.op_type == "Gemm":
        inner = node.inputs[1].shape[1 if node.attr("transB", 0) else 0]
        return _sizes(1, inner, written[0], 1, written[1], written[0], 1, None, None, 1)
    n, c, h, w = _four(read)
    _, oc, oh, ow = _four(written)
    if node.op_type == "Concat":
        groups = sum(r is not None and r.size > 0 for r in reads)
    return _sizes(n, c, h, w, oc, oh, ow, kernel and _two(kernel), _two(strides) if strides else (1, 1) if kernel else None, groups)


def whole_of_piece(node: Node, region: Region) -> dict[str, int]:
    """The of_* columns of a piece; empty of a whole output, and of operators whose pieces all lie alike."""
    if node.op_type == "Conv" and len(region) == 4 and region[1].size == node.output.shape[1] and region[2].size < node.output.shape[2]:
        return {"of_height": node.output.shape[2]}  # rows of a map: a GPU may read the weights that the CPU packs for the others
    if node.op_type in _BY_SIZES or region == Region.whole(node.output.shape) or len(node.output.shape) > 4:
        return {}
    if node.op_type == "Concat" and region.shape[2:] == node.output.shape[2:]:
        return {}  # channels in a row, of as many inputs as `describe` tells
    return dict(zip(OF, _four(node.output.shape)[1:]))


def tail_text(node: Node) -> str:
    """What the sizes do not say, as `Measurement.implementation` ends: a broadcast operand, what is fused behind the node."""
    if node.op_type in _BINARY and node.op_type != "Concat" and (how := spread(node)):
        return f"+{how.removeprefix('_')}"
    if node.op_type in ("Resize", "Pad"):
        return f"+{node.attr('mode', 'nearest' if node.op_type == 'Resize' else 'constant')}"
    if node.op_type == "Transpose":
        rank = len(node.output.shape)
        return "+kept" if [int(v) for v in node.attr("perm") or range(rank)[::-1]][-1] == rank - 1 else ""
    return ("+residual" if node.residual else "") + (f"+{node.activation.kind}" if node.activation else "")


def _with_tail(node: Node, implementation: str) -> Node:
    for part in implementation.split("+")[1:]:
        if part == "residual":
            node = replace(node, inputs=(*node.inputs, Value("r", node.output.type)), residual=True)
        elif part in _ACTIVATIONS:
            node = replace(node, activation=Activation(part, *_ACTIVATIONS[part]))
    return node


#: Activations that may be fused, with an alpha and a beta that make sense.
_ACTIVATIONS = {"Relu": (), "Clip": (0.0, 6.0), "LeakyRelu": (0.1,), "HardSigmoid": (0.2, 0.5), "HardSwish": (), "Sigmoid": (), "Tanh": (),
                "Silu": (), "Gelu": ()}


def _sizes(n: int, c: int, h: int, w: int, oc: int, oh: int, ow: int, kernel: Sequence[int] | None, strides: Sequence[int] | None,
           groups: int) -> dict[str, int | None]:
    values = (n, c, h, w, oc, oh, ow, *(kernel or (None, None)), *(strides or (None, None)), groups)
    return dict(zip(COLUMNS[6:18], values))


def _four(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """A shape as batch, channels, height, width: missing axes are 1, surplus leading ones join the batch."""
    if len(shape) == 3:
        shape = (*shape[:2], 1, shape[2])
    shape = (*shape, *(1,) * (4 - len(shape))) if len(shape) < 4 else shape
    return int(np.prod(shape[:-3], dtype=np.int64)), *shape[-3:]  # type: ignore[return-value]


def _two(sizes: Sequence[int]) -> tuple[int, int]:
    return (1, int(sizes[0])) if len(sizes) == 1 else (int(sizes[-2]), int(sizes[-1]))


#: Operators whose further operands are vectors: of the channels, or, for the last, of the last axis.
_VECTORS = {"BatchNormalization": 4, "InstanceNormalization": 2, "PRelu": 1, "LayerNormalization": 1, "RMSNormalization": 1}
#: Operators of which a piece's own sizes tell everything.
_BY_SIZES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Resize",
                       "Pad", "SpaceToDepth", "DepthToSpace"})
#: Elementwise operators with two tensor inputs; all others are timed with one.
_BINARY = frozenset({"Add", "Sum", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Concat", "Mod", "And", "Or", "Equal", "Greater", "Less"})


#: Pieces that were made of rows: those of every unit are of the same shapes. At most so many are kept.
_PIECES: dict[tuple, tuple[Node, Region]] = {}
MOST_PIECES = 1 << 15


def piece_of(row: Measurement, where: str = "table") -> tuple[Node, Region]:
    """The node and the region of its output that a row timed; a piece is taken to be the beginning. Raises UsageError as `node_of` does."""
    key = (row.implementation.partition("+")[2], row.piece_key)
    found = _PIECES.get(key)
    if found is None:
        if len(_PIECES) >= MOST_PIECES:
            _PIECES.clear()
        found = _PIECES[key] = _made_piece(row, where)
    return found


def _made_piece(row: Measurement, where: str) -> tuple[Node, Region]:
    if row.op_type == "Conv" and row.of_height is not None and row.of_channels is None:
        return _rows_of_conv(row, where)
    if row.of_channels is None or row.op_type in _BY_SIZES:
        node = node_of(row, where)
        return node, Region.whole(node.output.shape)
    whole = dict(zip(("out_channels", "out_height", "out_width"), (row.of_channels, row.of_height or 1, row.of_width or 1)))
    channels, height, width = whole.values()
    if row.op_type == "Transpose" and "+kept" in row.implementation:
        read = {"in_channels": height, "in_height": channels, "in_width": width}
    elif row.op_type == "Transpose":  # as _ATTRIBUTES has it
        read = {"in_channels": width, "in_height": channels, "in_width": height}
    elif row.op_type == "Concat":
        read = {"in_height": height, "in_width": width}
    else:
        read = {"in_channels": channels, "in_height": height, "in_width": width}
    node = node_of(replace(row, **whole, **read), where)
    piece = (row.batch or 1, row.out_channels or channels, row.out_height or height, row.out_width or width)
    return node, Region([(0, min(a, b)) for a, b in zip(piece, node.output.shape)])


def _rows_of_conv(row: Measurement, where: str) -> tuple[Node, Region]:
    """A convolution with a map of `of_height` rows, and as many of its first as were timed, which read what those did."""
    small = node_of(row, where)
    more, region = row.of_height - small.output.shape[2], Region.whole(small.output.shape)
    if more <= 0:
        return small, region
    n, c, h, w = small.inputs[0].shape
    top, left, bottom, right = small.attr("pads")
    whole = replace(row, in_height=h + more * small.attr("strides")[0], in_width=w, out_height=row.of_height, out_width=small.output.shape[3])
    node = node_of(whole, where)
    return replace(node, attributes={**node.attributes, "pads": [top + bottom, left, 0, right]}), region


def node_of(row: Measurement, where: str = "table") -> Node:
    """A node with the sizes of a row, so that the one feature function serves tables too. Raises UsageError where sizes are missing."""
    dtype = np.dtype(row.dtype) if row.dtype in _DTYPES else None
    if dtype is None:
        raise UsageError("column 'dtype' is wrong", where=where, found=repr(row.dtype), expected=" or ".join(_DTYPES))

    def value(name: str, *shape: int) -> Value:
        # Weights are constants, since kernels differ where they are; the zeros take no memory.
        data = np.broadcast_to(dtype.type(0), shape) if name.startswith("w") else None
        return Value(name, TensorType(dtype, tuple(shape)), data)

    def need(*names: str) -> list[int]:
        for name in names:
            if not getattr(row, name):
                raise UsageError(f"column '{name}' is empty", where=where, expected=f"a size: {row.op_type} needs it")
        return [getattr(row, name) for name in names]

    n, g = row.batch or 1, row.groups or 1
    kernel, strides = [row.kernel_h or 1, row.kernel_w or 1], [row.stride_h or 1, row.stride_w or 1]
    if row.op_type in ("Conv", "ConvTranspose"):
        c, oc = need("in_channels", "out_channels")
        size_in = [row.in_height, row.in_width]
        size_out = [row.out_height, row.out_width]
        for d in (0, 1):
            if size_in[d] is None and size_out[d] is None:
                need("in_height" if d == 0 else "in_width")
            if size_in[d] is None:
                size_in[d] = size_out[d] * strides[d] if row.op_type == "Conv" else -(-size_out[d] // strides[d])
            if size_out[d] is None:
                size_out[d] = -(-size_in[d] // strides[d]) if row.op_type == "Conv" else size_in[d] * strides[d]
        if c % g or oc % g:
            raise UsageError("column 'groups' is wrong", where=where, found=g, expected=f"a divisor of {c} and {oc} channels")
        weights = (oc, c // g, *kernel) if row.op_type == "Conv" else (c, oc // g, *kernel)
        # A piece reads just the rows that it needs, padding excluded: what is missing at its edge is the padding. A transposed convolution writes
        # what a convolution reads.
        large, small = (size_in, size_out) if row.op_type == "Conv" else (size_out, size_in)
        pads = [_padding(large[d], small[d], kernel[d], strides[d]) for d in (0, 1)]
        made = Node(row.op_type, (value("x", n, c, *size_in), value("w", *weights), value("w2", oc)), (value("y", n, oc, *size_out),),
                    {"kernel_shape": kernel, "strides": strides, "group": g, "pads": [p // 2 for p in pads] + [p - p // 2 for p in pads]})
        return _with_tail(made, row.implementation)
    if row.op_type in ("Gemm", "MatMul"):
        k, oc = need("in_channels", "out_channels")
        rows = n * (row.out_height or row.in_height or 1)
        if row.op_type == "Gemm" or g == 1:
            more = (value("w2", oc),) if row.op_type == "Gemm" else ()
            return _with_tail(Node(row.op_type, (value("a", rows, k), value("w", k, oc), *more), (value("y", rows, oc),)), row.implementation)
        return _with_tail(Node("MatMul", (value("a", g, rows, k), value("b", g, k, oc)), (value("y", g, rows, oc),)), row.implementation)
    if row.op_type == "Gather":
        return _gather(row, dtype)
    c = row.in_channels or row.out_channels or need("in_channels")[0]
    h, w = row.in_height or row.out_height or 1, row.in_width or row.out_width or 1
    x, y = value("x", n, c, h, w), value("y", n, row.out_channels or c, row.out_height or h, row.out_width or w)
    if row.op_type in ("MaxPool", "AveragePool", "LpPool"):
        pads = [_padding(x.shape[2 + d], y.shape[2 + d], kernel[d], strides[d]) for d in (0, 1)]
        return Node(row.op_type, (x,), (y,), {"kernel_shape": kernel, "strides": strides,
                                              "pads": [p // 2 for p in pads] + [p - p // 2 for p in pads]})
    if row.op_type in _RESHAPING:
        return _reshaping(row, x, y)
    length = w if row.op_type in ("LayerNormalization", "RMSNormalization") else c
    more = [value(f"w{i}", *((c, 1, 1) if row.op_type == "PRelu" else (length,))) for i in range(_VECTORS.get(row.op_type, 0))]
    op_type, domain = row.op_type.rpartition("::")[2], row.op_type.rpartition("::")[0]
    spreads = {"broadcast": (n, c, 1, 1), "row": (1, 1, 1, w), "scalar": ()}
    second = next((shape for how, shape in spreads.items() if row.implementation.endswith(f"+{how}")), x.shape)
    attributes = {"perm": [0, 2, 1, 3]} if "+kept" in row.implementation else _ATTRIBUTES.get(op_type, {})
    if op_type == "Concat":
        count = row.groups or 2
        each = max(1, y.shape[1] // count)
        x, *more = (value(f"x{i}", n, each if i else y.shape[1] - (count - 1) * each, *y.shape[2:]) for i in range(count))
    elif op_type in _BINARY:
        more = [value("x2", *second)]
    elif op_type == "Cast":  # of whole numbers: masks and counts
        x = Value("x", TensorType(np.dtype(np.int64), x.shape))
    return _with_tail(Node(op_type, (x, *more), (y,), attributes, domain=domain), row.implementation)


_RESHAPING = ("Resize", "Pad", "SpaceToDepth", "DepthToSpace")


def _reshaping(row: Measurement, x: Value, y: Value) -> Node:
    """Operators whose output has other heights and widths than their input, by what is between them."""
    mode = row.implementation.rpartition("+")[2] if "+" in row.implementation else ""

    def integers(name: str, *values: int) -> Value:
        return Value(name, TensorType(np.dtype(np.int64), (len(values),)), np.array(values, np.int64))

    if row.op_type == "Resize":
        how = {"mode": mode or "nearest",
               **({} if mode in ("linear", "cubic") else {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})}
        return Node("Resize", (x, None, None, integers("sizes", *y.shape)), (y,), how)
    if row.op_type == "Pad":
        more = [b - a for a, b in zip(x.shape, y.shape)]
        return Node("Pad", (x, integers("pads", *(m // 2 for m in more), *(m - m // 2 for m in more))), (y,), {"mode": mode or "constant"})
    large, small = (x, y) if row.op_type == "SpaceToDepth" else (y, x)
    return Node(row.op_type, (x,), (y,), {"blocksize": max(1, large.shape[2] // max(1, small.shape[2]))})


#: Indices that are timed are random, and below this (`measure.random_array`).
LEAST_ENTRIES = 8


def _gather(row: Measurement, dtype: np.dtype) -> Node:
    """Entries of an embedding by their numbers; or, of something that has a width, one entry by a number that is known beforehand."""
    if (row.in_width or 1) > 1:
        data = Value("x", TensorType(dtype, (1, 1, row.in_width)))
        return Node("Gather", (data, constant("index", np.zeros((), np.int64))), (Value("y", TensorType(dtype, (1, row.in_width))),), {"axis": 1})
    words, length = row.out_channels or 1, row.out_width or 1
    table = TensorType(dtype, (max(row.batch or 1, LEAST_ENTRIES), length))
    return Node("Gather", (Value("w", table, np.broadcast_to(dtype.type(0), table.shape)),
                           Value("index", TensorType(np.dtype(np.int64), (1, words)))),
                (Value("y", TensorType(dtype, (1, words, length))),), {"axis": 0})


def _padding(size_in: int, size_out: int, kernel: int, stride: int) -> int:
    return max(0, (size_out - 1) * stride + kernel - size_in)


#: What an operator needs to know that no column says.
_ATTRIBUTES = {"Concat": {"axis": 1}, "Softmax": {"axis": -1}, "LogSoftmax": {"axis": -1}, "Hardmax": {"axis": -1},
               "Transpose": {"perm": [0, 2, 3, 1]},
               "LRN": {"size": 5}, "Cast": {"to": 1}, "LayerNormalization": {"axis": -1}, "RMSNormalization": {"axis": -1}}
_DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int32", "int64")
