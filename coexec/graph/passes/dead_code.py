"""Nodes whose results nobody uses go."""

from __future__ import annotations

from dataclasses import replace

from ..ir import Graph, Node, Value


def drop_dead_code(graph: Graph) -> Graph:
    """The graph without nodes that no output needs."""
    needed: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not any(v in needed for v in node.outputs if v is not None):
            continue
        kept.append(node)
        needed.update(v for v in node.inputs if v is not None)
    if len(kept) == len(graph.nodes):
        return graph
    return replace(graph, nodes=tuple(reversed(kept)))
