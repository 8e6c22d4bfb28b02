"""Concatenations that cost nothing: each input is written straight into its place in the output's memory."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ..graph.ir import Graph, Node, Value
from ..ops import is_native, op_for
from ..regions import Interval, Region


def joined(graph: Graph) -> frozenset[Node]:
    """The Concat nodes that need no work: every input lies side by side in the output (nothing but extents of 1 before the axis),
    is made by a node of this graph, and is part of no other such output.
    """
    taken: set[Value] = set()
    found: set[Node] = set()
    views = {n.output for n in graph.nodes if op_for(n).is_view}
    for node in graph.nodes:
        if node.op_type != "Concat" or node.domain or not is_native(node) or node.residual or node.activation:
            continue
        axis = node.attr("axis") % len(node.output.shape)
        inputs = [v for v in node.inputs if v is not None]
        fits = (prod(node.output.shape[:axis]) == 1 and len(set(inputs)) == len(node.inputs)
                and all(v in graph.producers and v not in views and v not in taken and v.type.is_static for v in inputs))
        if fits:
            taken.update(inputs)
            found.add(node)
    return frozenset(found)


def places(node: Node) -> Mapping[Value, Region]:
    """Where in a joined Concat's output each input lies."""
    axis = node.attr("axis") % len(node.output.shape)
    whole, at, found = Region.whole(node.output.shape), 0, {}
    for value in node.inputs:
        found[value] = whole.replace(axis, (at, at + value.shape[axis]))
        at += value.shape[axis]
    return found


def shifted(region: Region, place: Region) -> Region:
    """A region of an input in the output's coordinates."""
    return Region([Interval(r.start + p.start, r.stop + p.start) for r, p in zip(region, place)])
