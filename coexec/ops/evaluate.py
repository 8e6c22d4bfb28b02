"""The reference for whole graphs: every node computed whole, one after the other, by its NumPy meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..graph.ir import Graph, Value
from .base import op_for


def evaluate(graph: Graph, feeds: Mapping[str, Any], progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """The graph's outputs by name. A tensor is dropped as soon as its last reader has run; `progress` is told (done, of, node) before each."""
    last = {v: node for node in graph.nodes for v in node.inputs if v is not None}
    kept = set(graph.outputs)
    found: dict[Value, Any] = {v: feeds[v.name] for v in graph.inputs}
    for done, node in enumerate(graph.nodes):
        if progress is not None:
            progress(done, len(graph.nodes), f"reference, {node.name}")
        inputs = [None if v is None else v.data if v.is_constant else found[v] for v in node.inputs]
        results = op_for(node).run_whole(node, inputs)
        found.update((v, r) for v, r in zip(node.outputs, results) if v is not None)
        for value in node.inputs:
            if value is not None and last.get(value) is node and value not in kept:
                found.pop(value, None)
    return {v.name: v.data if v.is_constant else found[v] for v in graph.outputs}
