"""Which values the GPU's side of a chain may keep in images: CoDL's hybrid data types, as a pure function of graph and cuts.

A GPU reads images through its texture caches, which on some chips is faster than reading buffers; the CPU cannot address them. So an image
holds what one piece of the GPU wrote and only pieces of the GPU read. At the ends of such a run its pieces transform buffers to images and
images to buffers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..regions import Region
from .joins import joined
from .plan import Partition, pieces

GPU = "gpu"
#: Channels of a pixel: an image of a (batch, channel, height, width) region is ceil(channel / 4) * width wide and batch * height high.
PIXEL = 4
#: Operators of one tensor, element by element, that keep finite numbers finite: the lanes beyond the last channel hold such numbers.
UNARY = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Clip", "Silu"})
BINARY = frozenset({"Add", "Sub", "Mul"})
KINDS = ("conv", "pointwise", "depthwise", "pool", "elementwise")


def kind_of(node: Node) -> str | None:
    """Which of KINDS the node's image kernel is; None where it has none."""
    if not node.is_static or is_fallback(op_for(node)) or sum(v is not None for v in node.outputs) != 1:
        return None
    computed = [v for v in (*node.inputs, node.output) if v is not None and not v.is_constant]
    if any(v.dtype != np.float32 or len(v.shape) != 4 or not v.type.size for v in computed):
        return None
    if node.residual and (node.inputs[-1].is_constant or node.inputs[-1].shape != node.output.shape):
        return None
    return _kind(node, node.op_type, node.operands)


def _kind(node: Node, op: str, operands: Sequence[Value | None]) -> str | None:
    x = operands[0]
    if x is None or x.is_constant or (node.domain, op) not in {("", op), ("coexec", "Silu")}:
        return None
    if op == "Conv":
        if any(v is not None and not v.is_constant for v in operands[1:]):
            return None
        w = operands[1].shape
        if node.attr("group", 1) == 1:
            return "pointwise" if w[2:] == (1, 1) else "conv"
        return "depthwise" if w[1] == 1 and w[0] == x.shape[1] == node.attr("group") else None
    if op in ("MaxPool", "AveragePool"):
        return "pool"
    if op in UNARY:
        return "elementwise" if all(v is None or v.is_constant for v in operands[1:]) else None
    same = len(operands) == 2 and all(v is not None and not v.is_constant and v.shape == node.output.shape for v in operands)
    return "elementwise" if op in BINARY and same else None


def on_gpu(node: Node, partition: Partition) -> Region | None:
    """What the GPU makes of the node, where that is one piece; else None."""
    mine = [region for device, region in pieces(node, partition) if device == GPU]
    return mine[0] if len(mine) == 1 else None


def inside(graph: Graph, partitions: Sequence[Partition], names: Collection[str]) -> dict[Value, Region]:
    """The values that stay in images, with the region that the GPU writes, where the nodes `names` have image kernels.

    The partitions' halos must be those that count (`halos.keep_halos`).
    """
    by_name = {p.name: p for p in partitions}
    free, outputs, found = joined(graph), {*graph.outputs}, {}
    for node in graph.nodes:
        if node.name not in names or node in free or node.output in outputs:
            continue
        written = on_gpu(node, by_name[node.name])
        readers = graph.consumers.get(node.output, ())
        own = any(by_name[node.name].halo)  # the host has its own copy of those rows
        if written is not None and readers and all(_reads_so(r, by_name[r.name], node.output, written, own, names, free) for r in readers):
            found[node.output] = written
    return found


def _reads_so(reader: Node, partition: Partition, value: Value, written: Region, own: bool, names: Collection[str], free: frozenset[Node]) -> bool:
    """Whether its GPU piece reads that value from an image of `written`, all channels of it, and nobody else reads there."""
    op = op_for(reader)
    if reader in free or not reader.is_static or is_fallback(op) or op.is_view:
        return False
    for device, region in pieces(reader, partition):
        for read_value, read in zip(reader.inputs, op.regions_read(reader, region)):
            if read_value is not value or read is None:
                continue
            if device == GPU and (reader.name not in names or not written.covers(read) or tuple(read[:2]) != tuple(written[:2])):
                return False
            if device != GPU and not own and (read & written).size:
                return False
    return True


def runs(graph: Graph, partitions: Sequence[Partition]) -> tuple[tuple[str, ...], ...]:
    """The largest sets of nodes that could share images, each tied together by values that would stay in them; in the graph's order."""
    names = frozenset(n.name for n, p in zip(graph.nodes, partitions) if kind_of(n) and on_gpu(n, p) is not None)
    group = {name: {name} for name in names}
    for value in inside(graph, partitions, names):
        made = graph.producers[value].name
        for reader in graph.consumers[value]:
            if reader.name in names and group[reader.name] is not group[made]:
                group[made] |= group[reader.name]
                group.update(dict.fromkeys(group[made], group[made]))
    order = {node.name: at for at, node in enumerate(graph.nodes)}
    sets = {id(s): tuple(sorted(s, key=order.__getitem__)) for s in group.values() if len(s) > 1}
    return tuple(sorted(sets.values(), key=lambda s: order[s[0]]))


def transforms(node: Node, region: Region, kept: Mapping[Value, Region]) -> list[Region]:
    """The regions that the node's GPU piece transforms at its ends: operands that come from buffers, and an output that goes to one."""
    op = op_for(node)
    reads = [r for v, r in zip(node.inputs, op.regions_read(node, region)) if v is not None and not v.is_constant and v not in kept and r is not None]
    return reads + ([] if node.output in kept else [region])
