"""ONNX in: every way in, every old form, and every defect named."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from coexec.errors import InvalidModel, ModelError, UnsupportedOps
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import bind_shapes, infer_and_fold, prepare
from coexec.ops.evaluate import evaluate


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, weights=(), opset=17, **more):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)


RELU = model([helper.make_node("Relu", ["x"], ["y"], name="r")], [info("x", [2, 3])], [info("y", [2, 3])])


def test_a_model_comes_in_as_file_bytes_and_message(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(RELU, path)
    texts = {str(load_model(s)).split("\n", 1)[1] for s in (path, str(path), path.read_bytes(), RELU)}
    assert len(texts) == 1 and "Relu(%x)" in texts.pop()


def test_external_data_is_found_beside_the_file_and_missed_by_name(tmp_path):
    big = model([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", [64, 64])], [info("y", [64, 64])],
                [("w", np.ones((64, 64), np.float32))])
    path = tmp_path / "m.onnx"
    onnx.save_model(big, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    graph = load_model(path)
    assert graph.nodes[0].inputs[1].data.sum() == 4096
    with pytest.raises(InvalidModel, match="weights are missing"):
        load_model(path.read_bytes())
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InvalidModel, match="weights are missing.*w.bin"):
        load_model(path)


@pytest.mark.parametrize("data", [b"", b"hello, this is a text file", RELU.SerializeToString()[:-20], b"\x00" * 100])
def test_what_is_not_onnx_is_refused_in_one_line(tmp_path, data):
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and "bad.onnx" in str(caught.value) or "nothing makes" in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(InvalidModel, match="no-such.onnx.*No such file"):
        load_model("no-such.onnx")


def test_all_unsupported_operators_are_listed_at_once():
    nodes = [helper.make_node("Relux", ["x"], ["a"], name="one"), helper.make_node("Frobnicate", ["a"], ["y"], name="two", domain="my.ops")]
    with pytest.raises(UnsupportedOps) as caught:
        load_model(model(nodes, [info("x", [1])], [info("y", [1])]))
    text = str(caught.value)
    assert "Relux 'one'" in text and "my.ops::Frobnicate 'two'" in text and "did you mean Relu" in text and caught.value.exit_code == 4


def test_a_cycle_is_named():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="p"), helper.make_node("Relu", ["a"], ["b"], name="q")]
    with pytest.raises(InvalidModel, match="cycle.*Add 'p', Relu 'q'"):
        load_model(model(nodes, [info("x", [1])], [info("b", [1])]))


def test_a_tensor_nobody_makes_is_named():
    with pytest.raises(InvalidModel, match="Add 'p'.*nothing makes the tensor 'w'"):
        load_model(model([helper.make_node("Add", ["x", "w"], ["y"], name="p")], [info("x", [1])], [info("y", [1])]))


def test_two_tensors_of_one_name_are_refused():
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="p"), helper.make_node("Abs", ["x"], ["y"], name="q")]
    with pytest.raises(InvalidModel, match="two things are named 'y'"):
        load_model(model(nodes, [info("x", [1])], [info("y", [1])]))


def test_an_opset_too_new_is_refused():
    for opset in (999,):
        with pytest.raises(InvalidModel, match=f"opset {opset}"):
            load_model(model(RELU.graph.node, [info("x", [1])], [info("y", [1])], opset=opset))


def test_shapes_that_do_not_fit_name_the_node():
    bad = model([helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], [info("x", [2, 3])], [info("y", [2, 2])],
                [("w", np.ones((4, 2), np.float32))])
    with pytest.raises(InvalidModel, match="MatMul 'mm'"):
        prepare(load_model(bad))


def test_nodes_in_any_order_are_sorted():
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Abs", ["x"], ["a"])]
    graph = load_model(model(nodes, [info("x", [1])], [info("y", [1])]))
    assert [n.op_type for n in graph.nodes] == ["Abs", "Relu"]


def test_symbols_are_bound_together():
    nodes = [helper.make_node("Concat", ["x", "z"], ["y"], axis=1)]
    graph = load_model(model(nodes, [info("x", ["N", 3]), info("z", ["N", 4])], [info("y", None)]))
    assert graph.inputs[0].type.shape == ("N", 3)
    bound = infer_and_fold(bind_shapes(graph, {"x": (5, 3)}))
    assert bound.outputs[0].type.shape == (5, 7) and bound.is_static
    with pytest.raises(ModelError, match="'N' would have two sizes"):
        bind_shapes(graph, {"x": (5, 3), "z": (6, 4)})
    with pytest.raises(ModelError, match="contradicts the model"):
        bind_shapes(graph, {"x": (5, 9)})


def test_sizes_without_a_name_are_two():
    """Some exporters call every open size `?`; negative ones are open, too."""
    graph = load_model(model([helper.make_node("Relu", ["x"], ["y"])], [info("x", ["?", 3, "?", -1])], [info("y", None)]))
    assert graph.inputs[0].type.shape == (None, 3, None, None)
    assert bind_shapes(graph, {"x": (1, 3, 48, 192)}).inputs[0].shape == (1, 3, 48, 192)


def test_numbers_fold_through_views():
    """A size on its way through Identity, Squeeze and Unsqueeze stays known."""
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["n"]), helper.make_node("Identity", ["n"], ["m"]),
             helper.make_node("Unsqueeze", ["m", "axes"], ["m1"]), helper.make_node("Concat", ["m1", "rest"], ["shape"], axis=0),
             helper.make_node("Reshape", ["x", "shape"], ["y"])]
    made = model(nodes, [info("x", ["N", 2, 3])], [info("y", None)], [("zero", np.array(0)), ("axes", np.array([0])), ("rest", np.array([-1]))])
    graph = infer_and_fold(bind_shapes(load_model(made), {"x": (4, 2, 3)}))
    assert [n.op_type for n in graph.nodes] == ["Reshape"] and graph.outputs[0].type.shape == (4, 6)


def test_shape_arithmetic_folds_away():
    """Shape -> Gather -> Concat -> Reshape, as exporters write a flatten."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]), helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"])]
    made = model(nodes, [info("x", ["N", 2, 3])], [info("y", None)],
                 [("zero", np.array(0)), ("axes", np.array([0])), ("rest", np.array([-1]))])
    graph = prepare(load_model(made), {"x": (4, 2, 3)})
    assert [n.op_type for n in graph.nodes] == ["Reshape"] and graph.outputs[0].shape == (4, 6)


