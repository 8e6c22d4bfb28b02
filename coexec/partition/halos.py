"""Halos: rows next to a cut that both sides compute, each for itself, so that what follows on one side never waits for the other.

Each side keeps its own copy of such a value (two writers of one place would disturb one another). So nobody may read across: a halo
counts only where every piece that reads the value finds all that it reads on its own side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..graph.ir import Graph, Node, Value
from ..ops import is_native, op_for
from ..ops.fallback import is_fallback
from ..regions import Region
from .joins import joined
from .plan import Partition, pieces

HOST = "cpu"


def keep_halos(graph: Graph, partitions: Sequence[Partition]) -> tuple[Partition, ...]:
    """The partitions with those halos that count; the others are 0, so that each row is computed once and waited for where it must be."""
    found = list(partitions)
    if not any(any(p.halo) for p in found):
        return tuple(found)
    free = joined(graph)
    outputs = {*graph.outputs}
    at = {node: i for i, node in enumerate(graph.nodes)}
    for i, node in reversed(list(enumerate(graph.nodes))):
        if any(found[i].halo) and not (_alone(node, outputs) and _covered(node, found, graph.consumers.get(node.output, ()), at, free)):
            found[i] = replace(found[i], halo=(0, 0))
    return tuple(found)


def _alone(node: Node, outputs: set[Value]) -> bool:
    """One output, which stays inside."""
    return is_native(node) and not op_for(node).is_view and sum(v is not None for v in node.outputs) == 1 and node.output not in outputs


def _covered(node: Node, partitions: Sequence[Partition], readers: Sequence[Node], at: Mapping[Node, int], free: frozenset[Node]) -> bool:
    own: dict[str, Region] = {}
    for device, region in pieces(node, partitions[at[node]]):
        if device in own:
            return False  # one side's rows would have a gap
        own[device] = region
    if len(own) < 2:
        return False
    for reader in readers:
        op = op_for(reader)
        if reader in free or is_fallback(op) or op.is_view:
            return False
        for device, region in pieces(reader, partitions[at[reader]]):
            for value, read in zip(reader.inputs, op.regions_read(reader, region)):
                if value is node.output and read is not None and not (device in own and own[device].covers(read)):
                    return False
    return True


@dataclass(frozen=True)
class Copies:
    """Where the GPU keeps its own copy of a value: `values` maps the value to the copy, `nodes` a node to the same node on copies."""

    values: Mapping[Value, Value]
    nodes: Mapping[Node, Node]

    def on(self, node: Node, device: str) -> Node:
        """The node as that device's pieces see it."""
        return node if device == HOST else self.nodes.get(node, node)


def copies(graph: Graph, partitions: Sequence[Partition]) -> Copies:
    """The copies of partitions whose halos count (`keep_halos`)."""
    values = {n.output: Value(f"{n.output.name}@gpu", n.output.type) for n, p in zip(graph.nodes, partitions) if any(p.halo)}
    touched = [n for n in graph.nodes if any(v in values for v in (*n.inputs, *n.outputs) if v is not None)] if values else []
    return Copies(values, {n: n.with_values(*([None if v is None else values.get(v, v) for v in vs] for vs in (n.inputs, n.outputs)))
                           for n in touched})
