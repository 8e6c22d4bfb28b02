"""Resize: its tables, every mode against onnx.reference (onnxruntime where that departs from the specification), and the law."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.ops import find_op
from coexec.ops.resize import axis_table, resize_tables
from coexec.regions import Interval, Region

from .hand import hand_made
from .law import LAW, Const, assert_close, assert_law, assert_matches, compute_piece, compute_whole, make_node, ort_reference

MODES = ["nearest", "linear", "cubic"]
COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
ROI = Const(np.array([0, 0, 0.1, -0.23, 1, 1, 0.9, 1.37], np.float32))


def image(shape=(1, 2, 4, 5), dtype=np.float32):
    x = np.random.default_rng(0).normal(100, 60, shape)
    return (np.clip(x, 0, 255) if np.dtype(dtype).kind in "iu" else x).astype(dtype)


def scales(*values):
    return Const(np.array(values, np.float32))


def sizes(*values):
    return Const(np.array(values, np.int64))


def inputs(x, by, coordinates="half_pixel"):
    roi = ROI if coordinates == "tf_crop_and_resize" else None
    return [x, roi, by] if by.data.dtype == np.float32 else [x, roi, None, by]


CASES = [scales(1, 1, 2, 3), scales(1, 1, 0.6, 0.7), scales(1, 1, 1.5, 0.4), sizes(1, 2, 7, 3), sizes(1, 2, 4, 9), sizes(1, 2, 2, 2)]


@pytest.mark.parametrize("mode, coordinates", list(itertools.product(MODES, COORDINATES)))
def test_every_mode(mode, coordinates):
    for by in CASES:
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "extrapolation_value": 10.0}
        node, arrays = make_node("Resize", inputs(image(), by, coordinates), attributes)
        assert_matches(node, arrays)
        assert_law(node, np.random.default_rng(0), arrays)


@pytest.mark.parametrize("nearest_mode, coordinates", list(itertools.product(NEAREST, COORDINATES)))
def test_nearest_modes(nearest_mode, coordinates):
    for by in CASES:
        attributes = {"nearest_mode": nearest_mode, "coordinate_transformation_mode": coordinates}
        assert_matches(*make_node("Resize", inputs(image(), by, coordinates), attributes))


@pytest.mark.parametrize("mode, antialias, exclude", list(itertools.product(["linear", "cubic"], [0, 1], [0, 1])))
def test_antialias_and_exclude_outside(mode, antialias, exclude):
    for by in CASES:
        for coordinates in ("half_pixel", "align_corners"):
            attributes = {"mode": mode, "antialias": antialias, "exclude_outside": exclude, "cubic_coeff_a": -0.5,
                          "coordinate_transformation_mode": coordinates}
            node, arrays = make_node("Resize", inputs(image((1, 2, 9, 11)), by, coordinates), attributes) if by.data.dtype == np.float32 \
                else make_node("Resize", [image((1, 2, 9, 11)), None, None, by], attributes)
            assert_matches(node, arrays)
            assert_law(node, np.random.default_rng(0), arrays)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller", "stretch"])
@pytest.mark.parametrize("mode", MODES)
def test_axes_and_aspect_ratio(policy, mode):
    attributes = {"axes": [3, 2], "keep_aspect_ratio_policy": policy, "mode": mode}
    node, arrays = make_node("Resize", [image((2, 1, 5, 4)), None, None, sizes(7, 8)], {**attributes, "axes": [2, 3]})
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)
    # onnx.reference applies axes that are out of order to the wrong axes: the same node, its sizes turned round, is the judge.
    like = np.zeros(node.output.shape, np.float32)
    turned, turned_arrays = hand_made("Resize", [image((2, 1, 5, 4)), None, None, sizes(8, 7)], [like], attributes)
    assert_close(compute_whole(turned, turned_arrays)[0], compute_whole(node, arrays)[0])


def test_axes_with_roi():
    roi = Const(np.array([0.2, 0.1, 0.7, 1.2], np.float32))
    attributes = {"axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear", "extrapolation_value": -3.0}
    node, arrays = make_node("Resize", [image(), roi, None, sizes(6, 6)], attributes)
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)
    assert (compute_whole(node, arrays)[0][..., -1] == -3).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.float16, np.float64])
@pytest.mark.parametrize("mode", MODES)
def test_types(dtype, mode):
    node, arrays = make_node("Resize", [image(dtype=dtype), None, scales(1, 1, 2.5, 0.5)], {"mode": mode})
    # onnx.reference weighs cubic taps in single precision, whatever the type.
    assert_matches(node, arrays, ulps=2**33 if dtype is np.float64 and mode == "cubic" else 256)
    assert_law(node, np.random.default_rng(0), arrays)


def test_one_element_with_pytorch_half_pixel_reads_the_first():
    """The specification says 0 for the coordinate of a single output element; onnx.reference takes -0.5, onnxruntime 0."""
    attributes = {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"}
    x = image((1, 1, 4, 5))
    node, arrays = hand_made("Resize", [x, None, None, sizes(1, 1, 1, 1)], [np.zeros((1, 1, 1, 1), np.float32)], attributes)
    assert_matches(node, arrays, ort_reference(node, arrays, 19))
    assert_close(compute_whole(node, arrays)[0], x[:, :, :1, :1])


@given(st.sampled_from(MODES), st.sampled_from(COORDINATES[:5]), st.booleans(), st.lists(st.integers(1, 9), min_size=4, max_size=4),
       st.integers(0, 2**32 - 1))
@LAW
def test_law(mode, coordinates, antialias, extents, seed):
    h, w, oh, ow = extents
    # A single output element under pytorch_half_pixel is where onnx.reference departs from the specification.
    if coordinates == "pytorch_half_pixel":
        oh, ow = max(oh, 2), max(ow, 2)
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "antialias": int(antialias and mode != "nearest")}
    node, arrays = make_node("Resize", [image((1, 2, h, w)), None, None, sizes(1, 2, oh, ow)], attributes)
    assert_matches(node, arrays)
    rng = np.random.default_rng(seed)
    assert_law(node, rng, arrays)
    whole = compute_whole(node, arrays)[0]
    box = Region([sorted(int(i) for i in rng.integers(0, n + 1, 2)) for n in whole.shape])
    np.testing.assert_array_equal(compute_piece(node, arrays, box)[0], whole[box.slices])


@pytest.mark.parametrize("shape, to", [((5,), (8,)), ((2, 3), (4, 3)), ((1, 2, 3), (1, 2, 7)), ((1, 1, 3, 4, 5), (1, 1, 6, 3, 10))])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_ranks(shape, to, mode):
    node, arrays = make_node("Resize", [image(shape), None, None, sizes(*to)], {"mode": mode})
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)


def test_empty_batch():
    node, arrays = hand_made("Resize", [image((0, 2, 3, 3)), None, scales(1, 1, 2, 2)], [np.zeros((0, 2, 6, 6), np.float32)])
    assert_law(node, np.random.default_rng(0), arrays)


def test_tables():
    table = axis_table(2, 4, 2.0, "nearest", "asymmetric", "floor")
    assert table.indices.ravel().tolist() == [0, 0, 1, 1] and table.is_copy and not table.is_identity
    table = axis_table(2, 4, 2.0, "linear", "half_pixel")
    np.testing.assert_allclose(table.weights.sum(axis=1), 1)
    dense = np.zeros((4, 2))
    for tap in range(table.taps):
        np.add.at(dense, (np.arange(4), table.indices[:, tap]), table.weights[:, tap])
    np.testing.assert_allclose(dense, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    assert axis_table(3, 3, 1.0, "cubic").is_identity
    assert axis_table(8, 16, 2.0, "linear", "half_pixel").interval(Interval(4, 8), 8) == Interval(1, 5)
    node, _ = make_node("Resize", [image(), None, scales(1, 1, 2, 2)], {"mode": "linear"})
    assert [t.is_identity for t in resize_tables(node)] == [True, True, False, False]


def test_a_piece_reads_its_halo_only():
    node, _ = make_node("Resize", [image((1, 2, 8, 8)), None, scales(1, 1, 2, 2)], {"mode": "linear"})
    region = Region([(0, 1), (0, 2), (0, 4), (0, 16)])
    assert find_op("", "Resize").input_regions(node, region)[0] == Region([(0, 1), (0, 2), (0, 3), (0, 8)])


def test_declines():
    op = find_op("", "Resize")
    out = [np.zeros((1, 2, 8, 10), np.float32)]
    assert "scales" in op.declines(hand_made("Resize", [image(), None, np.ones(4, np.float32)], out)[0])
    assert "sizes" in op.declines(hand_made("Resize", [image(), None, None, np.ones(4, np.int64)], out)[0])
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    assert "roi" in op.declines(hand_made("Resize", [image(), np.ones(8, np.float32), scales(1, 1, 2, 2)], out, crop)[0])
    assert "roi" in op.declines(hand_made("Resize", [image(), None, scales(1, 1, 2, 2)], out, crop)[0])
    assert "unknown" in op.declines(hand_made("Resize", [image(), None, scales(1, 1, 2, 2)], out, {"mode": "area"})[0])
    assert op.declines(hand_made("Resize", [image(), np.ones(8, np.float32), scales(1, 1, 2, 2)], out)[0]) is None