def test_local_functions_are_inlined():
    function = helper.make_function("my", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)])
    graph = helper.make_graph([helper.make_node("Twice", ["x"], ["y"], domain="my")], "g", [info("x", [2])], [info("y", [2])])
    made = helper.make_model(graph, functions=[function], opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my", 1)])
    assert evaluate(prepare(load_model(made)), {"x": np.ones(2, np.float32)})["y"].tolist() == [2, 2]


X = np.linspace(-4, 4, 48, dtype=np.float32).reshape(2, 4, 6)
IMAGE = np.linspace(-4, 4, 32, dtype=np.float32).reshape(1, 2, 4, 4)
OLD_FORMS = [
    (7, "Clip", dict(min=-1.0, max=2.0), X, 1), (7, "Clip", dict(max=2.0), X, 1), (10, "Clip", dict(min=0.0), X, 1),
    (7, "Squeeze", dict(axes=[0]), X[:1], 1), (7, "Squeeze", dict(), X[:1], 1), (11, "Unsqueeze", dict(axes=[0, 2]), X, 1),
    (11, "ReduceSum", dict(axes=[1], keepdims=0), X, 1), (17, "ReduceMean", dict(axes=[-1]), X, 1), (13, "ReduceMax", dict(keepdims=0), X, 1),
    (7, "Slice", dict(starts=[1, 0], ends=[3, -1], axes=[1, 2]), X, 1), (9, "Slice", dict(starts=[0], ends=[1]), X, 1),
    (11, "Split", dict(axis=1, split=[1, 3]), X, 2), (11, "Split", dict(axis=2), X, 2),
    (7, "Pad", dict(pads=[0, 1, 2, 0, 0, 1], value=3.0), X, 1), (10, "Pad", dict(pads=[0, 1, 2, 0, 0, 1], mode="reflect"), X, 1),
    (7, "Softmax", dict(), X, 1), (12, "Softmax", dict(axis=2), X, 1), (11, "LogSoftmax", dict(axis=0), X, 1), (9, "Hardmax", dict(), X, 1),
    (7, "Dropout", dict(ratio=0.5), X, 1), (11, "Dropout", dict(ratio=0.5), X, 1),
    (7, "Upsample", dict(mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]), IMAGE, 1),
    (7, "Upsample", dict(mode="linear", scales=[1.0, 1.0, 2.0, 2.0]), IMAGE, 1),
]


