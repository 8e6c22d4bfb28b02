"""What is drawn to be timed: its row says enough to make it again, and kernels that differ have names that do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coexec.cost.plain_kernels import plain_name
from coexec.graph.ir import Node, TensorType, Value, constant
from coexec.profiling.sampler import _ROWS, SMALL, draw
from coexec.profiling.table import describe, piece_of, tail_text, whole_of_piece
from coexec.regions import Region

FLOATS = np.dtype(np.float32)


@pytest.mark.parametrize("family", _ROWS)
def test_a_row_says_enough_to_make_its_piece_again(family):
    rng = np.random.default_rng(0)
    for _ in range(40):
        drawn = draw(family, rng, SMALL)
        if drawn.node.op_type == "Concat" and drawn.region != Region.whole(drawn.node.output.shape):
            continue  # of which inputs a piece has something, its sizes do not say
        row = replace(drawn.row, implementation="f32_any" + tail_text(drawn.node), **describe(drawn.node, drawn.region),
                      **whole_of_piece(drawn.node, drawn.region))
        node, region = piece_of(row)
        assert describe(node, region) == describe(drawn.node, drawn.region) and tail_text(node) == tail_text(drawn.node)
        assert plain_name(node) == plain_name(drawn.node) and [v and v.dtype for v in node.inputs] == [v and v.dtype for v in drawn.node.inputs]


@pytest.mark.parametrize("second, name", [((1, 8, 4, 6), "plain/add"), ((), "plain/add_scalar"), ((1, 1), "plain/add_scalar"),
                                          ((6,), "plain/add_row"), ((1, 1, 1, 6), "plain/add_row"), ((8, 1, 1), "plain/add_broadcast"),
                                          ((4, 6), "plain/add_broadcast")])
def test_how_an_operand_is_repeated_is_told(second, name):
    node = Node("Add", (Value("x", TensorType(FLOATS, (1, 8, 4, 6))), Value("b", TensorType(FLOATS, second))),
                (Value("y", TensorType(FLOATS, (1, 8, 4, 6))),))
    assert plain_name(node) == name and tail_text(node) == name.removeprefix("plain/add").replace("_", "+")


def test_a_lookup_by_a_known_number_is_a_kernel_of_its_own():
    def gather(index: Value) -> str:
        return plain_name(Node("Gather", (Value("x", TensorType(FLOATS, (9, 4))), index), (Value("y", TensorType(FLOATS, (1, 4))),), {"axis": 0}))

    assert gather(constant("i", np.zeros(1, np.int64))) == "plain/gather_one"
    assert gather(Value("i", TensorType(np.dtype(np.int64), (1,)))) == gather(constant("i", np.zeros(2, np.int64))) == "plain/gather"
