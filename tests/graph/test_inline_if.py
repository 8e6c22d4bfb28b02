"""An If whose condition is known is the branch that it takes: the same answers, and nothing left that onnx's reference must compute."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import coexec
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import bind_shapes, deciding_inputs, infer_and_fold, prepare
from coexec.ops.evaluate import evaluate

from .test_import import info, model

X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def body(name, nodes, outputs, initializers=()):
    """A branch; what it reads and does not make is the outer graph's."""
    made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    return helper.make_graph(nodes, name, [], made, [numpy_helper.from_array(np.asarray(a), n) for n, a in initializers])


def choice(condition, outputs, then, other):
    return helper.make_node("If", [condition], outputs, name="if", then_branch=then, else_branch=other)


def doubling(outputs=("t",)):
    """Both branches make values of the same names, one of them with a constant of its own."""
    then = body("then", [helper.make_node("Mul", ["x", "k"], ["inner"]), helper.make_node("Relu", ["inner"], list(outputs))], outputs,
                [("k", np.float32(2))])
    other = body("else", [helper.make_node("Neg", ["x"], ["inner"]), helper.make_node("Relu", ["inner"], list(outputs))], outputs)
    return then, other


def known(condition, nodes, outputs=("y",)):
    made = model(nodes, [info("x", [2, 3])], [info(o, None) for o in outputs], [("c", np.array(condition))])
    return bind_shapes(load_model(made), {})


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_branch_that_is_taken(condition, shape):
    nodes = [choice("c", ["r"], *doubling()), helper.make_node("Add", ["r", "x"], ["y"])]
    graph = known(np.full(shape, condition), nodes)
    after = infer_and_fold(graph)
    assert {n.op_type for n in after.nodes} == ({"Mul", "Relu", "Add"} if condition else {"Neg", "Relu", "Add"})
    assert all(n.is_static for n in after.nodes)
    assert all(n.name.startswith("if/") for n in after.nodes if n.op_type != "Add")
    expected = np.maximum(2 * X if condition else -X, 0) + X
    for each in (graph, after):
        np.testing.assert_array_equal(evaluate(each, {"x": X})["y"], expected)


def test_a_condition_that_is_not_known_stays():
    made = model([choice("c", ["y"], *doubling())], [info("x", [2, 3]), info("c", [], TensorProto.BOOL)], [info("y", None)])
    graph = bind_shapes(load_model(made), {})
    assert [n.op_type for n in infer_and_fold(graph).nodes] == ["If"]


def test_outputs_keep_their_names_and_a_branch_may_hand_on_what_is_outside():
    then = body("then", [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Constant", [], ["b"], value_float=3.0)], ["a", "b"])
    graph = prepare(known(True, [choice("c", ["y", "z"], then, then)], ("y", "z")))
    assert [v.name for v in graph.outputs] == ["y", "z"]
    found = evaluate(graph, {"x": X})
    np.testing.assert_array_equal(found["y"], X)
    assert found["z"] == np.float32(3)


def test_branches_in_branches():
    inner = choice("c", ["t"], *doubling())
    outer = body("outer", [inner, helper.make_node("Neg", ["t"], ["u"])], ["u"])
    nodes = [choice("c", ["y"], outer, outer)]
    graph = known(True, nodes)
    after = infer_and_fold(graph)
    assert [n.op_type for n in after.nodes if n.op_type != "Identity"] == ["Mul", "Relu", "Neg"]
    assert len({n.name for n in after.nodes}) == len(after.nodes)
    np.testing.assert_array_equal(evaluate(after, {"x": X})["y"], -np.maximum(2 * X, 0))


def test_older_operators_in_a_branch_are_read_as_its_model_says():
    """Squeeze had its axes as an attribute; where the shape decides whether there is one to squeeze, PyTorch writes this."""
    squeezed = body("then", [helper.make_node("Squeeze", ["x"], ["t"], axes=[0])], ["t"])
    kept = body("else", [helper.make_node("Identity", ["x"], ["t"])], ["t"])
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["n"]),
             helper.make_node("Equal", ["n", "one"], ["c"]),
             choice("c", ["r"], squeezed, kept), helper.make_node("Relu", ["r"], ["y"])]
    made = model(nodes, [info("x", ["N", 3])], [info("y", None)], [("zero", np.array(0)), ("one", np.array(1))], 11)
    for n, shape in ((1, (3,)), (2, (2, 3))):
        graph = prepare(load_model(made), {"x": (n, 3)})
        assert graph.outputs[0].shape == shape and all(node.is_static for node in graph.nodes)
        np.testing.assert_array_equal(evaluate(graph, {"x": X[:n]})["y"], np.maximum(X[:n], 0).reshape(shape))


def test_a_session_takes_the_branch_that_an_input_decides():
    nodes = [helper.make_node("Reshape", ["rate", "flat"], ["r"]), helper.make_node("Gather", ["r", "zero"], ["first"]),
             helper.make_node("Equal", ["first", "wanted"], ["c"]), choice("c", ["y"], *doubling())]
    made = model(nodes, [info("x", [2, 3]), info("rate", [], TensorProto.INT64)], [info("y", None)],
                 [("flat", np.array([-1])), ("zero", np.array(0)), ("wanted", np.array(16000))])
    for strategy in ("cpu", "fixed:gpu=0.5"):
        with coexec.InferenceSession(made, strategy=strategy) as session:
            for rate in (16000, 8000, 16000):
                expected = np.maximum(2 * X if rate == 16000 else -X, 0)
                np.testing.assert_array_equal(session.run(None, {"x": X, "rate": np.array(rate)})[0], expected)
                assert "If" not in {n.op_type for n in session.graph.nodes}


def test_an_input_that_decides_only_with_others_decides_nothing():
    """A threshold for what a large input holds: its value would make every run prepare anew, and tell no branch."""
    nodes = [helper.make_node("ReduceMax", ["n"], ["m"], keepdims=0), helper.make_node("Greater", ["m", "limit"], ["c"]),
             choice("c", ["y"], *doubling())]
    made = model(nodes, [info("x", [2, 3]), info("n", [30, 40]), info("limit", [])], [info("y", None)])
    assert deciding_inputs(infer_and_fold(bind_shapes(load_model(made), {}))) == ()
