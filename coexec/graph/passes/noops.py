"""Nodes that return their input unchanged go."""

from __future__ import annotations

from ..ir import Graph, Node, Value
from ..rewrite import rewrite


def drop_noops(graph: Graph) -> Graph:
    """Without Identity, inference-time Dropout, and casts, reshapes, slices, transposes and pads that change nothing."""
    nodes: dict[Node, Node | None] = {}
    values: dict[Value, Value] = {}
    for node in graph.nodes:
        if _changes_nothing(node) and node.output not in graph.outputs:
            nodes[node], values[node.output] = None, node.inputs[0]
    return rewrite(graph, nodes=nodes, values=values) if nodes else graph


def _changes_nothing(node: Node) -> bool:
    if node.domain or not node.inputs or node.inputs[0] is None or node.residual or node.activation:
        return False
    x, y = node.inputs[0], node.output
    if y is None or any(v is not None for v in node.outputs[1:]):
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        training = node.operand(2)
        return training is None or (training.is_constant and not training.data.any())
    if not (x.type.is_static and x.type == y.type):
        return False
    if node.op_type in ("Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Concat"):
        return node.op_type != "Concat" or len(node.inputs) == 1
    if node.op_type == "Transpose":
        perm = node.attr("perm", tuple(reversed(range(len(x.shape)))))
        return tuple(perm) == tuple(range(len(x.shape)))
    if node.op_type == "Pad":
        pads = node.operand(1)
        return pads is not None and pads.is_constant and not pads.data.any()
    return False
