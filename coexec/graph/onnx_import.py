"""An ONNX model (file, bytes or ModelProto, opset 7 to the newest) becomes a Graph.

Every defect of the file is an InvalidModel with one line; all unsupported operators are reported at once.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError

from .. import settings
from ..errors import InvalidModel, UnsupportedOps
from ..ops import native_ops
from .ir import Graph, Node, Value, constant, sort_nodes
from .onnx_semantics import LATEST, OnnxNode, free_names, has_reference, subgraphs
from .onnx_types import array_from_onnx, attribute_from_onnx, dense_from_sparse, type_from_onnx
from .onnx_upgrade import DEPRECATED, Upgrader
from .onnx_weights import arrays, external_arrays, without_weights
from .onnx_widen import has_half_weights, widened

OLDEST = 7
#: Files of at least so many bytes are mapped, not read.
LARGE_BYTES = 1 << 20

#: Operators whose outputs after the first are dropped where nobody reads them: without them they are simpler operators.
OPTIONAL_OUTPUTS = frozenset({"BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"})

Source = "str | os.PathLike[str] | bytes | onnx.ModelProto"


def load_model(source: Source) -> Graph:  # type: ignore[valid-type]
    """The graph of a model, with symbolic dimensions still open; `coexec.graph.passes.prepare` binds and simplifies it.

    Raises InvalidModel, UnsupportedOps.
    """
    model, where, weights = _read(source)
    _check_header(model, where)
    model = _modern(model, where)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if not settings.get("half") and has_half_weights(model):
        model, weights = widened(model, weights)
    try:
        return _Importer(model, where, weights).graph()
    except UnicodeError as error:
        raise InvalidModel("a name in the model is no text", where=where, found=str(error)[:200], expected="UTF-8",
                           hint="export or copy the model again") from None


#: Initializers that are not in the message, by position: arrays, or what is wrong with them.
Weights = Mapping[int, "np.ndarray | ValueError"]


def _read(source: object) -> tuple[onnx.ModelProto, str, Weights]:
    if isinstance(source, onnx.ModelProto):
        _refuse_external(source, "model")
        return source, source.graph.name or "model", {}
    if isinstance(source, (bytes, bytearray, memoryview)):
        model, weights = _parse(bytes(source), "model bytes")
        _refuse_external(model, "model bytes")
        return model, model.graph.name or "model", weights
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidModel("cannot read a model from this", found=type(source).__name__, expected="a path, bytes or an onnx.ModelProto")
    path = Path(source)
    try:
        data = _contents(path)
    except OSError as error:
        raise InvalidModel("cannot read the model", where=str(path), found=error.strerror or str(error), expected="an ONNX file") from None
    model, weights = _parse(data, str(path))
    if _stays(model):
        weights = {**weights, **external_arrays(model.graph, path.parent)}
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InvalidModel("the model's weights are missing", where=str(path), found=str(error).splitlines()[0][:300],
                           expected="its external data files beside it", hint="copy them there, or save the model with the weights inside") from None
    return model, path.name, weights


def _contents(path: Path) -> bytes | mmap.mmap:
    """The file's bytes; a large one is mapped, so that its weights take no memory of their own. It must not be cut short while in use."""
    with path.open("rb") as file:
        if path.stat().st_size >= LARGE_BYTES:
            try:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # not every file system can
                pass
        return file.read()


def _parse(data: bytes | mmap.mmap, where: str) -> tuple[onnx.ModelProto, Weights]:
    """The message, and the large weights that it was parsed without."""
    lean = without_weights(data)
    if lean is not None:
        model = onnx.ModelProto()
        try:
            model.ParseFromString(lean[0])
        except DecodeError:
            pass
        else:
            if _stays(model):
                return model, arrays(data, lean[1], model.graph)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(bytes(data))
    except DecodeError:
        raise InvalidModel("not an ONNX model, or a truncated one", where=where, found=f"{len(data)} bytes that do not parse",
                           expected="a serialized ModelProto", hint="export or copy it again") from None
    return model, {}


