"""Each pass: outputs before == outputs after, on random graphs and on the patterns it is made for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from coexec.graph.onnx_import import load_model
from coexec.graph.passes import (
    bind_shapes,
    drop_dead_code,
    drop_noops,
    fuse_activations,
    fuse_affine,
    fuse_patterns,
    fuse_residuals,
    infer_and_fold,
    prepare,
)
from coexec.ops.evaluate import evaluate
from tests.runtime.random_graphs import random_model

from .test_import import info, model

RNG = np.random.default_rng(7)
PASSES = [drop_dead_code, drop_noops, fuse_patterns, fuse_affine, fuse_residuals, fuse_activations]


def same(before, after, feeds):
    expected, found = evaluate(before, feeds), evaluate(after, feeds)
    assert expected.keys() == found.keys()
    for name, reference in expected.items():
        peak = np.abs(reference).max() if reference.size else 0
        np.testing.assert_allclose(found[name], reference, rtol=0, atol=1e-6 + 2e-5 * peak)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 14))
def test_every_pass_keeps_every_answer(seed, size):
    rng = np.random.default_rng(seed)
    graph = bind_shapes(load_model(random_model(rng, size)), {})
    feeds = {"x": rng.standard_normal(graph.inputs[0].shape).astype(np.float32)}
    before = graph
    for each in (infer_and_fold, *PASSES):
        after = each(before)
        same(before, after, feeds)
        before = after


def conv_graph(tail, weights=(), opset=17, group=1):
    w = RNG.standard_normal((4, 4 // group, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, group=group), *tail]
    return model(nodes, [info("x", [1, 4, 5, 6])], [info("y", None)], [("w", w), *weights], opset)


def vec(n=4, positive=False):
    return np.abs(RNG.standard_normal(n)).astype(np.float32) + 0.5 if positive else RNG.standard_normal(n).astype(np.float32)


BN = [("g", vec()), ("b", vec()), ("m", vec()), ("v", vec(positive=True))]
CASES = {
    "batch norm": conv_graph([helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], epsilon=1e-3)], BN),
    "batch norm and relu": conv_graph([helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
                                       helper.make_node("Relu", ["n"], ["y"])], BN),
    "bias": conv_graph([helper.make_node("Add", ["c", "k"], ["y"])], [("k", vec().reshape(1, 4, 1, 1))]),
    "scale then shift": conv_graph([helper.make_node("Mul", ["s", "c"], ["n"]), helper.make_node("Sub", ["n", "k"], ["y"])],
                                   [("s", vec().reshape(4, 1, 1)), ("k", np.float32(3))]),
    "subtracted from": conv_graph([helper.make_node("Sub", ["k", "c"], ["y"])], [("k", vec().reshape(1, 4, 1, 1))]),
    "grouped batch norm": conv_graph([helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"])], BN, group=4),
    "leaky": conv_graph([helper.make_node("LeakyRelu", ["c"], ["y"], alpha=0.2)]),
    "clip": conv_graph([helper.make_node("Clip", ["c", "lo", "hi"], ["y"])], [("lo", np.float32(0)), ("hi", np.float32(6))]),
    "residual": conv_graph([helper.make_node("Add", ["c", "x"], ["n"]), helper.make_node("Relu", ["n"], ["y"])]),
    "silu": conv_graph([helper.make_node("Sigmoid", ["c"], ["s"]), helper.make_node("Mul", ["c", "s"], ["y"])]),
    "hard swish": conv_graph([helper.make_node("HardSigmoid", ["c"], ["s"], alpha=1 / 6, beta=0.5), helper.make_node("Mul", ["c", "s"], ["y"])]),
    "hard swish spelled out": conv_graph(
        [helper.make_node("Add", ["c", "three"], ["p"]), helper.make_node("Clip", ["p", "lo", "hi"], ["q"]),
         helper.make_node("Mul", ["c", "q"], ["r"]), helper.make_node("Div", ["r", "hi"], ["y"])],
        [("three", np.float32(3)), ("lo", np.float32(0)), ("hi", np.float32(6))]),
    "gelu": conv_graph(
        [helper.make_node("Div", ["c", "root"], ["p"]), helper.make_node("Erf", ["p"], ["q"]), helper.make_node("Add", ["q", "one"], ["r"]),
         helper.make_node("Mul", ["c", "r"], ["s"]), helper.make_node("Mul", ["s", "half"], ["y"])],
        [("root", np.float32(math.sqrt(2))), ("one", np.float32(1)), ("half", np.float32(0.5))]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_should_fuse_fuses_into_one_node_and_keeps_its_answer(name):
    graph = load_model(CASES[name])
    plain, fused = infer_and_fold(graph), prepare(graph)
    assert [n.op_type for n in fused.nodes] == ["Conv"], str(fused)
    same(plain, fused, {"x": RNG.standard_normal((1, 4, 5, 6)).astype(np.float32)})


@pytest.mark.parametrize("transposed", [0, 1])
def test_affine_tails_of_matrix_products(transposed):
    w = RNG.standard_normal((5, 3) if transposed else (3, 5)).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "c"], ["a"], transB=transposed, alpha=0.5, beta=2.0),
             helper.make_node("Mul", ["a", "s"], ["m"]), helper.make_node("Add", ["m", "k"], ["y"])]
    graph = load_model(model(nodes, [info("x", [2, 3])], [info("y", None)], [("w", w), ("c", vec(5)), ("s", vec(5)), ("k", vec(5))]))
    fused = prepare(graph)
    assert [n.op_type for n in fused.nodes] == ["Gemm"]
    same(infer_and_fold(graph), fused, {"x": RNG.standard_normal((2, 3)).astype(np.float32)})
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["k", "a"], ["y"])]
    graph = load_model(model(nodes, [info("x", [4, 2, 3])], [info("y", None)],
                             [("w", RNG.standard_normal((3, 5)).astype(np.float32)), ("k", vec(5))]))
    fused = prepare(graph)
    assert [n.op_type for n in fused.nodes] == ["MatMul"] and len(fused.nodes[0].inputs) == 3
    same(infer_and_fold(graph), fused, {"x": RNG.standard_normal((4, 2, 3)).astype(np.float32)})


@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_into_a_transposed_convolution(group):
    w = RNG.standard_normal((4, 6 // group, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("ConvTranspose", ["x", "w", "c"], ["a"], strides=[2, 2], group=group),
             helper.make_node("BatchNormalization", ["a", "g", "b", "m", "v"], ["y"])]
    weights = [("w", w), ("c", vec(6)), ("g", vec(6)), ("b", vec(6)), ("m", vec(6)), ("v", vec(6, True))]
    graph = load_model(model(nodes, [info("x", [1, 4, 5, 6])], [info("y", None)], weights))
    fused = prepare(graph)
    assert [n.op_type for n in fused.nodes] == ["ConvTranspose"]
    same(infer_and_fold(graph), fused, {"x": RNG.standard_normal((1, 4, 5, 6)).astype(np.float32)})


def test_a_value_somebody_else_reads_is_not_fused_away():
    made = conv_graph([helper.make_node("Relu", ["c"], ["r"]), helper.make_node("Add", ["r", "c"], ["y"])])
    fused = prepare(load_model(made))
    assert [n.op_type for n in fused.nodes] == ["Conv", "Relu", "Add"]
    same(infer_and_fold(load_model(made)), fused, {"x": RNG.standard_normal((1, 4, 5, 6)).astype(np.float32)})
