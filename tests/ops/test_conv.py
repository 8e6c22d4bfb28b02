"""Conv: equals onnx.reference (onnxruntime for auto_pad, where the reference is wrong), and keeps the law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.errors import IllegalCut
from coexec.graph.ir import Activation, Node, TensorType, Value
from coexec.ops.base import find_op, op_for, pieces_along
from coexec.ops.conv import conv_params
from coexec.regions import Region

from .law import LAW, Const, assert_law, assert_matches, make_node, ort_reference, reference


def conv(rng, x_shape, w_shape, bias=True, dtype=np.float32, judge=reference, **attributes):
    x, w = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape))
    b = Const(rng.standard_normal(w_shape[0]).astype(dtype)) if bias else None
    return make_node("Conv", [x, Const(w)] + ([b] if bias else []), attributes, judge=judge)


EXAMPLES = [
    ((1, 3, 9, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 3, 9, 8), (4, 3, 3, 2), {"pads": [0, 1, 2, 1], "strides": [2, 3]}),
    ((1, 4, 7, 7), (6, 2, 3, 3), {"group": 2, "dilations": [2, 1]}),
    ((1, 4, 7, 7), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 3, 5, 5), (6, 1, 3, 3), {"group": 3}),
    ((2, 5, 6, 6), (7, 5, 1, 1), {}),
    ((2, 5, 6, 6), (7, 5, 1, 1), {"strides": [2, 2]}),
    ((2, 5, 6, 6), (7, 5, 1, 1), {"pads": [1, 0, 0, 1]}),
    ((2, 3, 11), (4, 3, 4), {"pads": [2, 1], "strides": [2]}),
    ((1, 2, 5, 6, 4), (4, 2, 2, 3, 2), {"pads": [1, 0, 1, 0, 1, 0], "strides": [1, 2, 1]}),
    ((1, 2, 8, 8), (2, 1, 5, 5), {"group": 2, "pads": [4, 4, 4, 4], "dilations": [2, 2]}),
]


@pytest.mark.parametrize("x_shape, w_shape, attributes", EXAMPLES)
@pytest.mark.parametrize("bias", [True, False])
def test_matches_the_reference(x_shape, w_shape, attributes, bias):
    node, arrays = conv(np.random.default_rng(1), x_shape, w_shape, bias, **attributes)
    assert_matches(node, arrays)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides, kernel", [((1, 1), (3, 3)), ((2, 2), (3, 3)), ((2, 3), (4, 2)), ((3, 3), (2, 2))])
def test_auto_pad_matches_onnxruntime(auto_pad, strides, kernel):
    node, arrays = conv(np.random.default_rng(2), (1, 2, 8, 7), (3, 2, *kernel), auto_pad=auto_pad, strides=strides, judge=ort_reference)
    assert_matches(node, arrays, ort_reference(node, arrays))
    assert_law(node, np.random.default_rng(3), arrays)


@pytest.mark.parametrize("dtype, computed", [(np.float16, np.float32), (np.float64, np.float64)])
def test_other_floats(dtype, computed):
    node, arrays = conv(np.random.default_rng(4), (1, 3, 6, 6), (4, 3, 3, 3), dtype=dtype, pads=[1, 1, 1, 1])
    wide, wide_arrays = make_node("Conv", [a.astype(computed) for a in arrays], dict(node.attributes))
    assert_matches(node, arrays, [reference(wide, wide_arrays)[0].astype(dtype)], ulps=16)
    assert_law(node, np.random.default_rng(5), arrays)


def test_other_types_are_declined():
    node, _ = conv(np.random.default_rng(4), (1, 3, 6, 6), (4, 3, 3, 3))
    x = Value("x", TensorType(np.dtype(np.int32), (1, 3, 6, 6)))
    assert "int32" in find_op("", "Conv").declines(replace(node, inputs=(x, *node.inputs[1:])))


def test_a_fused_tail_keeps_the_law():
    node, arrays = conv(np.random.default_rng(4), (2, 3, 6, 6), (4, 3, 3, 3), pads=[1, 1, 1, 1])
    residual = Value("r", node.output.type)
    fused = replace(node, inputs=(*node.inputs, residual), residual=True, activation=Activation("Relu"))
    other = np.random.default_rng(5).standard_normal(node.output.shape).astype(np.float32)
    expected = np.maximum(reference(node, arrays)[0] + other, 0)
    assert_matches(fused, [*arrays, other], [expected])
    assert_law(fused, np.random.default_rng(6), [*arrays, other])


def test_large_columns_are_built_in_parts(monkeypatch):
    monkeypatch.setattr("coexec.ops.conv.COLUMN_BYTES", 1000)
    node, arrays = conv(np.random.default_rng(6), (2, 4, 9, 8), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1])
    assert_matches(node, arrays)


@st.composite
def convs(draw):
    count = draw(st.integers(1, 3))
    high = {1: 12, 2: 8, 3: 5}[count]
    sizes = [draw(st.integers(1, high)) for _ in range(count)]
    kernel = [draw(st.integers(1, 4 if count < 3 else 2)) for _ in range(count)]
    dilations = [draw(st.integers(1, 2)) for _ in range(count)]
    strides = [draw(st.integers(1, 3)) for _ in range(count)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * count)]
    for d in range(count):
        short = (kernel[d] - 1) * dilations[d] + 1 - sizes[d] - pads[d] - pads[count + d]
        pads[count + d] += max(0, short)
    group = draw(st.sampled_from([1, 1, 2, 3]))
    depthwise = draw(st.booleans())
    in_per = 1 if depthwise else draw(st.integers(1, 3))
    out_per = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return conv(rng, (draw(st.integers(1, 3)), group * in_per, *sizes), (group * out_per, in_per, *kernel), draw(st.booleans()),
                strides=strides, dilations=dilations, pads=pads, group=group)


@LAW
@given(convs(), st.integers(0, 1000))
def test_law(example, seed):
    node, arrays = example
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(seed), arrays)


def test_axes_are_best_first_and_groups_stay_whole():
    node, _ = conv(np.random.default_rng(0), (2, 6, 8, 8), (9, 2, 3, 3), group=3)
    op = find_op("", "Conv")
    assert [(a.name, a.multiple) for a in op.split_axes(node)] == [("height", 1), ("channel", 3), ("width", 1), ("batch", 1)]
    x, w, b = op.input_regions(node, Region.whole(node.output.shape).replace(1, (3, 6)))
    assert (x[1], w[0], b[0]) == ((2, 4), (3, 6), (3, 6))
    with pytest.raises(IllegalCut, match="multiple of 3"):
        pieces_along(node, op.axis(node, "channel"), (0, 4, 9))


def test_depthwise_may_be_cut_at_every_channel():
    node, _ = conv(np.random.default_rng(0), (1, 6, 8, 8), (6, 1, 3, 3), group=6)
    assert find_op("", "Conv").axis(node, "channel").multiple == 1


def test_height_piece_reads_its_halo_only():
    node, _ = conv(np.random.default_rng(0), (1, 2, 16, 8), (4, 2, 3, 3), pads=[1, 1, 1, 1])
    x = find_op("", "Conv").input_regions(node, Region.whole(node.output.shape).replace(2, (5, 9)))[0]
    assert x[2] == (4, 10)


def test_params_resolve_auto_pad():
    node, _ = conv(np.random.default_rng(0), (1, 2, 8, 7), (3, 2, 3, 2), auto_pad="SAME_LOWER", strides=[2, 2], judge=ort_reference)
    assert conv_params(node) == ((3, 2), (2, 2), (1, 1), (1, 1), (0, 0), 1)


def test_flops_count_multiply_adds_twice():
    node, _ = conv(np.random.default_rng(0), (1, 4, 6, 6), (8, 2, 3, 3), bias=False, group=2)
    assert find_op("", "Conv").flops(node, Region.whole(node.output.shape)) == 8 * 4 * 4 * 2 * 2 * 9


def test_a_changed_node_keeps_nothing_that_was_worked_out_for_the_old_one():
    x, w = (Value(n, TensorType(np.dtype(np.float32), s)) for n, s in (("x", (1, 4, 9, 9)), ("w", (8, 4, 3, 3))))
    node = Node("Conv", (x, w), (Value("y", TensorType(np.dtype(np.float32), (1, 8, 7, 7))),))
    rows = Region.whole(node.output.shape).replace(2, (2, 4))
    read = op_for(node).regions_read(node, rows)
    assert op_for(node).regions_read(node, rows) is read and read[0][2] == (2, 6)
    padded = replace(node, attributes={"pads": [1, 1, 1, 1]}, outputs=(Value("y", TensorType(np.dtype(np.float32), (1, 8, 9, 9))),))
    assert op_for(padded).regions_read(padded, rows)[0][2] == (1, 5)
    odd = replace(node, inputs=(Value("x", TensorType(np.dtype(np.int32), (1, 4, 9, 9))), w))
    assert op_for(odd) is not op_for(node), "the reference computes what floats do not"
