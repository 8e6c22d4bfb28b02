"""Input shapes become fixed, and with them the few input values that decide shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import ModelError
from ...ops import find_op, is_native
from ..ir import Graph, TensorType, Value, constant
from ..rewrite import rewrite

#: An input with more elements than this is data, not a shape.
SMALL = 64


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


def bind_values(graph: Graph, values: Mapping[str, np.ndarray]) -> Graph:
    """The same graph with some inputs fixed to a value, so that what they decide is known. They stay inputs, and are not read any more."""
    swapped = {v: constant(v.name, values[v.name]) for v in graph.inputs if v.name in values}
    return rewrite(graph, values=swapped) if swapped else graph


def deciding_inputs(graph: Graph) -> tuple[str, ...]:
    """Inputs that decide shapes: small tensors that reach an operand such as axes, pads or a target shape of an operator that needs it constant, or
    what an If decides by.

    The graph has been through type inference.
    """
    found: dict[str, None] = {}
    small = {v for v in graph.inputs if _is_small(v)}
    for node in graph.nodes:
        if node.op_type == "If" and not node.domain:
            sources = _sources(graph, node.inputs[0])
            found.update((v.name, None) for v in sources if sources <= small)  # else knowing them would decide nothing
            continue
        if is_native(node) or find_op(node.domain, node.op_type) is None:
            continue
        for operand in node.inputs[1:]:
            found.update((v.name, None) for v in _sources(graph, operand) if v in small)
    return tuple(found)


def _is_small(value: Value) -> bool:
    shape = value.type.shape
    if value.type.dtype is None or value.type.dtype.kind not in "iufb" or shape is None or len(shape) > 1:
        return False
    return not shape or not isinstance(shape[0], int) or shape[0] <= SMALL


def _sources(graph: Graph, value: Value | None) -> set[Value]:
    """The graph inputs that a value is computed from."""
    found: set[Value] = set()
    seen: set[Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current is None or current.is_constant or current in seen:
            continue
        seen.add(current)
        maker = graph.producers.get(current)
        if maker is None:
            found.add(current)
        else:
            todo.extend(maker.inputs)
    return found
