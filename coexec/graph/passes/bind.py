"""Input shapes become fixed."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import ModelError
from ..ir import Graph, TensorType, Value
from ..rewrite import rewrite


def bind_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The same graph with input shapes fixed. A symbol that two inputs share must get one size.

    Raises ModelError where a shape contradicts the model's.
    """
    sizes: dict[str, int] = {}
    swapped = {}
    for value in graph.inputs:
        shape = shapes.get(value.name)
        if shape is None or value.type.dtype is None:
            continue
        declared = value.type.shape
        if declared is not None and (len(declared) != len(shape) or any(isinstance(d, int) and d != s for d, s in zip(declared, shape))):
            raise ModelError("the shape contradicts the model", where=f"input '{value.name}'", found=list(shape), expected=str(value.type))
        for symbol, size in zip(declared or (), shape):
            if isinstance(symbol, str) and sizes.setdefault(symbol, size) != size:
                raise ModelError(f"dimension '{symbol}' would have two sizes", where=f"input '{value.name}'", found=size, expected=sizes[symbol])
        swapped[value] = Value(value.name, TensorType(value.type.dtype, tuple(shape)))
    for value in graph.inputs:  # inputs nobody named may be fixed by a shared symbol
        if value in swapped or value.type.shape is None:
            continue
        shape = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in value.type.shape)
        if shape != value.type.shape:
            swapped[value] = Value(value.name, TensorType(value.type.dtype, shape))
    return rewrite(graph, values=swapped) if swapped else graph
