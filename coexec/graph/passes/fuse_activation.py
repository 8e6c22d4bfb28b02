"""An activation disappears into the operator before it."""

from __future__ import annotations

from dataclasses import replace

from ...ops import is_native
from ..ir import Activation, Graph, Node
from ..rewrite import rewrite, sole_consumer

#: Operators whose kernels apply an activation while the result is still in registers.
HOSTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "BatchNormalization", "InstanceNormalization")


def fuse_activations(graph: Graph) -> Graph:
    """activation(op(x)) becomes op with that activation."""
    nodes: dict[Node, Node | None] = {}
    for host in graph.nodes:
        if host in nodes or host.op_type not in HOSTS or host.domain or host.activation or not is_native(host) or host.output.dtype.kind != "f":
            continue
        tail = sole_consumer(graph, host.output)
        activation = None if tail is None or tail in nodes else activation_of(tail)
        if activation is not None:
            nodes[host], nodes[tail] = None, replace(host, outputs=(tail.output, *host.outputs[1:]), activation=activation)
    return rewrite(graph, nodes=nodes) if nodes else graph


def activation_of(node: Node) -> Activation | None:
    """The activation this node is, if fusion knows it."""
    if node.residual or node.activation or not node.is_static or node.output.dtype.kind != "f":
        return None
    if node.domain == "coexec" and node.op_type == "Silu":
        return Activation("Silu")
    if node.domain:
        return None
    match node.op_type:
        case "Relu" | "Sigmoid" | "Tanh" | "HardSwish":
            return Activation(node.op_type)
        case "LeakyRelu":
            return Activation("LeakyRelu", float(node.attr("alpha", 0.01)))
        case "HardSigmoid":
            return Activation("HardSigmoid", float(node.attr("alpha", 0.2)), float(node.attr("beta", 0.5)))
        case "Gelu":
            return Activation("Gelu") if node.attr("approximate", "none") == "none" else None
        case "Clip":
            low, high = node.operand(1), node.operand(2)
            if low is None or not low.is_constant or (high is not None and not high.is_constant):
                return None
            if high is None:
                return Activation("Relu") if float(low.data) == 0 else None
            return Activation("Clip", float(low.data), float(high.data))
    return None