def _refuse_external(model: onnx.ModelProto, where: str) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InvalidModel("the model's weights are missing", where=where, found=f"initializer '{tensor.name}' with external data",
                               expected="weights inside the message", hint="pass the file's path, so that its data files are found beside it")


def _check_header(model: onnx.ModelProto, where: str) -> None:
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise InvalidModel("not an ONNX model", where=where, found="no graph in it", expected="a ModelProto with a graph", hint="export it again")
    if not model.graph.output:
        raise InvalidModel("the graph has no outputs, so there is nothing to compute", where=where, hint="export it again")
    odd = next((o for o in model.opset_import if not 0 < o.version < 1 << 31), None)
    if odd is not None:
        raise InvalidModel("unsupported operator set", where=where, found=f"version {odd.version} of '{odd.domain}'",
                           expected="a small positive number", hint="export it again")
    if _main_opset(model) > LATEST:
        raise InvalidModel("unsupported operator set", where=where, found=f"opset {_main_opset(model)}", expected=f"{OLDEST} to {LATEST}",
                           hint="install a newer `onnx`, or export the model for an older operator set")


def _main_opset(model: onnx.ModelProto) -> int:
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return versions[0] if versions else OLDEST


def _stays(model: onnx.ModelProto) -> bool:
    """False where ONNX is to rewrite the model, for which it needs all of it."""
    return not model.functions and _main_opset(model) >= OLDEST


def _modern(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model in opset 7 at least; older ones, whose broadcasting was another, go through ONNX's own converter."""
    version = _main_opset(model)
    if version >= OLDEST:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError, onnx.shape_inference.InferenceError) as error:
        raise InvalidModel("unsupported operator set, and ONNX's converter cannot lift it", where=where,
                           found=f"opset {version} ({str(error).splitlines()[0][:150]})", expected=f"{OLDEST} to {LATEST}",
                           hint="export the model again, for a newer operator set") from None


def branch(node: Node, name: str) -> tuple[list[Node], list[Value]]:
    """What a node's subgraph computes, as nodes on the outer values that it reads, in any order; and its results. Raises InvalidModel.

    name: of the attribute. The names of what is inside begin with the node's.
    """
    origin: OnnxNode = node.origin
    proto = next(a.g for a in origin.proto.attribute if a.name == name)
    model = onnx.ModelProto(opset_import=[onnx.helper.make_opsetid(d, v) for d, v in origin.opsets.items()])
    importer = _Importer(model, node.name, {})
    outer = {n: v for n, v in zip(origin.input_names, node.inputs) if n and v is not None}
    made, results = importer.subgraph(proto, outer)
    named: dict[Value, Value] = {value: value for value in outer.values()}

    def now(value: Value | None) -> Value | None:
        if value is not None and value not in named:
            named[value] = Value(f"{node.name}/{value.name}", value.type, value.data)
        return None if value is None else named[value]

    return [replace(n.with_values(map(now, n.inputs), map(now, n.outputs)), name=f"{node.name}/{n.name}") for n in made], [now(v) for v in results]


