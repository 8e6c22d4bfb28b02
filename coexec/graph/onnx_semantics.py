"""What ONNX itself says of one node: the types it yields (the schema's inference) and its answer (the reference implementation).

An `OnnxNode` travels in `Node.origin`, so that nothing else has to know ONNX's messages.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .. import settings
from ..errors import CoexecError, InvalidModel
from .ir import UNKNOWN, Node, TensorType, Value
from .onnx_mended import mended
from .onnx_types import type_from_onnx, type_to_onnx
from .time_limit import check_time, time_limit

LATEST = onnx.defs.onnx_opset_version()

#: Constants larger than this never decide a shape; they are not handed to inference.
_SHAPE_DATA_LIMIT = 1024


#: Operators whose first output has the first input's shape, and whose schema does not say so (a function body hides it).
SHAPE_OF_INPUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})


@cache
def _bounded_evaluator() -> type:
    """onnx's evaluator, looking at the time whenever it begins a graph: it makes those of bodies by its own class."""
    from onnx.reference import ReferenceEvaluator

    class BoundedEvaluator(ReferenceEvaluator):
        def run(self, *args: Any, **options: Any) -> Any:
            check_time()
            return super().run(*args, **options)

    return BoundedEvaluator


class OnnxNode:
    """One NodeProto with the operator-set versions it is read by.

    `captured` names the outer values its subgraphs read; they follow the node's own inputs.
    """

    def __init__(self, proto: onnx.NodeProto, opsets: Mapping[str, int], captured: Sequence[str] = ()):
        self.proto, self.opsets, self.captured = proto, dict(opsets), tuple(captured)
        self._evaluator: Any = None
        self._lock = threading.Lock()

    @property
    def input_names(self) -> list[str]:
        return [*self.proto.input, *self.captured]

    def infer(self, inputs: Sequence[Value | None]) -> list[TensorType]:
        """The types of the outputs, as far as the schema's inference knows them.

        Raises InvalidModel where the schema says that the inputs do not fit the operator.
        """
        unknown = [UNKNOWN] * len(self.proto.output)
        domain = self.proto.domain
        try:
            schema = onnx.defs.get_schema(self.proto.op_type, self.opsets.get(domain, LATEST), domain)
        except onnx.defs.SchemaError:
            return unknown
        known = {n: v for n, v in zip(self.proto.input, inputs) if n and v is not None}
        if any(v.type.dtype is None for v in known.values()):
            return unknown
        data = {n: numpy_helper.from_array(v.data, n) for n, v in known.items()
                if v.data is not None and v.data.size <= _SHAPE_DATA_LIMIT and v.data.dtype != object}
        imports = [onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, self.proto, {n: type_to_onnx(v.type) for n, v in known.items()}, data, opset_imports=imports)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
            nested = self.captured or any(a.HasField("g") for a in self.proto.attribute)
            if nested and isinstance(error, onnx.shape_inference.InferenceError):
                return unknown
            text = str(error).splitlines()[0] if str(error) else "inference failed"
            raise InvalidModel("the inputs do not fit the operator", where=f"{self.proto.op_type} '{self.proto.name}'",
                               found=f"{[str(v.type) for v in known.values()]} ({text[:200]})",
                               expected="inputs as ONNX's schema demands", hint="check the model with onnx.checker") from None
        types = [type_from_onnx(found[o]) if o in found else UNKNOWN for o in self.proto.output]
        if self.proto.op_type in SHAPE_OF_INPUT and not domain and types[0].shape is None and types[0].dtype is not None:
            types[0] = TensorType(types[0].dtype, inputs[0].type.shape)
        return types

    def evaluate(self, inputs: Sequence[Any]) -> list[Any]:
        """The node's outputs by onnx's reference implementation. Raises CoexecError naming the node where that fails, LoopTimeout where
        its body is still at work after the setting's seconds."""
        feeds = {n: a for n, a in zip(self.input_names, inputs) if n and a is not None}
        try:
            with self._lock:
                if self._evaluator is None:
                    self._evaluator = self._build(feeds)
            with np.errstate(all="ignore"), time_limit(settings.get("loop_timeout")):
                results = dict(zip((o for o in self.proto.output if o), self._evaluator.run(None, feeds)))
        except CoexecError as error:
            error.where = error.where or f"{self.proto.op_type} '{self.proto.name}'"
            raise
        except Exception as error:  # the reference implementation raises whatever NumPy raised inside it
            raise CoexecError("the reference implementation failed", where=f"{self.proto.op_type} '{self.proto.name}'",
                              found=f"{type(error).__name__}: {str(error)[:300]}",
                              hint="check the node's inputs; set COEXEC_DEBUG=1 for the traceback") from error
        return [_plain(results.get(o)) if o else None for o in self.proto.output]

    def _build(self, feeds: Mapping[str, Any]) -> Any:
        types = {n: onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(a.dtype), None)
                 for n, a in feeds.items() if isinstance(a, np.ndarray) and a.dtype != object}
        return _bounded_evaluator()(self._model(types), new_ops=list(mended(self.opsets.get("", LATEST))))

    def _model(self, types: Mapping[str, onnx.TypeProto]) -> onnx.ModelProto:
        """This node as a whole model, with the types of its inputs as far as they are given."""
        names = list(dict.fromkeys(n for n in self.input_names if n))
        anything = onnx.TypeProto()
        graph = onnx.helper.make_graph(
            [self.proto], "node",
            [onnx.helper.make_value_info(n, types.get(n, anything)) for n in names],
            [onnx.helper.make_value_info(o, anything) for o in self.proto.output if o])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()])