@pytest.mark.parametrize("opset, op, attributes, x, outputs", OLD_FORMS, ids=lambda v: str(v) if isinstance(v, (int, str)) else "")
def test_old_forms_mean_what_onnx_runtime_says(opset, op, attributes, x, outputs):
    import onnxruntime
    names = [f"y{i}" for i in range(outputs)]
    made = model([helper.make_node(op, ["x"], names, **attributes)], [info("x", x.shape)], [info(n, None) for n in names], opset=opset, ir_version=8)
    expected = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    graph = prepare(load_model(made))
    found = evaluate(graph, {"x": x})
    for name, reference in zip(names, expected):
        np.testing.assert_allclose(found[name], reference, atol=1e-6)
        assert graph.outputs[names.index(name)].type.shape == reference.shape


def test_resize_10_was_asymmetric():
    import onnxruntime
    made = model([helper.make_node("Resize", ["x", "s"], ["y"], mode="nearest")], [info("x", IMAGE.shape)], [info("y", None)],
                 [("s", np.array([1, 1, 1.5, 2], np.float32))], opset=10, ir_version=8)
    expected = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": IMAGE})[0]
    np.testing.assert_allclose(evaluate(prepare(load_model(made)), {"x": IMAGE})["y"], expected)


def test_control_flow_with_captured_values_runs_by_the_reference():
    then = helper.make_graph([helper.make_node("Add", ["x", "w"], ["t"])], "then", [], [info("t", [2])])
    other = helper.make_graph([helper.make_node("Sub", ["x", "w"], ["e"])], "else", [], [info("e", [2])])
    made = model([helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
                 [info("x", [2]), info("c", [], TensorProto.BOOL)], [info("y", [2])], [("w", np.array([1, 2], np.float32))])
    x = np.array([10, 20], np.float32)
    for condition, expected in ((True, [11, 22]), (False, [9, 18])):
        assert evaluate(prepare(load_model(made)), {"x": x, "c": np.array(condition)})["y"].tolist() == expected


def sparse(values=(5.0,), places=((1, 2),), shape=(2, 3), kind=TensorProto.FLOAT):
    """x + a sparse initializer."""
    made = model([helper.make_node("Add", ["x", "w"], ["y"], name="a")], [info("x", [2, 3])], [info("y", [2, 3])])
    held = numpy_helper.from_array(np.array(values, np.float32), "w")
    held.data_type = kind
    made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=held, indices=numpy_helper.from_array(np.array(places, np.int64)), dims=shape))
    return made


def test_a_sparse_initializer_is_dense_here():
    (y,) = evaluate(infer_and_fold(bind_shapes(load_model(sparse()), {})), {"x": np.ones((2, 3), np.float32)}).values()
    np.testing.assert_array_equal(y, [[1, 1, 1], [1, 1, 6]])


@pytest.mark.parametrize("more", [{"kind": TensorProto.UNDEFINED}, {"places": ((9, 9),)}, {"shape": (-2, 3)}, {"shape": (2**40, 2**20)},
                                  {"shape": (2**62, 3)}, {"shape": ()}, {"values": (1.0, 2.0, 3.0)}], ids=str)
def test_a_damaged_sparse_initializer_is_refused(more):
    with pytest.raises(InvalidModel, match="sparse initializer 'w' is damaged"):
        load_model(sparse(**more))
