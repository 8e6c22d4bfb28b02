"""A residual add disappears into the convolution or matrix product that made one of its sides."""

from __future__ import annotations

from dataclasses import replace

from ...ops import is_native
from ..ir import Graph, Node
from ..rewrite import rewrite, sole_consumer

HOSTS = ("Conv", "Gemm", "MatMul")


def fuse_residuals(graph: Graph) -> Graph:
    """Add(op(x), r) of equal shapes becomes op with r as its residual; of two possible hosts, the later one."""
    order = {n: i for i, n in enumerate(graph.nodes)}
    nodes: dict[Node, Node | None] = {}
    for add in graph.nodes:
        if add.op_type != "Add" or add.domain or len(add.inputs) != 2 or add.residual or add.activation or not add.is_static:
            continue
        hosts = [graph.producers[v] for v in add.inputs if v in graph.producers and sole_consumer(graph, v) is add]
        hosts = [h for h in hosts if h not in nodes and _may_host(h, add)]
        if not hosts:
            continue
        host = max(hosts, key=order.__getitem__)
        other = next(v for v in add.inputs if v is not host.output)
        if other.shape != add.output.shape or other.dtype != add.output.dtype:
            continue
        nodes[host], nodes[add] = None, replace(host, inputs=(*host.inputs, other), outputs=(add.output, *host.outputs[1:]), residual=True)
    return rewrite(graph, nodes=nodes) if nodes else graph


def _may_host(node: Node, add: Node) -> bool:
    return (node.op_type in HOSTS and not node.domain and not node.residual and node.activation is None and is_native(node)
            and node.output.shape == add.output.shape and node.output.dtype.kind == "f")
