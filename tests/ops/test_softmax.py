"""Softmax, LogSoftmax, Hardmax: equal onnx.reference, and keep the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.ops.base import find_op

from .law import LAW, assert_law, assert_matches, compute_whole, make_node, reference

OPS = ["Softmax", "LogSoftmax", "Hardmax"]


@st.composite
def softmaxes(draw):
    shape = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 5)))]
    axis = draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    op_type = draw(st.sampled_from(OPS))
    # The reference takes the logarithm of the softmax, which large differences make zero.
    scale = draw(st.sampled_from([1, 40])) if op_type != "LogSoftmax" else 1
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = rng.standard_normal(shape) * scale
    return make_node(op_type, [x.astype(draw(st.sampled_from([np.float32, np.float64])))], {"axis": axis})


@LAW
@given(softmaxes(), st.integers(0, 1000))
def test_law(example, seed):
    node, arrays = example
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(seed), arrays)


@pytest.mark.parametrize("op_type", OPS)
def test_float16_is_computed_in_float32(op_type):
    x = np.random.default_rng(1).standard_normal((3, 40)).astype(np.float16)
    node, arrays = make_node(op_type, [x], {"axis": 1})
    wide, wide_arrays = make_node(op_type, [x.astype(np.float32)], {"axis": 1})
    assert_matches(node, arrays, [reference(wide, wide_arrays)[0].astype(np.float16)], ulps=1)
    assert_law(node, np.random.default_rng(2), arrays)


@pytest.mark.parametrize("op_type, expected", [("Softmax", [0.5, 0.5, 0]), ("Hardmax", [1, 0, 0]),
                                               ("LogSoftmax", [-np.log(2), -np.log(2), -2e4 - np.log(2)])])
def test_large_values_and_ties(op_type, expected):
    node, arrays = make_node(op_type, [np.array([[1e4, 1e4, -1e4]], np.float32)], judge=lambda n, arrays: arrays)
    np.testing.assert_allclose(compute_whole(node, arrays)[0][0], expected, rtol=1e-6)


def test_the_axis_itself_is_never_cut():
    for axis in range(4):
        node, _ = make_node("Softmax", [np.zeros((2, 3, 4, 5), np.float32)], {"axis": axis})
        names = [a.name for a in find_op("", "Softmax").split_axes(node)]
        assert names == [n for d, n in ((2, "height"), (1, "channel"), (3, "width"), (0, "batch")) if d != axis]
