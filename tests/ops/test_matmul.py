"""MatMul: equals onnx.reference, with a fused bias too, and keeps the law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.graph.ir import constant
from coexec.ops.base import find_op
from coexec.regions import Region

from .law import LAW, Const, assert_law, assert_matches, make_node, reference


def matmul(rng, a_shape, b_shape, dtype=np.float32, const=False):
    a, b = (rng.standard_normal(s).astype(dtype) if np.dtype(dtype).kind == "f" else rng.integers(0, 9, s).astype(dtype)
            for s in (a_shape, b_shape))
    return make_node("MatMul", [a, Const(b) if const else b])


def with_bias(node, arrays, bias):
    return replace(node, inputs=(*node.inputs, constant("bias", bias))), [*arrays, bias]


@st.composite
def matmuls(draw):
    m, k, n = (draw(st.integers(1, 6)) for _ in range(3))
    stack = [draw(st.integers(1, 4)) for _ in range(draw(st.integers(0, 3)))]

    def operand(row, column):
        if draw(st.integers(0, 4)) == 0:
            return (k,)
        mine = tuple(draw(st.sampled_from([d, d, 1])) for d in stack[draw(st.integers(0, len(stack))):])
        return (*mine, row, column)

    return matmul(np.random.default_rng(draw(st.integers(0, 999))), operand(m, k), operand(k, n)), draw(st.booleans())


@LAW
@given(matmuls(), st.integers(0, 1000))
def test_law(example, seed):
    (node, arrays), biased = example
    assert_matches(node, arrays)
    if biased and node.output.shape:
        rng = np.random.default_rng(seed)
        bias = rng.standard_normal([1 if rng.random() < 0.3 else d for d in node.output.shape[rng.integers(len(node.output.shape)):]])
        bias = bias.astype(np.float32)
        expected = reference(node, arrays)[0] + bias
        node, arrays = with_bias(node, arrays, bias)
        assert_matches(node, arrays, [expected])
    assert_law(node, np.random.default_rng(seed), arrays)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint64])
def test_other_types(dtype):
    node, arrays = matmul(np.random.default_rng(1), (2, 3, 4), (4, 5), dtype)
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(2), arrays)


def test_float16_is_computed_in_float32():
    node, arrays = matmul(np.random.default_rng(3), (3, 300), (300, 4), np.float16)
    expected = (arrays[0].astype(np.float32) @ arrays[1].astype(np.float32)).astype(np.float16)
    assert_matches(node, arrays, [expected], ulps=1)
    assert_law(node, np.random.default_rng(4), arrays)


@pytest.mark.parametrize("a, b, names", [
    ((4, 8), (8, 6), ["columns", "rows"]), ((2, 5, 8), (8, 3), ["rows", "columns", "batch"]),
    ((2, 3, 5, 8), (2, 3, 8, 4), ["heads", "batch", "rows", "columns"]), ((8,), (3, 8, 4), ["batch", "columns"]),
    ((3, 4, 8), (8,), ["rows", "batch"]), ((8,), (8,), []), ((1, 8), (8, 1), []),
])
def test_axis_names(a, b, names):
    node, _ = matmul(np.random.default_rng(0), a, b)
    assert [x.name for x in find_op("", "MatMul").split_axes(node)] == names


def test_a_shared_matrix_is_read_in_part():
    node, _ = matmul(np.random.default_rng(0), (2, 5, 8), (8, 6))
    op = find_op("", "MatMul")
    regions = op.input_regions(node, Region.whole(node.output.shape).replace(2, (1, 4)))
    assert regions == (((0, 2), (0, 5), (0, 8)), ((0, 8), (1, 4)))
    assert op.flops(node, Region.whole(node.output.shape)) == 2 * 2 * 5 * 6 * 8
