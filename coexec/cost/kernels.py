"""Which kernel a piece runs by, and what that kernel spends its time on: the same decisions as the devices', from shapes alone.

Every rule returns a Case: the kernel's name, its features (counts of what it loops over; a fit gives each a time), and the sizes that
a fit's correction may depend on. A planner has no device, so the rules are written a second time here; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..graph.ir import Node
from . import cpu_kernels, gpu_kernels, shapes
from .cases import Case, K, M, beyond
from .geometry import Array, Facts, Plain, Products, Windowed, product_kind, window_kind
from .plain_kernels import plain, plain_name

#: Activations that a clamp computes for nothing, and those of a few multiplications; all others take tens of operations.
_FREE, _CHEAP = {"Relu", "Clip"}, {"LeakyRelu", "HardSigmoid", "HardSwish"}


#: Every answer of `bound_by`.
BOUNDS = ("compute", "memory")


def bound_by(kernel: str) -> str:
    """What a kernel's time is mostly spent on, `compute` or `memory`: what a busy neighbour slows down differs."""
    return "compute" if kernel.startswith(("conv/", "product/", "shape/")) and "depthwise" not in kernel else "memory"


#: Beginnings of kernels' names that do much the same by the same features, and so cost much the same.
_KIN = {"plain": ("plain/",), "rows": ("conv/depthwise_3", "conv/depthwise_5", "conv/depthwise_7", "pool/maxpool_2", "pool/maxpool_3"),
        "planes": ("conv/depthwise_planes", "pool/maxpool_planes", "pool/averagepool_planes"),
        "strips": ("pool/maxpool_strip", "pool/averagepool_strip", "conv/conv_depthwise", "conv/conv_depthwise_any")}


def kin(kernel: str) -> str:
    """The group of kernels that a kernel is like; its own name where it is like no other."""
    return next((group for group, names in _KIN.items() if kernel.startswith(names)), kernel)


Parts = Sequence[tuple[Array, Array]]


def cases(asked: Sequence[tuple[Node, Parts]], unit: str, facts: Facts) -> Iterator[Case]:
    """The kernels that pieces of native nodes run by on `cpu` or `gpu`; `at` counts all pieces, one node's after another's.

    Of each node: (starts, stops) of pieces, int64 (pieces, rank) each. Within a part, pieces differ along one axis and lie in order, so that
    what changes in proportion need not be computed for each. What nodes of one kind need is computed for all of them at once.
    """
    groups: dict[Any, list[tuple[int, Node, Parts]]] = {}
    begins = 0
    for node, parts in asked:
        count = sum(len(start) for start, _ in parts)
        if count:
            groups.setdefault(_kind(node, facts), []).append((begins, node, parts))
        begins += count
    for (name, *_), members in groups.items():
        found = _cases_of(name, [(node, parts) for _, node, parts in members], unit, facts)
        where = np.concatenate([np.arange(at, at + sum(len(start) for start, _ in parts)) for at, _, parts in members])
        for case in found:
            yield case._replace(at=where[case.at])


def _kind(node: Node, facts: Facts) -> tuple[Any, ...]:
    """How a node is computed, and all else that nodes must have in common to be computed at once; kept, where the board does not matter."""
    if facts.blocks and shapes.form_of(node) is not None:
        return "shape", shapes.form_of(node), len(node.output.shape)
    found = node.kept.get(_kind)
    if found is None:
        found = node.kept[_kind] = _own_kind(node)
    return found


def _own_kind(node: Node) -> tuple[Any, ...]:
    rank, kind = len(node.output.shape), node.op_type
    tail = node.residual, node.activation.kind if node.activation else None
    ordinary = all(v is None or v.dtype == np.float32 for v in (*node.inputs, *node.outputs)) and node.domain in ("", "coexec")
    weights = kind == "Conv" and node.inputs[1].is_constant and (node.operand(2) is None or node.operand(2).is_constant)
    if ordinary and weights and rank in (3, 4):
        return "conv", tail, *window_kind(node)
    if ordinary and kind in ("MaxPool", "AveragePool") and rank in (3, 4) and len([o for o in node.outputs if o is not None]) == 1:
        return "pool", tail, kind, *window_kind(node)
    if ordinary and kind in ("Gemm", "MatMul") and min(len(v.shape) for v in node.inputs[:2]) > 1:
        return "product", tail, *product_kind(node)
    return "plain", tail, kind, plain_name(node)


def _cases_of(name: str, asked: Sequence[tuple[Node, Parts]], unit: str, facts: Facts) -> Iterator[Case]:
    """`cases` of nodes of one kind."""
    node, joined = asked[0][0], [(n, *(np.concatenate([p[i] for p in parts]) if len(parts) > 1 else parts[0][i] for i in (0, 1)))
                                 for n, parts in asked]
    if name == "shape":
        told = shapes.Sizes.joined(shapes.sizes_of(*one) for one in joined)
        yield Case(shapes.form_of(node) or "", np.arange(len(told.form)), shapes.terms(told, dict(facts.blocks)), shapes.sizes(told))
        return
    rules, far, weights = cpu_kernels if unit == "cpu" else gpu_kernels, {}, 0.0
    if name == "conv":
        g = Windowed(joined)
        found = rules.conv(g, facts)
        size = g.n * g.oc * g.oh * g.ow
        flops, lines = size * (2.0 * g.icg * g.taps), g.n * g.oc
        moved = (g.n * g.groups * g.icg * g.ih * g.iw + size * (1 + node.residual)) * 4
        far = {"mb_beyond": beyond(moved, facts), "mb_far": beyond(moved, facts, 4)}  # activations that are in no cache of a core's own
        weights = g.oc * g.icg * g.taps * 4 * M
    elif name == "pool":
        g = Windowed(joined)
        found = rules.pool(g, facts, node.op_type)
        size = g.n * g.oc * g.oh * g.ow
        flops, lines = size * float(g.taps), g.n * g.oc
    elif name == "product":
        p = Products(joined)
        found = rules.product(p, facts)
        size = p.rows * p.columns * p.count
        flops, lines = size * (2.0 * p.depth), p.rows * p.count
        weights = (p.b_fixed * p.columns + p.a_fixed * p.rows) * p.depth * 4 * M
    else:
        p = Plain(asked)
        found = plain(p, facts, node, unit)
        # What is fused behind has features of its own, and a clamp costs nothing.
        size, flops, lines = p.elements, p.flops - p.elements * (node.residual + (node.activation is not None)), p.rows
    tail = {"mflop": flops * M, **far, **_tail(node, size, lines)}
    for case in found:
        every = len(case.at) == len(size)
        terms = {**(tail if every else {k: v[case.at] for k, v in tail.items()}), **case.terms}
        mine = terms.get("mb_cold", np.broadcast_to(weights, len(size))[case.at])  # as they are packed, where a rule tells
        yield case._replace(terms=terms, far_mb=mine + terms.get("mb_far", 0.0))


def _tail(node: Node, size: Array, lines: Array) -> dict[str, Array]:
    found = {}
    kind = node.activation.kind if node.activation else None
    if node.residual:
        found["residual_melem"] = size * M
    if kind in _CHEAP:
        found |= {"cheap_melem": size * M, "cheap_lines_k": lines * K}
    elif kind is not None and kind not in _FREE:
        found |= {"slow_melem": size * M, "slow_lines_k": lines * K, f"{kind.lower()}_melem": size * M}  # what one needs beyond the quickest of them
    return found
