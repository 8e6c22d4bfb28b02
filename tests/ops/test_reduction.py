"""Reductions and running sums: values against onnx.reference, empty sets, and the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.ops import find_op
from coexec.ops.reduction import REDUCTIONS

from .hand import hand_made
from .law import LAW, Const, assert_close, assert_law, assert_matches, compute_whole, make_node


def axes_input(axes):
    return [] if axes is None else [Const(np.array(axes, np.int64))]


def draw(op_type, shape, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    return np.abs(x) + np.float32(0.1) if op_type == "ReduceLogSum" else x


@pytest.mark.parametrize("op_type", sorted(REDUCTIONS))
@pytest.mark.parametrize("axes", [None, (1,), (0, -1), (2, 1), ()])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("noop", [0, 1])
def test_equals_reference(op_type, axes, keepdims, noop):
    x = draw(op_type, (2, 3, 4), np.random.default_rng(0))
    node, arrays = make_node(op_type, [x, *axes_input(axes)], {"keepdims": keepdims, "noop_with_empty_axes": noop})
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)


@given(st.sampled_from(sorted(REDUCTIONS)), st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data(), st.booleans(),
       st.integers(0, 2**32 - 1))
@LAW
def test_law(op_type, shape, data, keepdims, seed):
    rng = np.random.default_rng(seed)
    axes = data.draw(st.one_of(st.none(), st.sets(st.integers(0, len(shape) - 1), max_size=len(shape)).map(tuple)))
    node, arrays = make_node(op_type, [draw(op_type, shape, rng), *axes_input(axes)], {"keepdims": int(keepdims)})
    assert_matches(node, arrays)
    assert_law(node, rng, arrays)


@pytest.mark.parametrize("op_type", sorted(REDUCTIONS))
def test_scalars(op_type):
    """onnx.reference cannot take all of them."""
    x = np.array(3.0, np.float32)
    expected = {"ReduceLogSum": np.log(x), "ReduceSumSquare": x * x}.get(op_type, x)
    node, arrays = hand_made(op_type, [x], [x])
    assert_matches(node, arrays, [expected])


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare", "ReduceMean"])
def test_integers(op_type):
    x = np.array([[3, -5, 2], [7, 0, -9]], np.int32)
    node, arrays = make_node(op_type, [x, *axes_input((1,))])
    # onnx.reference divides whole sums in double precision and truncates, as does this; sums alone are exact.
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)


def test_half_is_summed_in_single_precision():
    x = np.full((2, 4096), 1.5, np.float16)
    node, arrays = make_node("ReduceMean", [x, *axes_input((1,))])
    assert compute_whole(node, arrays)[0].ravel().tolist() == [1.5, 1.5]
    node, arrays = make_node("ReduceL2", [np.full((3, 16), 200, np.float16), *axes_input((1,))])
    assert compute_whole(node, arrays)[0].ravel().tolist() == [800] * 3
    assert_law(node, np.random.default_rng(0), arrays)


@pytest.mark.parametrize("op_type, expected", [
    ("ReduceSum", 0), ("ReduceProd", 1), ("ReduceMax", -np.inf), ("ReduceMin", np.inf), ("ReduceLogSum", -np.inf),
    ("ReduceLogSumExp", -np.inf), ("ReduceL1", 0), ("ReduceL2", 0), ("ReduceSumSquare", 0)])
def test_empty_sets(op_type, expected):
    node, arrays = make_node(op_type, [np.zeros((2, 0, 4), np.float32), *axes_input((1,))])
    assert_close(compute_whole(node, arrays)[0], np.full((2, 1, 4), expected, np.float32))
    assert_law(node, np.random.default_rng(0), arrays)


def test_log_sum_exp_of_large_and_infinite():
    x = np.array([[1000, 1000], [-np.inf, -np.inf], [np.inf, 0]], np.float32)
    node, _ = make_node("ReduceLogSumExp", [np.zeros((3, 2), np.float32), *axes_input((1,))])
    found, = compute_whole(node, [x, np.array([1])])
    assert_close(found[0], np.array([1000 + np.log(2)], np.float32))
    assert found[1:].ravel().tolist() == [-np.inf, np.inf]


def test_booleans_have_a_maximum():
    x = np.array([[True, False], [False, False]])
    for op_type in ("ReduceMax", "ReduceMin"):
        node, arrays = make_node(op_type, [x, *axes_input((1,))])
        assert_matches(node, arrays)


def test_cut_on_kept_axes_only():
    node, _ = make_node("ReduceSum", [np.zeros((2, 3, 4, 5), np.float32), *axes_input((2,))], {"keepdims": 0})
    op = find_op("", "ReduceSum")
    assert [(a.name, a.dim, a.extent) for a in op.split_axes(node)] == [("batch", 0, 2), ("channel", 1, 3), ("length", 2, 5)]
    assert op.flops(node, [(0, 2), (0, 3), (0, 5)]) == 120


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
def test_arg(op_type, axis, keepdims, last):
    x = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.float32)
    node, arrays = make_node(op_type, [x], {"axis": axis, "keepdims": keepdims, "select_last_index": last})
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)


@pytest.mark.parametrize("op_type", ["CumSum", "CumProd"])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_cumulative(op_type, axis, exclusive, reverse, dtype):
    x = np.random.default_rng(0).integers(-3, 4, (3, 4, 2)).astype(dtype)
    node, arrays = make_node(op_type, [x, Const(np.array(axis, np.int64))], {"exclusive": exclusive, "reverse": reverse})
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)
    assert len(find_op("", op_type).split_axes(node)) == 2


def test_variable_axes_are_left_to_the_reference():
    node, _ = make_node("ReduceSum", [np.zeros((2, 3), np.float32), np.array([1])])
    assert "axes" in find_op("", "ReduceSum").declines(node)
