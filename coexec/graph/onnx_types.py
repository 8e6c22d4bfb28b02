"""ONNX's type and tensor messages to and from ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .ir import UNKNOWN, TensorType


def dtype_from_onnx(element: int) -> np.dtype | None:
    """NumPy's type of an ONNX element type; `object` for strings, None where undefined."""
    if element in (onnx.TensorProto.UNDEFINED,):
        return None
    if element == onnx.TensorProto.STRING:
        return np.dtype(object)
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
    except KeyError:
        return None


def type_from_onnx(proto: onnx.TypeProto) -> TensorType:
    """A tensor's type; sequences, maps and optionals are opaque."""
    if not proto.HasField("tensor_type"):
        return UNKNOWN
    tensor = proto.tensor_type
    dtype = dtype_from_onnx(tensor.elem_type)
    if dtype is None:
        return UNKNOWN
    if not tensor.HasField("shape"):
        return TensorType(dtype, None)
    return TensorType(dtype, tuple(_size(d) for d in tensor.shape.dim))


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """A dimension's size, its name, or None where it is open: negative, or `?` as some exporters write, which is no name that two could share."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param if any(letter.isalnum() for letter in dim.dim_param) and dim.dim_param != "-1" else None


def type_to_onnx(tensor: TensorType) -> onnx.TypeProto:
    """The message of a tensor type."""
    element = onnx.TensorProto.STRING if tensor.dtype == object else onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    return onnx.helper.make_tensor_type_proto(element, None if tensor.shape is None else list(tensor.shape))


def array_from_onnx(proto: onnx.TensorProto, base_dir: str = "") -> np.ndarray:
    """A tensor's data; ONNX strings become Python strings in an object array."""
    array = numpy_helper.to_array(proto, base_dir)
    if proto.data_type == onnx.TensorProto.STRING:
        array = np.array([s.decode() if isinstance(s, bytes) else s for s in array.ravel()], object).reshape(array.shape)
    return array


def dense_from_sparse(proto: onnx.SparseTensorProto) -> np.ndarray:
    """A sparse initializer as an ordinary array."""
    values, indices, shape = numpy_helper.to_array(proto.values), numpy_helper.to_array(proto.indices), tuple(proto.dims)
    dense = np.zeros(shape, values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def attribute_from_onnx(proto: onnx.AttributeProto) -> Any:
    """An attribute as int, float, str, tuple, ndarray; subgraphs stay messages."""
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return array_from_onnx(value)
    if isinstance(value, (list, tuple)) or type(value).__name__.startswith("Repeated"):
        return tuple(v.decode(errors="replace") if isinstance(v, bytes) else v for v in value)
    return value
