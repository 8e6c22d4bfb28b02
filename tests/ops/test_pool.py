"""Poolings: equal onnx.reference and onnxruntime (the judge where the reference is wrong), and keep the law."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.ops.base import find_op
from coexec.ops.pool import average_divisors, pool_params
from coexec.regions import Region

from .law import LAW, assert_law, assert_matches, compute_whole, make_node, ort_reference, reference


def pool(rng, op_type, shape, dtype=np.float32, n_outputs=1, judge=ort_reference, **attributes):
    x = rng.standard_normal(shape).astype(dtype) if np.dtype(dtype).kind == "f" else rng.integers(0, 5, shape).astype(dtype)
    return make_node(op_type, [x], attributes, n_outputs, judge=judge)


SLIDING = ["MaxPool", "AveragePool", "LpPool"]


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("shape, attributes", [
    ((1, 2, 7, 6), {"kernel_shape": [3, 3]}), ((2, 3, 7, 6), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ((1, 2, 9), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}), ((1, 2, 4, 5, 3), {"kernel_shape": [2, 2, 2]}),
    ((1, 2, 9, 9), {"kernel_shape": [3, 3], "dilations": [2, 2]}),
])
def test_matches_the_reference(op_type, shape, attributes):
    node, arrays = pool(np.random.default_rng(1), op_type, shape, judge=reference, **attributes)
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(2), arrays)


@pytest.mark.parametrize("op_type", SLIDING)
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(op_type, auto_pad):
    node, arrays = pool(np.random.default_rng(3), op_type, (1, 2, 8, 7), kernel_shape=[3, 4], strides=[2, 3], auto_pad=auto_pad)
    assert_matches(node, arrays, ort_reference(node, arrays))
    assert_law(node, np.random.default_rng(4), arrays)


@pytest.mark.parametrize("include", [0, 1])
def test_ceil_mode_windows_beyond_the_padding_do_not_count(include):
    x = np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7)
    node, arrays = make_node("AveragePool", [x], {"kernel_shape": [3], "strides": [3], "pads": [1, 1], "ceil_mode": 1,
                                                  "count_include_pad": include}, judge=ort_reference)
    # Rows of the padded input: _ 1 2 | 3 4 5 | 6 7 _ .
    assert compute_whole(node, arrays)[0].ravel().tolist() == pytest.approx([3 / (2 + include), 4, 13 / (2 + include)])
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 6)
    node, arrays = make_node("AveragePool", [x], {"kernel_shape": [4], "strides": [3], "pads": [1, 1], "ceil_mode": 1,
                                                  "count_include_pad": include}, judge=ort_reference)
    # _ 1 2 3 | 3 4 5 6 | 6 _ beyond the end: the last window counts the 6, and one row of padding at most.
    assert node.output.shape == (1, 1, 3)
    assert compute_whole(node, arrays)[0].ravel().tolist() == pytest.approx([6 / (3 + include), 4.5, 6 / (1 + include)])
    assert average_divisors(node, [r for r in Region.whole((3,))])[0].tolist() == [3 + include, 4, 1 + include]


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("shape, kernel", [((2, 3, 7, 6), [3, 2]), ((2, 3, 4, 5, 3), [2, 3, 2]), ((2, 2, 9), [3])])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_indices_match_onnxruntime(storage_order, shape, kernel, dtype):
    count = len(kernel)
    node, arrays = pool(np.random.default_rng(5), "MaxPool", shape, dtype, 2, kernel_shape=kernel, strides=[2] * count,
                        pads=[1] * 2 * count, storage_order=storage_order)
    assert_matches(node, arrays, ort_reference(node, arrays))
    assert_law(node, np.random.default_rng(6), arrays)


def test_padding_never_wins_and_the_first_of_equals_does():
    x = np.full((1, 1, 4, 4), np.iinfo(np.int8).min, np.int8)
    node, arrays = make_node("MaxPool", [x], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 2, judge=ort_reference)
    assert compute_whole(node, arrays)[1].ravel().tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 4, 4, 5, 6, 8, 8, 9, 10]


def test_nan_is_the_largest():
    x = np.array([1, np.nan, 3, 4, 5], np.float32).reshape(1, 1, 5)
    node, arrays = make_node("MaxPool", [x], {"kernel_shape": [2]}, 2, judge=ort_reference)
    y, where = compute_whole(node, arrays)
    assert np.isnan(y.ravel()).tolist() == [True, True, False, False] and where.ravel().tolist() == [1, 1, 3, 4]
    single, _ = make_node("MaxPool", [x], {"kernel_shape": [2]}, judge=ort_reference)
    np.testing.assert_array_equal(compute_whole(single, arrays)[0], y)


@st.composite
def pools(draw):
    op_type = draw(st.sampled_from(SLIDING))
    count = draw(st.integers(1, 3))
    sizes = [draw(st.integers(2, {1: 11, 2: 8, 3: 5}[count])) for _ in range(count)]
    kernel = [draw(st.integers(1, min(4 if count < 3 else 2, n))) for n in sizes]
    dilations = [draw(st.integers(1, 2)) if (k - 1) * 2 < n else 1 for k, n in zip(kernel, sizes)]
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    own = {"AveragePool": ("count_include_pad", 0, 1), "LpPool": ("p", 1, 3), "MaxPool": ("storage_order", 0, 1)}[op_type]
    more = {own[0]: draw(st.integers(*own[1:]))}
    return pool(np.random.default_rng(draw(st.integers(0, 999))), op_type, (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *sizes),
                n_outputs=draw(st.integers(1, 2)) if op_type == "MaxPool" else 1, kernel_shape=kernel, dilations=dilations, pads=pads,
                strides=[draw(st.integers(1, 3)) for _ in range(count)], ceil_mode=draw(st.integers(0, 1)), **more)


@LAW
@given(pools(), st.integers(0, 1000))
def test_law(example, seed):
    node, arrays = example
    assert_matches(node, arrays, ort_reference(node, arrays))
    assert_law(node, np.random.default_rng(seed), arrays)


@pytest.mark.parametrize("op_type, attributes", [("GlobalMaxPool", {}), ("GlobalAveragePool", {}), ("GlobalLpPool", {"p": 3}),
                                                 ("GlobalLpPool", {})])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 4, 7), (3, 2, 2, 3, 2)])
def test_global_pools(op_type, attributes, shape):
    judge = partial(ort_reference, opset=20)
    node, arrays = pool(np.random.default_rng(7), op_type, shape, judge=judge, **attributes)
    assert_matches(node, arrays, judge(node, arrays))
    assert_law(node, np.random.default_rng(8), arrays)
    assert {a.name for a in find_op("", op_type).split_axes(node)} <= {"batch", "channel"}


@pytest.mark.parametrize("op_type", [*SLIDING, "GlobalAveragePool"])
def test_float16_is_computed_in_float32(op_type):
    attributes = {} if op_type.startswith("Global") else {"kernel_shape": [3, 3]}
    wide, (x,) = pool(np.random.default_rng(9), op_type, (1, 3, 6, 6), **attributes)
    x = x.astype(np.float16)
    expected = [ort_reference(wide, [x.astype(np.float32)])[0].astype(np.float16)]
    node, arrays = make_node(op_type, [x], attributes, judge=lambda n, a: expected)
    assert_matches(node, arrays, expected, ulps=1)
    assert_law(node, np.random.default_rng(10), arrays)


def test_axes_params_and_flops():
    node, _ = pool(np.random.default_rng(0), "MaxPool", (2, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    op = find_op("", "MaxPool")
    assert [a.name for a in op.split_axes(node)] == ["height", "channel", "width", "batch"]
    assert pool_params(node)[3:] == ((0, 0), (1, 1))
    assert op.flops(node, Region.whole(node.output.shape)) == 2 * 3 * 16 * 9
