"""A model whose weights are in half precision, computed in single precision: CPUs have no kernels for halves, and NumPy is slow at them.

Inputs and outputs stay what the model says they are: a Cast stands behind each input and before each output that is half. What lies between
is rounded less often than in half precision, and does not overflow at 65504.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .onnx_semantics import subgraphs

_HALF, _SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
#: Attributes that name an element type.
_TYPES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type"})


def has_half_weights(model: onnx.ModelProto) -> bool:
    """Whether the model was made to be computed in half precision: numbers by themselves, and vectors, may be half in any."""
    constants = (a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t"))
    return any(t.data_type == _HALF and len(t.dims) > 1 for t in (*model.graph.initializer, *constants))


def widened(model: onnx.ModelProto, weights: Mapping[int, np.ndarray | ValueError]
            ) -> tuple[onnx.ModelProto, dict[int, np.ndarray | ValueError]]:
    """The same model in single precision, and those of its initializers that are not in the message, by position."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    kept = {number: a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float16 else a for number, a in weights.items()}
    for number, tensor in enumerate(graph.initializer):
        if tensor.data_type == _HALF and number in kept:
            tensor.data_type = _SINGLE
    _widen(graph)
    stored, casts = {t.name for t in graph.initializer}, []
    for value, into in (*((i, True) for i in graph.input if i.name not in stored), *((o, False) for o in graph.output)):
        if value.type.tensor_type.elem_type == _HALF:
            inside = f"{value.name}/float32"
            _rename(graph, value.name, inside)
            names = (value.name, inside) if into else (inside, value.name)
            casts.append(helper.make_node("Cast", [names[0]], [names[1]], name=inside, to=_SINGLE if into else _HALF))
    graph.node.extend(casts)
    return made, kept


def _widen(graph: onnx.GraphProto) -> None:
    """All that a graph holds and makes; its inputs and outputs only where it is inside another."""
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _widen_tensor(sparse.values)
    del graph.value_info[:]  # inference knows better now
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.type == onnx.AttributeProto.INT and attribute.i == _HALF:
                attribute.i = _SINGLE
            for tensor in (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors:
                _widen_tensor(tensor)
            if attribute.HasField("sparse_tensor"):
                _widen_tensor(attribute.sparse_tensor.values)
        for inner in subgraphs(node):
            _widen(inner)
            for value in (*inner.input, *inner.output):
                if value.type.tensor_type.elem_type == _HALF:
                    value.type.tensor_type.elem_type = _SINGLE


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Every use of a value in a graph and those inside it, and where it is made or stored."""
    for tensor in graph.initializer:
        if tensor.name == old:
            tensor.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == old:
                    names[at] = new
        for inner in subgraphs(node):
            if old not in {i.name for i in inner.input}:
                _rename(inner, old, new)
                for out in inner.output:
                    if out.name == old:
                        out.name = new
