"""The CPU's other kernels: what every driver is tried with, and numbers and vectors, of which NumPy makes copies where it makes views of matrices."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.devices.cpu import CpuDevice
from coexec.ops import op_for
from coexec.ops.fallback import is_fallback
from tests.ops.law import Const, make_node

from .driver_subset import cases
from .harness import assert_on_device

CPU = CpuDevice()


def some(dtype, *shape):
    """Numbers from 1 to 9 of that shape."""
    return np.random.default_rng(len(shape)).integers(1, 10, shape).astype(dtype)


SUBSET = [(op, inputs, attributes) for op, inputs, attributes in cases(np.random.default_rng(0))
          if op != "Dropout" and not (attributes or {}).get("training_mode")]


@pytest.mark.parametrize("op_type, inputs, attributes", SUBSET, ids=[f"{op}-{i}" for i, (op, _, _) in enumerate(SUBSET)])
def test_what_every_driver_is_tried_with(op_type, inputs, attributes):
    node, arrays = make_node(op_type, inputs, attributes)
    assert not is_fallback(op_for(node))
    assert_on_device(CPU, node, arrays, ulps=2048)


@pytest.mark.parametrize("dtype", ["float32", "int64", "float64"])
@pytest.mark.parametrize("shape, axis", [((7,), 0), ((5, 3), 0), ((5, 3), 1), ((2, 5, 3), 1)])
@pytest.mark.parametrize("index", [np.array(2), np.array(-1), np.array([1]), np.array([[-2]]), np.array([0, 2, -1])], ids=str)
@pytest.mark.parametrize("is_constant", [True, False])
def test_gather(dtype, shape, axis, index, is_constant):
    assert_on_device(CPU, *make_node("Gather", [some(dtype, *shape), Const(index) if is_constant else index], {"axis": axis}))


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 1), (1, 5), (4, 1)])
def test_small_ranks(shape):
    x, rank = some("float32", *shape), len(shape)
    tried = [("Relu", [x], {}), ("Sigmoid", [x], {}), ("Exp", [x], {}), ("Add", [x, some("float32")], {}), ("Mul", [some("float32"), x], {}),
             ("Div", [x, Const(np.float32(4))], {}), ("Pow", [x, Const(np.float32(2))], {}), ("Equal", [some("int64", *shape), np.array(3)], {}),
             ("Cast", [some("int64", *shape)], {"to": 1}), ("Cast", [some("bool", *shape)], {"to": 1}), ("Transpose", [x], {}),
             ("ReduceSum", [x], {"keepdims": 0}), ("ReduceMean", [x], {"keepdims": 1}),
             ("Clip", [x, Const(np.float32(2)), np.float32(5).reshape(())], {})]
    if rank:
        tried += [("Concat", [x, x], {"axis": 0}), ("Softmax", [x], {"axis": -1}), ("Pad", [x, Const(np.array([1] * 2 * rank))], {}),
                  ("Slice", [x, Const(np.zeros(1, np.int64)), Const(np.ones(1, np.int64))], {}), ("Expand", [x, Const(np.array([2, *shape]))], {}),
                  ("LayerNormalization", [x, Const(some("float32", shape[-1]))], {"axis": -1})]
    for op_type, inputs, attributes in tried:
        assert_on_device(CPU, *make_node(op_type, inputs, attributes), ulps=2048)
