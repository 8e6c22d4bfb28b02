"""Large weights of a serialized model, found without parsing them: a message of hundreds of megabytes would be copied again and again.

`without_weights` walks the wire format (https://protobuf.dev/programming-guides/encoding/) down to ModelProto.graph.initializer and leaves
out the raw data of large tensors of plain types. What is left is an ordinary ModelProto; `arrays` are views of the bytes where they lie,
and so are `external_arrays` of files beside the model. What only PACKING operators read may lie at any address; the rest is aligned.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx

#: Less raw data than this stays in the message: it may decide shapes, and many kernels read it as it is.
LEAST_BYTES = 16 << 10
#: Operators whose kernels pack large constants, wherever these lie; the kernels of others read them as they are.
PACKING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})
ALIGNMENT = 128

#: Field numbers of onnx.proto.
_GRAPH, _INITIALIZER, _DATA_TYPE, _RAW_DATA = 7, 5, 2, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_T = onnx.TensorProto
#: Element types whose raw data is the array itself.
PLAIN = frozenset({_T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64, _T.BOOL})


class _NotPlain(Exception):
    """Something that the full parser is left to judge."""


def without_weights(data: Sequence[int]) -> tuple[bytes, dict[int, slice]] | None:
    """The message without large weights, and where in `data` the raw data of each such initializer lies, by its position.

    None where there are none, or the message is not of the usual form (it may be damaged: parsing it whole will tell).
    """
    if sys.byteorder != "little":
        return None
    found: dict[int, slice] = {}
    try:
        graphs = [f for f in _fields(data, 0, len(data)) if f[0] == _GRAPH]
        if len(graphs) != 1 or graphs[0][1] != _BYTES:
            return None
        _, _, start, begin, stop = graphs[0]
        parts, kept, number = [], begin, 0
        for field, kind, at, inside, end in _fields(data, begin, stop):
            if field != _INITIALIZER or kind != _BYTES:
                continue
            raw = _raw_data(data, inside, end) if end - inside >= LEAST_BYTES else None
            if raw is not None:
                field_at, raw_at, raw_end = raw
                found[number] = slice(raw_at, raw_end)
                lean = bytes(data[inside:field_at]) + bytes(data[raw_end:end])
                parts += [bytes(data[kept:at]), _header(_INITIALIZER, len(lean)), lean]
                kept = end
            number += 1
    except (_NotPlain, IndexError):
        return None
    if not found:
        return None
    graph = b"".join([*parts, bytes(data[kept:stop])])
    return b"".join([bytes(data[:start]), _header(_GRAPH, len(graph)), graph, bytes(data[stop:])]), found


def _raw_data(data: Sequence[int], start: int, stop: int) -> tuple[int, int, int] | None:
    """Where the raw data of a tensor is, if it is large and of a plain type: of its field, and of the bytes themselves from ... to."""
    raw, plain = [], False
    for field, kind, at, inside, end in _fields(data, start, stop):
        if field == _DATA_TYPE and kind == _VARINT:
            plain = _varint(data, inside)[0] in PLAIN
        elif field == _RAW_DATA and kind == _BYTES:
            raw.append((at, inside, end))
    return raw[0] if plain and len(raw) == 1 and raw[0][2] - raw[0][1] >= LEAST_BYTES else None


def _fields(data: Sequence[int], at: int, stop: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Every field of a message: number, wire type, where it begins, where its value does, where that ends."""
    while at < stop:
        key, inside = _varint(data, at)
        kind = key & 7
        if kind == _BYTES:
            length, inside = _varint(data, inside)
            end = inside + length
        elif kind == _VARINT:
            end = _varint(data, inside)[1]
        elif kind in (_FIXED64, _FIXED32):
            end = inside + (8 if kind == _FIXED64 else 4)
        else:
            raise _NotPlain
        if end > stop:
            raise _NotPlain
        yield key >> 3, kind, at, inside, end
        at = end


def _varint(data: Sequence[int], at: int) -> tuple[int, int]:
    """A base-128 number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise _NotPlain


def _header(field: int, length: int) -> bytes:
    """Key and length of a length-delimited field."""
    out = bytearray()
    for value in (field << 3 | _BYTES, length):
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def arrays(data: bytes | mmap.mmap, where: Mapping[int, slice], graph: onnx.GraphProto) -> dict[int, np.ndarray | ValueError]:
    """Those initializers, not to be written to; a ValueError where size and shape do not fit."""
    found: dict[int, np.ndarray | ValueError] = {}
    as_it_is = _read_as_it_is(graph)
    for number, part in where.items():
        tensor = graph.initializer[number]
        if part.stop - part.start != _nbytes(tensor):
            found[number] = ValueError(f"{part.stop - part.start} bytes of raw data")
        else:
            found[number] = _array(data, part.start, tensor, tensor.name in as_it_is)
    return found


def external_arrays(graph: onnx.GraphProto, folder: Path) -> dict[int, np.ndarray]:
    """Large initializers in ordinary files of that folder, by position; they are external no more. The others are left to ONNX's loader,
    which says what is wrong with them."""
    found: dict[int, np.ndarray] = {}
    files: dict[str, mmap.mmap | None] = {}
    as_it_is = _read_as_it_is(graph)
    for number, tensor in enumerate(graph.initializer):
        if tensor.data_location != _T.EXTERNAL or tensor.data_type not in PLAIN or sys.byteorder != "little":
            continue
        told = {e.key: e.value for e in tensor.external_data}
        name, offset, length = told.get("location", ""), told.get("offset", "0"), told.get("length", "")
        if name not in files:
            files[name] = _mapped(folder, name)
        file = files[name]
        if file is None or not (offset.isdigit() and length.isdigit()) or not LEAST_BYTES <= int(length) == _nbytes(tensor):
            continue
        if int(offset) + int(length) <= len(file):
            found[number] = _array(file, int(offset), tensor, tensor.name in as_it_is)
            del tensor.external_data[:]
            tensor.data_location = _T.DEFAULT
    return found


def _mapped(folder: Path, name: str) -> mmap.mmap | None:
    """An ordinary file inside the folder, reached by no link; None where it is anything else."""
    try:
        path = folder.resolve() / name
        if not name or path != path.resolve() or not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_nlink > 1:
            return None
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None


def _read_as_it_is(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node if node.domain or node.op_type not in PACKING for name in node.input}


def _nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor of a plain type; -1 for an impossible shape."""
    return -1 if min(tensor.dims, default=0) < 0 else prod(tensor.dims) * _dtype(tensor).itemsize


def _dtype(tensor: onnx.TensorProto) -> np.dtype:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _array(data: bytes | mmap.mmap, at: int, tensor: onnx.TensorProto, aligned: bool) -> np.ndarray:
    """A view of the bytes from `at` on; where it must be `aligned` and is not, a copy."""
    array = np.frombuffer(data, _dtype(tensor), prod(tensor.dims), at).reshape(tuple(tensor.dims))
    if not aligned or array.ctypes.data % ALIGNMENT == 0:
        return array
    raw = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    raw = raw[-raw.ctypes.data % ALIGNMENT:][:array.nbytes]
    raw[:] = np.frombuffer(data, np.uint8, array.nbytes, at)
    return raw.view(array.dtype).reshape(array.shape)