def identity(value: Value, output: Value, name: str, opsets: Mapping[str, int]) -> Node:
    """A node that gives a value another name."""
    proto = onnx.helper.make_node("Identity", [value.name], [output.name], name=name)
    return Node("Identity", (value,), (output,), {}, name, "", opsets.get("", LATEST), origin=OnnxNode(proto, opsets))


def _plain(result: Any) -> Any:
    if isinstance(result, (np.generic, int, float, bool, str)):
        result = np.asarray(result)
    return result.astype(object) if isinstance(result, np.ndarray) and result.dtype.kind == "U" else result


def has_reference(domain: str, op_type: str, version: int) -> bool:
    """True where onnx's reference implementation can compute the operator."""
    from onnx.reference.op_run import RuntimeContextError, RuntimeImplementationError
    from onnx.reference.ops import load_op as load_main
    from onnx.reference.ops.aionnx_preview_training import load_op as load_training
    from onnx.reference.ops.aionnxml import load_op as load_ml

    loaders = {"": load_main, "ai.onnx.ml": load_ml, "ai.onnx.preview.training": load_training}
    if domain not in loaders:
        return False
    try:
        loaders[domain](domain, op_type, version)
    except (RuntimeContextError, RuntimeImplementationError, RuntimeError, ValueError, TypeError, NotImplementedError,
            AssertionError):  # asserts where only a function body exists
        return _context_dependent(domain, op_type, version)
    return True


def _context_dependent(domain: str, op_type: str, version: int) -> bool:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except (onnx.defs.SchemaError, TypeError):  # the latter for a name that is no text
        return False
    return schema.has_function or schema.has_context_dependent_function


def free_names(graph: onnx.GraphProto) -> list[str]:
    """Names that a subgraph reads from outside, in order of first use."""
    inside = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        used: Iterable[str] = [*node.input, *(n for sub in subgraphs(node) for n in free_names(sub))]
        for name in used:
            if name and name not in inside:
                found[name] = None
        inside.update(node.output)
    for out in graph.output:
        if out.name and out.name not in inside:
            found[out.name] = None
    return list(found)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    found = []
    for a in node.attribute:
        if a.HasField("g"):
            found.append(a.g)
        found.extend(a.graphs)
    return found
