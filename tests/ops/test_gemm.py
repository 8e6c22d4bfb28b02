"""Gemm: equals onnx.reference, and keeps the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.ops.base import find_op
from coexec.regions import Region

from .law import LAW, Const, assert_law, assert_matches, make_node, reference


def gemm(rng, m, k, n, c_shape=None, dtype=np.float32, **attributes):
    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype) if np.dtype(dtype).kind == "f" else rng.integers(0, 9, shape).astype(dtype)

    a = draw(k, m) if attributes.get("transA") else draw(m, k)
    b = draw(n, k) if attributes.get("transB") else draw(k, n)
    return make_node("Gemm", [a, Const(b)] + ([] if c_shape is None else [draw(*c_shape)]), attributes)


@st.composite
def gemms(draw):
    m, k, n = (draw(st.integers(1, 9)) for _ in range(3))
    c_shape = draw(st.sampled_from([None, (), (1,), (n,), (1, n), (m, 1), (m, n), (1, 1)]))
    scale = st.sampled_from([1.0, 0.5, -2.0, 0.0])
    return gemm(np.random.default_rng(draw(st.integers(0, 999))), m, k, n, c_shape, transA=draw(st.integers(0, 1)),
                transB=draw(st.integers(0, 1)), alpha=draw(scale), beta=draw(scale))


@LAW
@given(gemms(), st.integers(0, 1000))
def test_law(example, seed):
    node, arrays = example
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(seed), arrays)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint32])
def test_other_types(dtype):
    node, arrays = gemm(np.random.default_rng(1), 5, 4, 6, (6,), dtype)
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(2), arrays)


def test_float16_is_computed_in_float32():
    node, arrays = gemm(np.random.default_rng(3), 4, 300, 5, (5,), np.float16, transB=1)
    wide, wide_arrays = make_node("Gemm", [a.astype(np.float32) for a in arrays], dict(node.attributes))
    assert_matches(node, arrays, [reference(wide, wide_arrays)[0].astype(np.float16)], ulps=1)
    assert_law(node, np.random.default_rng(4), arrays)


def test_scaled_integers_are_declined():
    node, _ = gemm(np.random.default_rng(5), 2, 2, 2, None, np.int32, alpha=1.0)
    scaled, _ = gemm(np.random.default_rng(5), 2, 2, 2, None, np.int32, alpha=0.5)
    op = find_op("", "Gemm")
    assert op.declines(node) is None and "alpha" in op.declines(scaled)


def test_one_row_is_cut_along_columns_and_reads_part_of_the_weights():
    node, _ = gemm(np.random.default_rng(6), 1, 8, 10, (10,), transB=1)
    op = find_op("", "Gemm")
    assert [a.name for a in op.split_axes(node)] == ["columns"]
    a, b, c = op.input_regions(node, Region([(0, 1), (3, 7)]))
    assert (a, b, c) == (((0, 1), (0, 8)), ((3, 7), (0, 8)), ((3, 7),))
    assert op.flops(node, Region([(0, 1), (3, 7)])) == 4 * 17