class _Importer:
    def __init__(self, model: onnx.ModelProto, where: str, weights: Weights):
        self.model, self.weights = model, weights
        self.where = where if isinstance(where, str) else repr(where)  # protobuf hands out bytes where a name is no text
        self.opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        self.opsets.setdefault("", 1 if self.opsets else LATEST)
        self.values: dict[str, Value] = {}
        self.upgrader = Upgrader()

    def subgraph(self, proto: onnx.GraphProto, outer: Mapping[str, Value]) -> tuple[list[Node], list[Value]]:
        """The nodes and outputs of a graph inside one, which reads those values from outside."""
        self.values.update(outer)
        self._initializers(proto, {})
        return self._nodes(proto), [self._value(o.name, "the graph's output list") for o in proto.output]

    def _initializers(self, proto: onnx.GraphProto, weights: Weights) -> None:
        for number, tensor in enumerate(proto.initializer):
            self.values[tensor.name] = constant(tensor.name, self._array(tensor, weights.get(number)))
        for sparse in proto.sparse_initializer:
            self.values[sparse.values.name] = constant(sparse.values.name, self._dense(sparse))

    def graph(self) -> Graph:
        proto = self.model.graph
        self._refuse_unsupported(proto.node)
        self._initializers(proto, self.weights)
        inputs = []
        for info in proto.input:
            if info.name not in self.values:
                self.values[info.name] = Value(info.name, type_from_onnx(info.type))
                inputs.append(self.values[info.name])
        nodes = self._nodes(proto)
        outputs = [self._value(o.name, "the graph's output list") for o in proto.output]
        nodes, cycle = sort_nodes(nodes)
        if cycle:
            raise InvalidModel("the graph has a cycle", where=self.where, found=", ".join(f"{n.op_type} '{n.name}'" for n in cycle[:6]),
                               expected="no node that needs its own result", hint="export the model again")
        names = {p.key: p.value for p in self.model.metadata_props}
        return Graph(Path(self.where).stem or "model", tuple(inputs), tuple(outputs), tuple(nodes), self.opsets[""], names)

    def _array(self, tensor: onnx.TensorProto, read: np.ndarray | ValueError | None = None) -> np.ndarray:
        try:
            if isinstance(read, ValueError):
                raise read
            return array_from_onnx(tensor) if read is None else read
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise InvalidModel(f"initializer '{tensor.name}' is damaged", where=self.where, found=str(error)[:200],
                               expected=f"{list(tensor.dims)} elements of its type", hint="export or copy the model again") from None

    def _dense(self, sparse: onnx.SparseTensorProto) -> np.ndarray:
        try:
            return dense_from_sparse(sparse)
        except (ValueError, TypeError, KeyError, OverflowError, IndexError, MemoryError) as error:
            raise InvalidModel(f"sparse initializer '{sparse.values.name}' is damaged", where=self.where, found=str(error)[:200],
                               expected=f"values, and their places in {list(sparse.dims)}", hint="export or copy the model again") from None

    def _nodes(self, proto: onnx.GraphProto) -> list[Node]:
        """Outputs are named before inputs are looked up, so that a file may list nodes in any order."""
        upgraded: list[tuple[onnx.NodeProto, dict[str, int]]] = []
        taken: set[str] = set()
        used = {o.name for o in proto.output} | {i for n in proto.node for i in n.input}
        used |= {name for n in proto.node for g in subgraphs(n) for name in free_names(g)}
        for index, original in enumerate(proto.node):
            node = onnx.NodeProto()
            node.CopyFrom(original)
            if node.op_type in OPTIONAL_OUTPUTS:
                while len(node.output) > 1 and node.output[-1] not in used:
                    del node.output[-1]
            node.domain = "" if node.domain == "ai.onnx" else node.domain
            node.name = _unique(node.name or f"{node.op_type}_{index}", taken)
            if node.op_type == "Constant" and not node.domain:
                self._constant_node(node)
                continue
            native = not node.domain and ((node.domain, node.op_type) in native_ops() or node.op_type in DEPRECATED)
            if not native:
                if node.op_type == "STFT" and not node.domain and all(a.name != "onesided" for a in node.attribute):
                    node.attribute.append(onnx.helper.make_attribute("onesided", 1))  # ONNX's default, which its inference forgets
                upgraded.append((node, {**self.opsets, node.domain: self.opsets.get(node.domain, LATEST)}))
                continue
            try:
                newer, version = self.upgrader.upgrade(node, self.opsets[""])
            except (IndexError, ValueError, TypeError) as error:
                raise InvalidModel("the node does not fit its operator", where=f"{node.op_type} '{node.name}'",
                                   found=f"{len(node.input)} input(s), {len(node.output)} output(s) ({error})",
                                   expected=f"those of opset {self.opsets['']}", hint="check the model with onnx.checker") from None
            except KeyError as error:
                raise InvalidModel(f"attribute {error} is missing", where=f"{node.op_type} '{node.name}'",
                                   expected=f"the attributes of opset {self.opsets['']}", hint="check the model with onnx.checker") from None
            upgraded += [(n, {**self.opsets, "": version}) for n in newer]
        for tensor in self.upgrader.constants:
            self.values[tensor.name] = constant(tensor.name, array_from_onnx(tensor))
        for node, _ in upgraded:
            for name in node.output:
                if name and name in self.values:
                    raise InvalidModel(f"two things are named '{name}'", where=f"{node.op_type} '{node.name}'",
                                       expected="every value to be made once (SSA)", hint="export the model again")
                if name:
                    self.values[name] = Value(name)
        return [self._node(n, opsets) for n, opsets in upgraded]

    def _constant_node(self, node: onnx.NodeProto) -> None:
        if len(node.output) != 1 or len(node.attribute) != 1:
            raise InvalidModel("a Constant has one attribute and one output", where=f"Constant '{node.name}'",
                               found=f"{len(node.attribute)} and {len(node.output)}", hint="export the model again")
        attribute = node.attribute[0]
        if attribute.name == "sparse_value":
            value = dense_from_sparse(attribute.sparse_tensor)
        elif attribute.name == "value":
            value = self._array(attribute.t)
        else:
            kind = np.float32 if "float" in attribute.name else np.int64 if "int" in attribute.name else object
            value = np.array(attribute_from_onnx(attribute), kind)
        if node.output[0] in self.values:
            raise InvalidModel(f"two things are named '{node.output[0]}'", where=f"Constant '{node.name}'", hint="export the model again")
        self.values[node.output[0]] = constant(node.output[0], value)

    def _node(self, node: onnx.NodeProto, opsets: Mapping[str, int]) -> Node:
        where = f"{node.op_type} '{node.name}'"
        captured = [n for g in subgraphs(node) for n in free_names(g)]
        captured = list(dict.fromkeys(captured))
        origin = OnnxNode(node, opsets, captured)
        inputs = [None if not n else self._value(n, where) for n in origin.input_names]
        outputs = [None if not n else self.values[n] for n in node.output]
        attributes = {a.name: attribute_from_onnx(a) for a in node.attribute if not a.HasField("g") and not a.graphs}
        return Node(node.op_type, tuple(inputs), tuple(outputs), attributes, node.name, node.domain, opsets.get(node.domain, LATEST), origin=origin)

    def _value(self, name: str, where: str) -> Value:
        if name not in self.values:
            raise InvalidModel(f"nothing makes the tensor '{name}'", where=where, expected="a graph input, an initializer or a node's output",
                               hint="the model's weights may be missing; export it again")
        return self.values[name]

    def _refuse_unsupported(self, nodes: Iterable[onnx.NodeProto]) -> None:
        missing: list[tuple[str, str]] = []
        native = native_ops()

        def visit(node: onnx.NodeProto) -> None:
            if not all(isinstance(text, str) for text in (node.op_type, node.domain, node.name)):  # protobuf hands out bytes
                raise InvalidModel("an operator's name is no text", where=self.where, found=repr(node.op_type)[:100], expected="UTF-8",
                                   hint="export or copy the model again")
            domain = "" if node.domain == "ai.onnx" else node.domain
            known = (domain, node.op_type) in native or (not domain and node.op_type in DEPRECATED | {"Constant"})
            if not known and not has_reference(domain, node.op_type, self.opsets.get(domain, LATEST)):
                missing.append((f"{domain}::{node.op_type}" if domain else node.op_type, node.name or (node.output[0] if node.output else "?")))
            for graph in subgraphs(node):
                for inner in graph.node:
                    visit(inner)

        for node in nodes:
            visit(node)
        if missing:
            raise UnsupportedOps(missing, where=self.where, supported=[op for domain, op in native if not domain])


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
