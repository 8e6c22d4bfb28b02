"""Type inference and constant folding, in one walk: shapes decide constants, and constants decide shapes."""

from __future__ import annotations

import numpy as np

from ...errors import CoexecError, InvalidModel
from ...ops import op_for
from ..ir import UNKNOWN, Graph, Node, Value, constant
from ..rewrite import rewrite
from ..time_limit import time_limit
from .inline_if import inline_ifs

#: Folding never makes a constant larger than this; what would be larger is computed when it is needed.
LIMIT_BYTES = 1 << 30

#: Operators whose output is the input's memory; ONNX's inference does not check that it is as large.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})

#: Seconds in which the loops of a model may be folded, all together; those left are run each time.
LOOPS_S = 0.5

#: More than a process addresses on any machine we know.
ADDRESSABLE_BYTES = 1 << 47

#: Answers that differ from run to run.
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"})


def infer_and_fold(graph: Graph) -> Graph:
    """The graph with every type known that can be, every node computed that depends on constants alone, and of every If whose condition that
    tells, the branch.

    Raises InvalidModel where a node's inputs do not fit its operator.
    """
    with time_limit(LOOPS_S):
        graph = _walk(graph)
        while (inlined := inline_ifs(graph)) is not graph:
            graph = _walk(inlined)
        return graph


def _walk(graph: Graph) -> Graph:
    now: dict[Value, Value] = {}
    changed: dict[Node, Node | None] = {}
    for node in graph.nodes:
        inputs = tuple(now.get(v, v) for v in node.inputs)  # type: ignore[arg-type]
        folded = _fold(node, inputs)
        if folded is not None:
            now.update((old, constant(old.name, new)) for old, new in zip(node.outputs, folded) if old is not None)
            changed[node] = None
            continue
        outputs = _typed(node, inputs)
        now.update((old, new) for old, new in zip(node.outputs, outputs) if old is not None and new is not old)
        changed[node] = node.with_values(inputs, outputs)
    return rewrite(graph, nodes=changed, values=now)


def _typed(node: Node, inputs: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    if node.origin is None:
        return node.outputs
    types = node.origin.infer(inputs)
    for found in types:
        if found.is_static and found.nbytes > ADDRESSABLE_BYTES:
            raise InvalidModel("a tensor larger than any memory", where=f"{node.op_type} '{node.name}'", found=f"{found}, {found.nbytes} bytes",
                               expected=f"less than {ADDRESSABLE_BYTES}", hint="check the model's shapes")
    source = inputs[0].type if inputs and inputs[0] is not None else UNKNOWN
    if node.op_type in VIEWS and not node.domain and types and source.is_static and types[0].is_static and source.size != types[0].size:
        raise InvalidModel("the output has another number of elements than the input", where=f"{node.op_type} '{node.name}'",
                           found=str(types[0]), expected=f"a shape of {source.size} elements, as {source} has", hint="export the model again")
    types += [UNKNOWN] * (len(node.outputs) - len(types))
    return tuple(None if old is None else old if new == old.type or (new == UNKNOWN and old.type != UNKNOWN) else Value(old.name, new)
                 for old, new in zip(node.outputs, types))


def _fold(node: Node, inputs: tuple[Value | None, ...]) -> list[np.ndarray] | None:
    """The outputs, where they are constant."""
    if node.op_type in ("Shape", "Size") and not node.domain and inputs and inputs[0] is not None and inputs[0].type.is_static:
        shape = inputs[0].shape
        if node.op_type == "Size":
            return [np.array(int(np.prod(shape, dtype=np.int64)), np.int64)]
        return [np.array(shape[slice(node.attr("start", 0), node.attr("end"))], np.int64)]
    if node.op_type == "CastLike" and inputs[0] is not None and inputs[0].is_constant and inputs[1] is not None and _plain_number(inputs[1].dtype):
        if _plain_number(inputs[0].dtype):
            return [inputs[0].data.astype(inputs[1].dtype)]
    if node.op_type in RANDOM or node.origin is None or any(v is not None and not v.is_constant for v in inputs):
        return None
    try:
        outputs = _typed(node, inputs)
    except InvalidModel:  # the schema is stricter than the reference; if both refuse, the caller hears of it
        outputs = node.outputs
    types = [v.type for v in outputs if v is not None]
    if sum(t.nbytes for t in types if t.is_static) > LIMIT_BYTES:
        return None
    typed = node.with_values(inputs, outputs)
    try:
        results = op_for(typed).run_whole(typed, [None if v is None else v.data for v in inputs])
    except (CoexecError, ValueError, IndexError, ArithmeticError, TypeError, NotImplementedError, MemoryError):
        return None  # it will say what is wrong when it runs, with its name
    if any(not isinstance(r, np.ndarray) for r, v in zip(results, node.outputs) if v is not None):
        return None
    return list(results)


def _plain_number(dtype: np.dtype | None) -> bool:
    return dtype is not None and dtype.kind in "fiub"
