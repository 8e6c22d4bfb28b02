"""Activations that exporters wrote out as several nodes become one: HardSwish, Silu, Gelu."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...ops import is_native
from ..ir import Graph, Node, Value
from ..rewrite import rewrite, sole_consumer


def fuse_patterns(graph: Graph) -> Graph:
    """Each pattern is matched from its last node backwards; nodes in between must have no other reader."""
    for match in PATTERNS:
        nodes: dict[Node, Node | None] = {}
        for node in graph.nodes:
            found = match(graph, node)
            if found is not None and is_native(found[0]) and not any(n in nodes for n in found[1]):
                nodes.update(dict.fromkeys(found[1]))
                nodes[node] = found[0]
        if nodes:
            graph = rewrite(graph, nodes=nodes)
    return graph


Match = tuple[Node, list[Node]]


def _is(node: Node | None, *op_types: str) -> bool:
    return (node is not None and node.op_type in op_types and not node.domain and node.is_static and not node.residual
            and node.activation is None and node.output.dtype.kind == "f")


def _made_by(graph: Graph, value: Value | None, reader: Node, *op_types: str) -> Node | None:
    """The node that makes the value for this reader alone, if it is of one of the types."""
    node = graph.producers.get(value) if value is not None else None
    return node if _is(node, *op_types) and sole_consumer(graph, value) is reader else None


def _scalar(value: Value | None) -> float | None:
    return float(value.data.reshape(())) if value is not None and value.is_constant and value.data.size == 1 else None


def _by_scalar(node: Node) -> tuple[Value, float] | None:
    """(x, c) where the node combines x with the constant scalar c, in either order, and x has the output's shape."""
    for x, c in (node.inputs[:2], node.inputs[1::-1]):
        number = _scalar(c)
        if number is not None and x is not None and x.shape == node.output.shape:
            return x, number
    return None


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4)


def _activation(node: Node, op_type: str, x: Value, domain: str = "") -> Node:
    return Node(op_type, (x,), (node.output,), {}, node.name, domain, node.version)


def _times_gate(graph: Graph, node: Node) -> Match | None:
    """x * Sigmoid(x) and x * HardSigmoid(x, 1/6, 1/2)."""
    if not _is(node, "Mul"):
        return None
    for x, gate in (node.inputs[:2], node.inputs[1::-1]):
        maker = _made_by(graph, gate, node, "Sigmoid", "HardSigmoid")
        if maker is None or maker.inputs[0] is not x:
            continue
        if maker.op_type == "Sigmoid":
            return _activation(node, "Silu", x, "coexec"), [maker]
        if _near(maker.attr("alpha", 0.2), 1 / 6) and _near(maker.attr("beta", 0.5), 0.5):
            return _activation(node, "HardSwish", x), [maker]
    return None


def _relu6_gate(graph: Graph, node: Node) -> Match | None:
    """x * Clip(x + 3, 0, 6) / 6, with the division before or after the product."""
    if not _is(node, "Div", "Mul"):
        return None
    outer = _by_scalar(node)
    if (outer is not None and _near(outer[1], 6 if node.op_type == "Div" else 1 / 6)
            and (node.op_type == "Mul" or _scalar(node.inputs[1]) is not None)):
        product = _made_by(graph, outer[0], node, "Mul")
        found = None if product is None else _shifted_clip(graph, product, product.inputs)
        return None if found is None else (_activation(node, "HardSwish", found[0]), [product, *found[1]])
    if node.op_type == "Mul":
        for x, gate in (node.inputs[:2], node.inputs[1::-1]):
            scaled = _made_by(graph, gate, node, "Div", "Mul")
            inner = None if scaled is None else _by_scalar(scaled)
            if inner is None or not _near(inner[1], 6 if scaled.op_type == "Div" else 1 / 6):
                continue
            found = _shifted_clip(graph, scaled, (x, inner[0]))
            if found is not None:
                return _activation(node, "HardSwish", found[0]), [scaled, *found[1]]
    return None


def _shifted_clip(graph: Graph, reader: Node, pair: tuple[Value | None, ...]) -> tuple[Value, list[Node]] | None:
    for x, gate in (pair[:2], pair[1::-1]):
        clip = _made_by(graph, gate, reader, "Clip")
        if clip is None or _scalar(clip.operand(1)) != 0 or _scalar(clip.operand(2)) != 6:
            continue
        plus = _made_by(graph, clip.inputs[0], clip, "Add")
        shifted = None if plus is None else _by_scalar(plus)
        if shifted is not None and shifted[0] is x and shifted[1] == 3:
            return x, [clip, plus]
    return None


def _erf_gelu(graph: Graph, node: Node) -> Match | None:
    """0.5 * x * (1 + erf(x / sqrt 2)), however the three factors are associated."""
    if not _is(node, "Mul"):
        return None
    factors, inner = _factors(graph, node)
    if len(factors) != 3:
        return None
    half = [f for f in factors if _scalar(f) is not None and _near(_scalar(f), 0.5)]
    gates = [(f, _erf_gate(graph, f)) for f in factors if f not in half]
    gate = next(((f, g) for f, g in gates if g is not None), None)
    if len(half) != 1 or gate is None:
        return None
    x = next((f for f in factors if f is not half[0] and f is not gate[0]), None)
    if x is None or x is not gate[1][0] or x.shape != node.output.shape:
        return None
    return _activation(node, "Gelu", x), [*inner, *gate[1][1]]


def _factors(graph: Graph, node: Node) -> tuple[list[Value], list[Node]]:
    """The three factors of a product of products, and the inner product."""
    for a, b in (node.inputs[:2], node.inputs[1::-1]):
        inner = _made_by(graph, a, node, "Mul")
        if inner is not None:
            return [*inner.inputs[:2], b], [inner]
    return [], []


def _erf_gate(graph: Graph, value: Value) -> tuple[Value, list[Node]] | None:
    plus = graph.producers.get(value)
    one = _by_scalar(plus) if _is(plus, "Add") and len(graph.consumers.get(value, ())) == 1 else None
    if one is None or one[1] != 1:
        return None
    erf = _made_by(graph, one[0], plus, "Erf")
    scaled = None if erf is None else _made_by(graph, erf.inputs[0], erf, "Div", "Mul")
    inner = None if scaled is None else _by_scalar(scaled)
    if inner is None or not _near(inner[1], math.sqrt(2) if scaled.op_type == "Div" else math.sqrt(0.5)):
        return None
    return inner[0], [plus, erf, scaled]


PATTERNS: tuple[Callable[[Graph, Node], Match | None], ...] = (_times_gate, _relu6_gate, _erf_gelu)
