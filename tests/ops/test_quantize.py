"""QuantizeLinear and DequantizeLinear: the reference's answers, whole and in pieces, on the CPU's kernel and without it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.devices.cpu import CpuDevice
from coexec.devices.registry import gpu_device
from coexec.ops import find_op, op_for
from coexec.ops.fallback import is_fallback
from tests.device.harness import assert_on_device

from .law import LAW, Const, assert_law, compute_whole, make_node, reference

CPU = CpuDevice()


def scales(count, seed):
    return np.random.default_rng(seed).uniform(0.01, 0.2, count).astype(np.float32)


def zeros(count, dtype, seed):
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, count, dtype, endpoint=True)


def nodes(shape, dtype, axis, per_axis, with_zero, seed):
    """A QuantizeLinear and a DequantizeLinear of that shape; much of what is quantized lies halfway between, or outside."""
    rng, count = np.random.default_rng(seed), shape[axis] if per_axis else 1
    scale, zero = scales(count, seed), zeros(count, dtype, seed)
    if not per_axis:
        scale, zero = scale[0], zero[0]
    spread = scale.reshape([-1 if d == axis else 1 for d in range(len(shape))]) if per_axis else scale
    x = (rng.integers(-400, 400, shape) / 2).astype(np.float32) * spread
    more = [Const(np.asarray(scale)), *([Const(np.asarray(zero))] if with_zero else [])]
    kind = {"uint8": 2, "int8": 3, "uint16": 4, "int16": 5}[np.dtype(dtype).name]
    yield make_node("QuantizeLinear", [x, *more], {"axis": axis, **({} if with_zero else {"output_dtype": kind})})
    yield make_node("DequantizeLinear", [zeros(shape, dtype, seed), *more], {"axis": axis})


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]), st.integers(0, 3),
       st.booleans(), st.booleans(), st.integers(0, 2**16))
@LAW
def test_pieces_are_the_whole(shape, dtype, axis, per_axis, with_zero, seed):
    for node, arrays in nodes(shape, dtype, axis % len(shape), per_axis, with_zero, seed):
        assert not is_fallback(op_for(node)), find_op("", node.op_type).declines(node)
        np.testing.assert_array_equal(compute_whole(node, arrays)[0], reference(node, arrays)[0])
        assert_law(node, np.random.default_rng(seed), arrays)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("per_axis", [False, True])
def test_on_the_cpu(dtype, per_axis):
    for node, arrays in nodes((2, 5, 9, 67), dtype, 1, per_axis, True, 4):
        assert_on_device(CPU, node, arrays)


def test_what_is_left_to_the_reference():
    x, scale = np.ones((2, 4), np.float32), np.float32(0.1)
    for inputs, attributes in (([x, scale.reshape(())], {}), ([x, Const(np.full((2, 2), scale))], {"block_size": 2}),
                               ([x, Const(scale)], {"output_dtype": 17})):
        node, _ = make_node("QuantizeLinear", inputs, attributes)
        assert is_fallback(op_for(node)), attributes


@pytest.mark.parametrize(("dtype", "per_axis", "with_zero"), [
    (np.uint8, False, True), (np.uint8, True, True), (np.int8, True, True), (np.int8, False, False), (np.int16, True, False)])
def test_on_the_gpu(dtype, per_axis, with_zero):
    for node, arrays in nodes((2, 5, 9, 67), dtype, 1, per_axis, with_zero, 4):
        assert_on_device(gpu_device(), node, arrays)
