"""Batch normalisation, bias, and scaling by constants disappear into the weights of the operator before them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...ops import is_native
from ..ir import Graph, Node, Value, constant
from ..rewrite import rewrite, sole_consumer

#: Operators with weights as the second input and an optional bias as the third.
HOSTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def fuse_affine(graph: Graph) -> Graph:
    """y = scale * op(x) + shift, per output channel, becomes op with other weights. Exact but for rounding."""
    while True:
        changed = _fuse_once(graph)
        if changed is graph:
            return graph
        graph = changed


def _fuse_once(graph: Graph) -> Graph:
    nodes: dict[Node, Node | None] = {}
    for host in graph.nodes:
        if host in nodes or not _may_host(host):
            continue
        tail = sole_consumer(graph, host.output)
        if tail is None or tail in nodes or tail.domain or tail.residual or tail.activation or not tail.is_static:
            continue
        affine = _affine_of(tail, host.output)
        fused = None if affine is None else _apply(host, tail.output, *affine)
        if fused is not None:
            nodes[host], nodes[tail] = None, fused
    return rewrite(graph, nodes=nodes) if nodes else graph


def _may_host(node: Node) -> bool:
    if node.op_type not in HOSTS or node.domain or node.residual or node.activation or not is_native(node):
        return False
    if node.output.dtype.kind != "f" or len(node.output.shape) < 2:
        return False
    weights, bias = node.operand(1), node.operand(2)
    if bias is not None and not bias.is_constant:
        return False
    if node.op_type == "MatMul":
        return weights is not None and weights.is_constant and len(weights.shape) >= 2
    return weights is not None and weights.is_constant


def _affine_of(tail: Node, x: Value) -> tuple[np.ndarray | float, np.ndarray | float] | None:
    """(scale, shift), each broadcastable to the output, where the tail is an affine function of x by constants."""
    if tail.op_type == "BatchNormalization":
        parameters = tail.inputs[1:5]
        if any(v is None or not v.is_constant for v in parameters) or any(v is not None for v in tail.outputs[1:]) or tail.attr("training_mode", 0):
            return None
        gamma, beta, mean, variance = (v.data.astype(np.float64) for v in parameters)
        scale = gamma / np.sqrt(variance + tail.attr("epsilon", 1e-5))
        shape = (-1,) + (1,) * (len(x.shape) - 2)
        return scale.reshape(shape), (beta - mean * scale).reshape(shape)
    if tail.op_type not in ("Add", "Sub", "Mul", "Div") or len(tail.inputs) != 2 or tail.output.shape != x.shape:
        return None
    left, right = tail.inputs
    other = right if left is x else left
    if other is None or not other.is_constant or other.dtype != x.dtype:
        return None
    c = other.data.astype(np.float64)
    if tail.op_type == "Add":
        return 1.0, c
    if tail.op_type == "Mul":
        return c, 0.0
    if tail.op_type == "Sub":
        return (1.0, -c) if left is x else (-1.0, c)
    return (1.0 / c, 0.0) if left is x and np.all(c != 0) else None


def _per_channel(values: np.ndarray | float, node: Node) -> np.ndarray | None:
    """One number per output channel (the last axis for MatMul and Gemm), or None where it varies along another axis."""
    rank, dim = len(node.output.shape), _channel_dim(node)
    array = np.asarray(values, np.float64)
    array = array.reshape((1,) * (rank - array.ndim) + array.shape) if array.ndim <= rank else array
    if array.ndim != rank or any(n != 1 for d, n in enumerate(array.shape) if d != dim):
        return None
    return np.broadcast_to(array.ravel(), (node.output.shape[dim],))


def _channel_dim(node: Node) -> int:
    return 1 if node.op_type in ("Conv", "ConvTranspose") else len(node.output.shape) - 1


def _apply(host: Node, output: Value, scale: np.ndarray | float, shift: np.ndarray | float) -> Node | None:
    by_channel, offset = _per_channel(scale, host), _per_channel(shift, host)
    if by_channel is None or offset is None:
        return None
    weights, bias = host.operand(1), host.operand(2)
    dtype = weights.dtype
    old_bias = 0.0
    if bias is not None:
        beta = host.attr("beta", 1.0) if host.op_type == "Gemm" else 1.0
        spread = _per_channel(bias.data, host) if host.op_type in ("Gemm", "MatMul") else bias.data.astype(np.float64)
        if spread is None:
            return None
        old_bias = beta * spread
    inputs = [host.operand(0), weights if np.all(by_channel == 1) else constant(weights.name, _scaled(host, by_channel)),
              constant(f"{host.name}/bias", (old_bias * by_channel + offset).astype(dtype))]
    attributes = {**host.attributes, "beta": 1.0} if host.op_type == "Gemm" else host.attributes
    return replace(host, inputs=tuple(inputs), outputs=(output, *host.outputs[1:]), attributes=attributes)


def _scaled(host: Node, scale: np.ndarray) -> np.ndarray:
    weights = host.operand(1).data
    if host.op_type == "Conv":
        return _times(weights, scale.reshape((-1,) + (1,) * (weights.ndim - 1)))
    if host.op_type == "ConvTranspose":  # [IC, OC / group, ...]: each group of input channels makes its own output channels
        group = host.attr("group", 1)
        grouped = weights.reshape((group, weights.shape[0] // group, *weights.shape[1:]))
        return _times(grouped, scale.reshape((group, 1, -1) + (1,) * (weights.ndim - 2))).reshape(weights.shape)
    if host.op_type == "Gemm" and host.attr("transB", 0):
        return _times(weights, scale[:, None])
    return _times(weights, scale)


def _times(weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The product in float64, rounded to the weights' type a block at a time: large weights are not held twice."""
    return np.multiply(weights, scale, out=np.empty(weights.shape, weights.dtype), casting="same_kind")
