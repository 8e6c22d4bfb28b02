"""An If whose condition is known is the branch that it takes: exporters write one wherever a shape may have an axis or not."""

from __future__ import annotations

from ...errors import InvalidModel
from ..ir import Graph, Node, Value
from ..onnx_import import branch
from ..onnx_semantics import OnnxNode, identity
from ..rewrite import rewrite


def inline_ifs(graph: Graph) -> Graph:
    """Every If whose condition is constant replaced by the nodes of its branch; the same graph where there is none."""
    nodes: dict[Node, list[Node]] = {}
    values: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op_type != "If" or node.domain or not isinstance(node.origin, OnnxNode) or not _is_known(node.inputs[0]):
            continue
        try:
            inner, results = branch(node, "then_branch" if node.inputs[0].data.reshape(()) else "else_branch")
        except (InvalidModel, StopIteration):  # who computes it will say what is wrong with it
            continue
        nodes[node] = inner
        for old, new in zip(node.outputs, results):
            if old in graph.outputs:  # whose names are the caller's
                inner.append(identity(new, Value(old.name, old.type), f"{node.name}/{old.name}", node.origin.opsets))
                new = inner[-1].output
            if old is not None:
                values[old] = new
    return rewrite(graph, nodes=nodes, values=values) if nodes else graph


def _is_known(condition: Value | None) -> bool:
    return condition is not None and condition.is_constant and condition.data.size == 1
