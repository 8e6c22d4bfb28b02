"""Normalizations: equal onnx.reference (plain NumPy or onnxruntime where the reference is wrong), and keep the law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.ops.base import find_op
from coexec.regions import Region

from .law import LAW, Const, assert_close, assert_law, assert_matches, compute_whole, make_node, ort_reference, reference

SEEDS = st.integers(0, 1000)


def normal(rng, *shape, dtype=np.float32):
    return (rng.standard_normal(shape) * 2 + 0.5).astype(dtype)


def names_of(node):
    return [a.name for a in find_op("", node.op_type).split_axes(node)]


def shapes(low=2, high=5, extent=5):
    return st.lists(st.integers(1, extent), min_size=low, max_size=high).map(tuple)


@LAW
@given(shapes(), SEEDS, st.sampled_from([np.float32, np.float64, np.float16]))
def test_batch_normalization(shape, seed, dtype):
    rng = np.random.default_rng(seed)
    scale, bias, mean, var = (normal(rng, shape[1], dtype=np.float64 if dtype == np.float64 else np.float32) for _ in range(4))
    parameters = [Const(p) for p in (scale, bias, mean, np.abs(var) + 0.1)]
    x = normal(rng, *shape, dtype=dtype)
    node, arrays = make_node("BatchNormalization", [x, *parameters], {"epsilon": 1e-3})
    assert_matches(node, arrays)
    assert_law(node, rng, arrays)
    assert len(names_of(node)) == sum(d > 1 for d in shape)


@LAW
@given(shapes(), SEEDS, st.sampled_from([np.float32, np.float64, np.float16]), st.sampled_from([[True], [True, True, True], [True, False, True]]))
def test_batch_normalization_in_training(shape, seed, dtype, outputs):
    rng = np.random.default_rng(seed)
    kind = np.float64 if dtype == np.float64 else np.float32
    scale, bias, mean, var = (normal(rng, shape[1], dtype=kind) for _ in range(4))
    x, momentum = normal(rng, *shape, dtype=dtype), float(np.float32(0.7))

    def judge(node, arrays):  # the reference knows three outputs only, and gives them all in the first one's type
        wide = x.astype(kind)
        axes = tuple(d for d in range(x.ndim) if d != 1)
        own = wide.mean(axis=axes), wide.var(axis=axes)
        column = (-1, *(1,) * (x.ndim - 2))
        y = (wide - own[0].reshape(column)) / np.sqrt(own[1].reshape(column) + float(np.float32(1e-3))) * scale.reshape(column) + bias.reshape(column)
        return [y.astype(dtype), *((old * momentum + new * (1 - momentum)).astype(kind) if wanted else None
                                   for wanted, old, new in zip(outputs[1:], (mean, np.abs(var)), own))]

    node, arrays = make_node("BatchNormalization", [x, scale, bias, mean, np.abs(var)], {"epsilon": 1e-3, "momentum": 0.7, "training_mode": 1},
                             outputs, judge=judge)
    assert_matches(node, arrays, judge(node, arrays), ulps=4096)
    assert_law(node, rng, arrays)
    assert names_of(node) == ["channel"] * (shape[1] > 1)


def test_batch_normalization_of_another_opset_in_training_is_declined():
    parameters = [Const(np.ones(3, np.float32))] * 4
    node, _ = make_node("BatchNormalization", [np.ones((2, 3, 4), np.float32), *parameters])
    op = find_op("", "BatchNormalization")
    assert op.declines(node) is None
    assert "training" in op.declines(replace(node, outputs=(*node.outputs, *node.inputs[3:])))
    five = replace(node, outputs=(*node.outputs, *node.inputs[1:]), attributes={"training_mode": 1})
    assert "opset 14" in op.declines(five)
    empty, _ = make_node("BatchNormalization", [np.ones((0, 3, 4), np.float32), *parameters])
    assert "no elements" in op.declines(replace(empty, attributes={"training_mode": 1}))


@LAW
@given(shapes(3), SEEDS)
def test_instance_normalization(shape, seed):
    rng = np.random.default_rng(seed)
    node, arrays = make_node("InstanceNormalization", [normal(rng, *shape), *(Const(normal(rng, shape[1])) for _ in range(2))],
                             {"epsilon": 0.01})
    assert_matches(node, arrays)
    assert_law(node, rng, arrays)
    assert set(names_of(node)) <= {"batch", "channel"}


@LAW
@given(shapes(3), st.integers(1, 3), SEEDS)
def test_group_normalization(shape, groups, seed):
    rng = np.random.default_rng(seed)
    shape = (shape[0], groups * shape[1], *shape[2:])
    node, arrays = make_node("GroupNormalization", [normal(rng, *shape), *(Const(normal(rng, shape[1])) for _ in range(2))],
                             {"num_groups": groups, "epsilon": 0.01})
    assert_matches(node, arrays)
    assert_law(node, rng, arrays)
    assert ("channel" in names_of(node)) == (groups > 1)


@st.composite
def trailing(draw, op_type):
    shape = draw(shapes(1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(draw(SEEDS))
    tail = shape[axis % len(shape):]
    parameters = [normal(rng, *(draw(st.sampled_from([d, d, 1])) for d in draw(st.sampled_from([tail, tail, shape]))))
                  for _ in range(draw(st.integers(1, 2)) if op_type == "LayerNormalization" else 1)]
    many = [[True], [True, True, True], [True, False, True], [True, True]]
    outputs = draw(st.sampled_from(many if op_type == "LayerNormalization" else [1]))
    return make_node(op_type, [normal(rng, *shape), *parameters], {"axis": axis, "epsilon": 0.01}, outputs)


@LAW
@given(trailing("LayerNormalization"), SEEDS)
def test_layer_normalization(example, seed):
    node, arrays = example
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(seed), arrays)


@LAW
@given(trailing("RMSNormalization"), SEEDS)
def test_rms_normalization(example, seed):
    node, arrays = example
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(seed), arrays)


def test_trailing_axes_are_never_cut():
    x, scale = np.zeros((2, 3, 4, 5), np.float32), Const(np.ones(5, np.float32))
    assert names_of(make_node("LayerNormalization", [x, scale])[0]) == ["height", "channel", "batch"]
    assert names_of(make_node("RMSNormalization", [x, scale], {"axis": 2})[0]) == ["channel", "batch"]
    assert names_of(make_node("LayerNormalization", [x, scale], {"axis": 0})[0]) == []


@LAW
@given(st.integers(1, 3), st.integers(1, 9), shapes(2, 2), st.integers(1, 6), SEEDS)
def test_lrn(batch, channels, plane, size, seed):
    rng = np.random.default_rng(seed)
    node, arrays = make_node("LRN", [normal(rng, batch, channels, *plane)], {"size": size, "alpha": 0.5, "beta": 0.6, "bias": 1.5},
                             judge=lambda n, arrays: arrays)
    x = arrays[0].astype(np.float64)
    squares = np.zeros_like(x)
    for c in range(channels):
        squares[:, c] = (x[:, max(0, c - (size - 1) // 2):c + size // 2 + 1] ** 2).sum(axis=1)
    assert_matches(node, arrays, [(x / (1.5 + 0.5 / size * squares) ** 0.6).astype(np.float32)])
    if size % 2:
        assert_matches(node, arrays, ort_reference(node, arrays))
    assert_law(node, rng, arrays)


def test_lrn_channel_piece_reads_a_halo():
    node, _ = make_node("LRN", [np.zeros((1, 12, 2, 2), np.float32)], {"size": 5}, judge=lambda n, arrays: arrays)
    regions = find_op("", "LRN").input_regions(node, Region.whole(node.output.shape).replace(1, (4, 6)))
    assert regions[0][1] == (2, 8)


@LAW
@given(shapes(1), st.integers(-5, 4), st.sampled_from([1, 2]), SEEDS)
def test_lp_normalization(shape, axis, p, seed):
    rng = np.random.default_rng(seed)
    axis = axis % len(shape)
    x = normal(rng, *shape)
    x[..., :1] *= rng.random() < 0.5
    node, arrays = make_node("LpNormalization", [x], {"axis": axis, "p": p}, judge=lambda n, arrays: arrays)
    norm = np.linalg.norm(x.astype(np.float64), p, axis=axis, keepdims=True)
    assert_matches(node, arrays, [np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(np.float32)])
    assert_law(node, rng, arrays)


def test_lp_normalization_of_the_reference():
    x = normal(np.random.default_rng(0), 3, 4, 5)
    node, arrays = make_node("LpNormalization", [x])
    assert_matches(node, arrays)


@LAW
@given(shapes(4, 4), st.none() | st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True), SEEDS)
def test_mean_variance_normalization(shape, axes, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(d + 1 for d in shape)
    node, arrays = make_node("MeanVarianceNormalization", [normal(rng, *shape)], {"axes": axes})
    # onnx's function subtracts E(x)^2 from E(x^2) in float32 and loses digits on small examples, so NumPy's std is the judge.
    over = tuple(axes or (0, 2, 3))
    x = arrays[0].astype(np.float64)
    expected = (x - x.mean(axis=over, keepdims=True)) / (x.std(axis=over, keepdims=True) + 1e-9)
    assert_matches(node, arrays, [expected.astype(np.float32)], ulps=4096)
    assert_law(node, rng, arrays)
    assert len(names_of(node)) == 4 - len(over)


def test_mean_variance_normalization_of_the_reference():
    node, arrays = make_node("MeanVarianceNormalization", [normal(np.random.default_rng(0), 2, 3, 4, 5)])
    assert_close(compute_whole(node, arrays)[0], reference(node, arrays)[0], ulps=256)


@pytest.mark.parametrize("op_type, attributes, parameters, outputs", [
    ("InstanceNormalization", {}, 2, 1), ("GroupNormalization", {"num_groups": 2}, 2, 1), ("LayerNormalization", {}, 2, 3),
    ("RMSNormalization", {}, 1, 1), ("LRN", {"size": 3}, 0, 1), ("LpNormalization", {}, 0, 1), ("MeanVarianceNormalization", {}, 0, 1),
])
def test_float16_is_computed_in_float32(op_type, attributes, parameters, outputs):
    rng = np.random.default_rng(11)
    arrays = [normal(rng, *s, dtype=np.float16) for s in ((2, 4, 3, 4), (4,), (4,))[:1 + parameters]]
    wide, wide_arrays = make_node(op_type, [a.astype(np.float32) for a in arrays], attributes, outputs,
                                  judge=(lambda n, arrays: arrays) if op_type == "LRN" else None)
    expected = [a.astype(np.float16) for a in compute_whole(wide, wide_arrays)]
    node, arrays = make_node(op_type, arrays, attributes, outputs, judge=lambda n, a: expected)
    assert_matches(node, arrays, expected, ulps=1)
    assert_law(node, rng, arrays)
