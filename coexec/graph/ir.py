"""Graph, Node, Value, TensorType: the model in ONNX terms, immutable and printable.

A pass never changes a graph; it builds a new one. Values compare by identity, nodes and graphs too.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

Dim = int | str | None


@dataclass(frozen=True)
class TensorType:
    """Element type and shape. A dimension is an int, a symbol's name, or None (unknown); a shape of None has unknown rank.

    `dtype` is None for what is no tensor (sequences, optionals) and `object` for strings.
    """

    dtype: np.dtype | None
    shape: tuple[Dim, ...] | None

    @cached_property
    def is_static(self) -> bool:
        """True where memory for it can be planned: a fixed-size element type and every dimension known."""
        return self.dtype is not None and self.dtype != object and self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @cached_property
    def size(self) -> int:
        """Number of elements; only for static types."""
        return prod(self.shape) if self.shape else 1

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        kind = "opaque" if self.dtype is None else "string" if self.dtype == object else self.dtype.name
        shape = "?" if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        return f"{kind}[{shape}]"


UNKNOWN = TensorType(None, None)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor by name. `data` holds it where it is constant (C-contiguous, never written to)."""

    name: str
    type: TensorType = UNKNOWN
    data: np.ndarray | None = field(default=None, repr=False)

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a static value."""
        return self.type.shape  # type: ignore[return-value]

    @property
    def dtype(self) -> np.dtype:
        return self.type.dtype  # type: ignore[return-value]

    def __str__(self) -> str:
        return f"%{self.name}:{self.type}" + (" const" if self.is_constant else "")


def constant(name: str, data: np.ndarray) -> Value:
    """A constant value of that array."""
    data = np.asarray(data)
    if not data.flags.c_contiguous:
        data = np.ascontiguousarray(data).reshape(data.shape)
    return Value(name, TensorType(data.dtype, data.shape), data)


@dataclass(frozen=True)
class Activation:
    """An elementwise function fused into the operator before it; `alpha` and `beta` as in ONNX's operator of that name.

    kind: Relu, LeakyRelu, Clip (alpha = min, beta = max), Sigmoid, Tanh, HardSigmoid, HardSwish, Silu (x * sigmoid(x)),
    Gelu (exact, by erf).
    """

    kind: str
    alpha: float = 0.0
    beta: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}({self.alpha:g}, {self.beta:g})" if self.alpha or self.beta else self.kind


@dataclass(frozen=True, eq=False)
class Node:
    """One operator. `inputs` holds None where an optional input is absent, `outputs` None where an optional output is.

    Fusion adds two things that ONNX does not have. `residual`: the last input is a tensor of the output's shape, added to
    the operator's first output; then `activation` is applied to it. A MatMul may also carry a bias as its third input.
    `origin` is what an operator outside the fast set is computed by: an object with `evaluate(list of arrays) -> list`.
    """

    op_type: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = ""
    version: int = 0
    residual: bool = False
    activation: Activation | None = None
    origin: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]  # type: ignore[return-value]

    @cached_property
    def operands(self) -> tuple[Value | None, ...]:
        """The inputs of the operator itself, without a fused residual."""
        return self.inputs[:-1] if self.residual else self.inputs

    def operand(self, index: int) -> Value | None:
        """That operand, or None where it is absent."""
        return self.operands[index] if index < len(self.operands) else None

    def attr(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    @cached_property
    def is_static(self) -> bool:
        """True where every input and output has a static type, so that memory and cuts can be planned."""
        return all(v.type.is_static for v in (*self.inputs, *self.outputs) if v is not None)

    @property
    def qualified_type(self) -> str:
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What others work out about this node once and for all, by keys of their own: it never changes."""
        return {}

    def with_values(self, inputs: Iterable[Value | None], outputs: Iterable[Value | None]) -> Node:
        """The same operator on other values."""
        return replace(self, inputs=tuple(inputs), outputs=tuple(outputs))

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={_short(v)}" for k, v in sorted(self.attributes.items()))
        fused = (" +residual" if self.residual else "") + (f" +{self.activation}" if self.activation else "")
        outs = ", ".join("_" if v is None else str(v) for v in self.outputs)
        ins = ", ".join("_" if v is None else f"%{v.name}" for v in self.inputs)
        return f"{outs} = {self.qualified_type}({ins}){' {' + shown + '}' if shown else ''}{fused}  # {self.name}"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order, with the values that come in and go out. `str(graph)` prints it whole."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    opset: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """Which node makes a value; constants and graph inputs have none."""
        return {v: n for n in self.nodes for v in n.outputs if v is not None}

    @cached_property
    def consumers(self) -> Mapping[Value, tuple[Node, ...]]:
        """Which nodes read a value, each once; graph outputs are not counted."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(v for v in node.inputs if v is not None):
                found.setdefault(value, []).append(node)
        return {v: tuple(ns) for v, ns in found.items()}

    @cached_property
    def constants(self) -> tuple[Value, ...]:
        """Every constant some node or output uses."""
        used = [v for n in self.nodes for v in n.inputs if v is not None and v.is_constant]
        return tuple(dict.fromkeys(used + [v for v in self.outputs if v.is_constant]))

    @cached_property
    def is_static(self) -> bool:
        return all(v.type.is_static for v in self.inputs)

    @cached_property
    def digest(self) -> str:
        """A hash of structure, node names, types and attributes (not of weights or the file's name): what a plan is made for."""
        return hashlib.sha256(str(replace(self, name="")).encode()).hexdigest()[:16]

    def node(self, name: str) -> Node:
        """The node of that name; KeyError where there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Node]:
        return {n.name: n for n in self.nodes}

    def __str__(self) -> str:
        lines = [f"graph {self.name} (opset {self.opset}) {{"]
        lines += [f"  input {v}" for v in self.inputs]
        lines += [f"  {n}" for n in self.nodes]
        lines += [f"  output {v}" for v in self.outputs]
        return "\n".join([*lines, "}"])


def sort_nodes(nodes: Iterable[Node]) -> tuple[list[Node], list[Node]]:
    """Nodes in topological order, stable, and those left over because they lie on a cycle."""
    nodes = list(nodes)
    producer = {v: n for n in nodes for v in n.outputs if v is not None}
    waits = {n: {producer[v] for v in n.inputs if v is not None and v in producer} for n in nodes}
    readers: dict[Node, list[Node]] = {}
    for node, needed in waits.items():
        for other in needed:
            readers.setdefault(other, []).append(node)
    order = {n: i for i, n in enumerate(nodes)}


    ready = [order[n] for n in nodes if not waits[n]]
    heapq.heapify(ready)
    done: list[Node] = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        done.append(node)
        for reader in readers.get(node, ()):
            waits[reader].discard(node)
            if not waits[reader]:
                heapq.heappush(ready, order[reader])
    placed = set(done)
    return done, [n for n in nodes if n not in placed]
