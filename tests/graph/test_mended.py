"""Operators of which onnx's reference implementation does less than ONNX says: the same answers as ONNX Runtime's."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import coexec

KINDS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "u": TensorProto.UINT8}
RNG = np.random.default_rng(3)


def infos(arrays):
    return [helper.make_tensor_value_info(n, KINDS[a.dtype.kind], a.shape) for n, a in arrays.items()]


def outputs(names, kind=TensorProto.FLOAT):
    return [helper.make_tensor_value_info(n, kind, None) for n in names]


def assert_as_onnx_runtime(node, feeds, constants=None, count=1, kind=TensorProto.FLOAT):
    """A model of that node, run by both."""
    names = list(node.output)[:count]
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph([node], "g", infos(feeds), outputs(names, kind), stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    with coexec.InferenceSession(model, strategy="cpu") as session:
        found = session.run(None, feeds)
    for ours, theirs in zip(found, expected):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(theirs).max(initial=0)))


def body(shape, name="body"):
    """y grows by k in every turn, and is yielded."""
    nodes = [helper.make_node("Identity", ["go"], ["going"]), helper.make_node("Add", ["y", "k"], ["more"]),
             helper.make_node("Mul", ["more", "k"], ["seen"])]
    given = [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
             helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    made = [helper.make_tensor_value_info("going", TensorProto.BOOL, []), helper.make_tensor_value_info("more", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("seen", TensorProto.FLOAT, shape)]
    return helper.make_graph(nodes, name, given, made)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("turns", [0, 1, 4])
@pytest.mark.parametrize("condition", ["", "c"])
def test_loop(shape, turns, condition):
    node = helper.make_node("Loop", ["n", condition, "x"], ["last", "all"], body=body(shape))
    constants = {"n": np.array(turns), "k": np.float32(1.5), **({"c": np.array(True)} if condition else {})}
    assert_as_onnx_runtime(node, {"x": RNG.standard_normal(shape).astype(np.float32)}, constants, 2)


def scan_body():
    """A running sum of rows, which is yielded."""
    nodes = [helper.make_node("Add", ["s", "row"], ["sum"]), helper.make_node("Identity", ["sum"], ["seen"])]
    kind = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("s", "row", "sum", "seen")]
    return helper.make_graph(nodes, "body", kind[:2], kind[2:])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("back", [0, 1])
@pytest.mark.parametrize("out_axis, out_back", [(0, 0), (1, 0), (0, 1), (-1, 1)])
def test_scan(axis, back, out_axis, out_back):
    node = helper.make_node("Scan", ["start", "x"], ["last", "all"], body=scan_body(), num_scan_inputs=1, scan_input_axes=[axis],
                            scan_input_directions=[back], scan_output_axes=[out_axis], scan_output_directions=[out_back])
    x = RNG.standard_normal((5, 3) if axis == 0 else (3, 5)).astype(np.float32)
    assert_as_onnx_runtime(node, {"start": np.zeros(3, np.float32), "x": x}, count=2)


@pytest.mark.parametrize("depth", [np.array(5), np.array([5])])
def test_one_hot(depth):
    node = helper.make_node("OneHot", ["i", "depth", "values"], ["y"], axis=-1)
    assert_as_onnx_runtime(node, {"i": np.array([[0, 4, 2], [-1, 1, 3]])}, {"depth": depth, "values": np.array([0, 2], np.float32)})


@pytest.mark.parametrize("shape, onesided", [*((shape, onesided) for shape in ((2, 100), (2, 100, 1)) for onesided in (None, 0, 1)), ((1, 100, 2), 0)])
@pytest.mark.parametrize("windowed", [True, False])
def test_stft(shape, onesided, windowed):
    given = {"step": np.array(10), **({"w": np.hanning(32).astype(np.float32)} if windowed else {"n": np.array(32)})}
    node = helper.make_node("STFT", ["x", "step", "w"] if windowed else ["x", "step", "", "n"], ["y"],
                            **({} if onesided is None else {"onesided": onesided}))
    assert_as_onnx_runtime(node, {"x": RNG.standard_normal(shape).astype(np.float32)}, given)


@pytest.mark.parametrize("zeros", [(), (128,), (128, 7), (3, [1, 2, 3, 4, 5, 6])])
@pytest.mark.parametrize("shape", [(4, 700), (2, 3, 700)])
def test_products_of_bytes(zeros, shape):
    """Sums of many products of the largest bytes."""
    x, w = np.full(shape, 255, np.uint8), RNG.integers(250, 256, (700, 6)).astype(np.uint8)
    constants = {"w": w, **{f"z{i}": np.array(z, np.uint8) for i, z in enumerate(zeros)}}
    assert_as_onnx_runtime(helper.make_node("MatMulInteger", ["x", "w", *(f"z{i}" for i in range(len(zeros)))], ["y"]), {"x": x}, constants,
                           kind=TensorProto.INT32)
