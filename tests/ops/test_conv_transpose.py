"""ConvTranspose: equals onnx.reference (onnxruntime where the reference is wrong: groups, auto_pad), and keeps the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.ops.base import find_op
from coexec.ops.conv_transpose import rows_reaching
from coexec.regions import Interval, Region

from .law import LAW, Const, assert_law, assert_matches, make_node, ort_reference, reference


def transpose(rng, x_shape, w_shape, bias=True, dtype=np.float32, judge=ort_reference, **attributes):
    x, w = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape))
    b = Const(rng.standard_normal(w_shape[1] * attributes.get("group", 1)).astype(dtype)) if bias else None
    return make_node("ConvTranspose", [x, Const(w)] + ([b] if bias else []), attributes, judge=judge)


EXAMPLES = [
    ((1, 3, 5, 4), (3, 4, 3, 3), {}),
    ((2, 3, 5, 4), (3, 4, 3, 2), {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    ((1, 2, 5, 4), (2, 2, 2, 2), {"strides": [3, 3], "output_padding": [2, 1]}),
    ((1, 2, 5, 4), (2, 2, 3, 3), {"strides": [2, 2], "dilations": [3, 2], "pads": [2, 1, 1, 1]}),
    ((2, 3, 7), (3, 2, 4), {"strides": [2], "pads": [1, 2]}),
    ((1, 2, 3, 4, 2), (2, 3, 2, 3, 2), {"strides": [2, 1, 2]}),
]


@pytest.mark.parametrize("x_shape, w_shape, attributes", EXAMPLES)
@pytest.mark.parametrize("bias", [True, False])
def test_matches_the_reference(x_shape, w_shape, attributes, bias):
    node, arrays = transpose(np.random.default_rng(1), x_shape, w_shape, bias, judge=reference, **attributes)
    assert_matches(node, arrays)
    assert_matches(node, arrays, ort_reference(node, arrays))


@pytest.mark.parametrize("attributes", [
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "VALID", "strides": [2, 1]}, {"auto_pad": "SAME_LOWER", "strides": [3, 2], "dilations": [2, 2]},
    {"output_shape": [9, 8], "strides": [2, 2]}, {"output_shape": [10, 8], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"output_shape": [9, 7], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
])
def test_padding_rules_match_onnxruntime(attributes):
    node, arrays = transpose(np.random.default_rng(2), (1, 2, 5, 4), (2, 3, 3, 3), **attributes)
    assert_matches(node, arrays, ort_reference(node, arrays))
    assert_law(node, np.random.default_rng(3), arrays)


@pytest.mark.parametrize("x_shape, w_shape, group", [((2, 4, 5, 4), (4, 3, 3, 3), 2), ((1, 4, 5, 4), (4, 1, 3, 3), 4)])
def test_groups_match_onnxruntime(x_shape, w_shape, group):
    node, arrays = transpose(np.random.default_rng(4), x_shape, w_shape, group=group, strides=[2, 1])
    assert_matches(node, arrays, ort_reference(node, arrays))
    assert find_op("", "ConvTranspose").axis(node, "channel").multiple == w_shape[1]


@st.composite
def transposes(draw):
    count = draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, {1: 7, 2: 5, 3: 3}[count])) for _ in range(count)]
    kernel = [draw(st.integers(1, 4 if count < 3 else 2)) for _ in range(count)]
    dilations = [draw(st.integers(1, 3 if count < 3 else 2)) for _ in range(count)]
    strides = [draw(st.integers(1, 3)) for _ in range(count)]
    extra = [draw(st.integers(0, s - 1)) for s in strides]
    pads = [0] * (2 * count)
    for d in range(count):
        full = (sizes[d] - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 + extra[d]
        pads[d] = draw(st.integers(0, min(3, full - 1)))
        pads[count + d] = draw(st.integers(0, min(3, full - 1 - pads[d])))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    channels = group * draw(st.integers(1, 3))
    return transpose(rng, (draw(st.integers(1, 2)), channels, *sizes), (channels, draw(st.integers(1, 3)), *kernel), draw(st.booleans()),
                     strides=strides, dilations=dilations, pads=pads, output_padding=extra, group=group)


@LAW
@given(transposes(), st.integers(0, 1000))
def test_law(example, seed):
    node, arrays = example
    assert_matches(node, arrays, ort_reference(node, arrays))
    assert_law(node, np.random.default_rng(seed), arrays)


@LAW
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(0, 20), st.integers(0, 5))
def test_rows_reaching_is_the_exact_hull(size, kernel, stride, dilation, pad, start, count):
    out = Interval(start, start + count)
    hits = [i for i in range(size) for k in range(kernel) if out.start <= i * stride + k * dilation - pad < out.stop]
    found = rows_reaching(out, size, kernel, stride, dilation, pad)
    if hits:
        assert found == (min(hits), max(hits) + 1)
    else:
        assert found.size == (1 if count else 0) and found in Interval(0, size)


def test_float16_and_flops():
    node, arrays = transpose(np.random.default_rng(5), (1, 2, 4, 4), (2, 3, 2, 2), dtype=np.float16, bias=False, strides=[2, 2],
                             judge=reference)
    wide, wide_arrays = make_node("ConvTranspose", [a.astype(np.float32) for a in arrays], dict(node.attributes))
    assert_matches(node, arrays, [reference(wide, wide_arrays)[0].astype(np.float16)], ulps=2)
    assert_law(node, np.random.default_rng(6), arrays)
    assert find_op("", "ConvTranspose").flops(node, Region.whole(node.output.shape)) == 2 * 16 * 2 * 3 * 4
