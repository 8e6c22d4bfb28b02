"""The one way a pass makes a new graph: replace nodes, redirect values, and sort again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .ir import Graph, Node, Value, sort_nodes


def rewrite(graph: Graph, *, nodes: Mapping[Node, Node | Iterable[Node] | None] | None = None,
            values: Mapping[Value, Value] | None = None) -> Graph:
    """The graph with some nodes replaced (None drops one) and every use of a value redirected (chains of redirections are followed).

    Values that a replaced node made before and that are still used must be made by its replacement, or be redirected.
    """
    nodes, values = nodes or {}, values or {}

    def now(value: Value | None) -> Value | None:
        while value in values:
            value = values[value]
        return value

    changed: list[Node] = []
    for old in graph.nodes:
        new = nodes.get(old, old)
        for node in [] if new is None else [new] if isinstance(new, Node) else new:
            inputs = tuple(now(v) for v in node.inputs)
            changed.append(node if inputs == node.inputs else node.with_values(inputs, node.outputs))
    ordered, cycle = sort_nodes(changed)
    if cycle:
        raise AssertionError(f"a pass made a cycle through {[n.name for n in cycle[:5]]}")
    return replace(graph, inputs=tuple(now(v) for v in graph.inputs), outputs=tuple(now(v) for v in graph.outputs), nodes=tuple(ordered))


def sole_consumer(graph: Graph, value: Value | None) -> Node | None:
    """The one node that reads a value once, if nobody else does and the graph does not return it."""
    if value is None or value in graph.outputs:
        return None
    readers = graph.consumers.get(value, ())
    if len(readers) != 1 or sum(v is value for v in readers[0].inputs) != 1:
        return None
    return readers[0]
