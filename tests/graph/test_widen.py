"""Models in half precision are computed in single precision, unless the setting says otherwise; what goes in and comes out stays half."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import coexec
from coexec import settings
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare

HALF, SINGLE, INT = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(1)
X = RNG.standard_normal((1, 8, 12, 12)).astype(np.float16)
W = (RNG.standard_normal((64, 8, 3, 3)) / 9).astype(np.float16)


def half_net(nodes=(), last="c", inputs=(), more=()):
    """A convolution in half precision, and what follows it."""
    made = [helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1] * 4), *nodes]
    graph = helper.make_graph(made, "half", [helper.make_tensor_value_info("x", HALF, X.shape), *inputs],
                              [helper.make_tensor_value_info(last, HALF, None)],
                              [numpy_helper.from_array(a, n) for n, a in {"w": W, **dict(more)}.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected():
    with coexec.InferenceSession(single_net(), strategy="cpu") as session:
        return session.run(None, {"x": X.astype(np.float32)})[0]


def single_net():
    node = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4)
    graph = helper.make_graph([node], "single", [helper.make_tensor_value_info("x", SINGLE, X.shape)],
                              [helper.make_tensor_value_info("c", SINGLE, None)],
                              [numpy_helper.from_array(W.astype(np.float32), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dtypes(graph):
    return {str(v.dtype) for n in graph.nodes if n.op_type != "Cast" for v in (*n.inputs, *n.outputs) if v is not None and v.dtype.kind == "f"}


@pytest.mark.parametrize("strategy", ["cpu", "gpu", "fixed:gpu=0.5"])
def test_half_goes_in_and_comes_out(strategy):
    with coexec.InferenceSession(half_net(), strategy=strategy) as session:
        assert [(a.name, a.type) for a in (*session.get_inputs(), *session.get_outputs())] == [("x", "tensor(float16)"), ("c", "tensor(float16)")]
        (found,) = session.run(None, {"x": X})
        assert found.dtype == np.float16 and dtypes(session.graph) == {"float32"}
    np.testing.assert_allclose(found, expected().astype(np.float16), rtol=2e-3, atol=1e-4)


def test_a_setting_keeps_halves():
    with settings.override(half=True), coexec.InferenceSession(half_net(), strategy="cpu") as session:
        (found,) = session.run(None, {"x": X})
        assert dtypes(session.graph) == {"float16"}
    np.testing.assert_allclose(found, expected().astype(np.float16), rtol=2e-2, atol=2e-2)


def test_models_of_numbers_and_vectors_stay():
    graph = helper.make_graph([helper.make_node("Mul", ["x", "k"], ["y"])], "g", [helper.make_tensor_value_info("x", HALF, [3])],
                              [helper.make_tensor_value_info("y", HALF, [3])], [numpy_helper.from_array(np.float16(3), "k")])
    assert dtypes(prepare(load_model(helper.make_model(graph)))) == {"float16"}


def test_casts_constants_and_branches_follow():
    """A branch reads the convolution and has a half constant of its own; a Cast to half is nothing any more."""
    def branch(value):
        nodes = [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float16(value))),
                 helper.make_node("Mul", ["c", "k"], ["r"])]
        return helper.make_graph(nodes, f"b{value}", [], [helper.make_tensor_value_info("r", HALF, None)])

    nodes = [helper.make_node("ReduceMax", ["n"], ["m"], keepdims=0), helper.make_node("Greater", ["m", "limit"], ["big"]),
             helper.make_node("If", ["big"], ["t"], then_branch=branch(2), else_branch=branch(3)),
             helper.make_node("Cast", ["n"], ["nf"], to=HALF), helper.make_node("ReduceMean", ["nf"], ["mean"], keepdims=0),
             helper.make_node("Mul", ["t", "mean"], ["y"])]
    made = half_net(nodes, "y", [helper.make_tensor_value_info("n", INT, [2, 600])], {"limit": np.array(5)}.items())
    for largest in (4, 9):
        n = np.full((2, 600), 2)
        n[0, 0] = largest
        with coexec.InferenceSession(made, strategy="cpu") as session:
            (found,) = session.run(None, {"x": X, "n": n})
        np.testing.assert_allclose(found, expected() * n.mean() * (2 if largest > 5 else 3), rtol=5e-3, atol=5e-3)


def test_weights_that_stay_in_a_large_file(tmp_path):
    big = RNG.standard_normal((1024, 1024)).astype(np.float16)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", HALF, [2, 1024])],
                              [helper.make_tensor_value_info("y", HALF, [2, 1024])],
                              [numpy_helper.from_array(big, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    x = RNG.standard_normal((2, 1024)).astype(np.float16)
    with coexec.InferenceSession(str(tmp_path / "m.onnx"), strategy="cpu") as session:
        (found,) = session.run(None, {"x": x})
        assert dtypes(session.graph) == {"float32"}
    np.testing.assert_allclose(found, (x.astype(np.float32) @ big.astype(np.float32)).astype(np.float16), rtol=2e-3, atol=5e-2)
