"""Features of many pieces at once are those of each piece, to the last bit: a plan must not depend on how it was priced."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.cost.compose import CostModel
from coexec.cost.features import features, features_of
from coexec.cost.geometry import bounds
from coexec.graph.ir import Activation, Graph, Node, TensorType, Value
from coexec.ops import op_for
from coexec.ops.base import pieces_along
from coexec.partition.chains import access
from coexec.profiling.sampler import SHAPES, draw
from coexec.regions import Region
from tests.partition.boards import board

RNG = np.random.default_rng(3)


def pieces_of(node: Node) -> list[Region]:
    """The whole, and both sides of some legal cuts of every axis."""
    found = [Region.whole(node.output.shape)]
    for axis in op_for(node).split_axes(node):
        for at in RNG.integers(1, -(-axis.extent // axis.multiple), 3) if axis.extent > axis.multiple else ():
            found += pieces_along(node, axis, (0, int(at) * axis.multiple, axis.extent))
    return [r for r in found if r.size]


def check(node: Node) -> None:
    regions = pieces_of(node)
    found = features_of(node, *bounds(regions, len(node.output.shape)))
    assert np.array_equal(found, np.stack([features(node, r) for r in regions]))


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_features_of_samples(family: str):
    for _ in range(6):
        check(draw(family, RNG, (30.0, 2.0, 1 << 20)).node)


def value(name: str, *shape: int, constant: bool = False) -> Value:
    kind = TensorType(np.dtype(np.float32), shape)
    return Value(name, kind, np.zeros(shape, np.float32) if constant else None)


def test_features_of_padding_cropping_fused_and_grouped_windows():
    w, b = value("w", 8, 2, 3, 3, constant=True), value("b", 8, constant=True)
    conv = Node("Conv", (value("x", 2, 4, 9, 7), w, b, value("r", 2, 8, 13, 3)), (value("y", 2, 8, 13, 3),),
                {"group": 2, "pads": [4, 1, 4, 0], "strides": [1, 2], "dilations": [2, 2]}, "c", residual=True, activation=Activation("Relu"))
    check(conv)
    check(Node("MaxPool", (value("x", 1, 3, 6, 6),), (value("y", 1, 3, 5, 5),), {"kernel_shape": [2, 2], "pads": [2, 2, 0, 0], "strides": [2, 2]},
               "p"))
    check(Node("Concat", (value("a", 1, 3, 4), value("c", 1, 5, 4)), (value("y", 1, 8, 4),), {"axis": 1}, "k"))
    check(Node("Transpose", (value("a", 3, 4, 5),), (value("y", 5, 3, 4),), {"perm": (2, 0, 1)}, "t"))


def test_nodes_of_one_kind_share_what_they_read_but_not_whose():
    cost = CostModel(board())
    x, y, z = (value(n, 1, 8, 4) for n in "xyz")
    outs = [value(f"o{i}", 1, 16, 4) for i in range(3)]
    nodes = [Node("Concat", inputs, (out,), {"axis": 1}, out.name) for inputs, out in zip(((x, x), (x, y), (y, z)), outs)]
    graph = Graph("g", (x, y, z), tuple(outs), tuple(nodes))
    for node in graph.nodes:
        for a, b in ((0, 16), (0, 8), (8, 16), (3, 12)):
            region = Region([(0, 1), (a, b), (0, 4)])
            assert cost.access(node, region) == access(node, region)
