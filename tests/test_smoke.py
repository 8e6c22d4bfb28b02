"""The test to run between two keystrokes: load, plan, run, compare on a tiny network; needs no GPU."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import coexec
from coexec import settings
from coexec.errors import InputError


def tiny_model() -> onnx.ModelProto:
    """A convolution, a pooling, a fully connected layer: [1, 3, 12, 12] to [1, 5]."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 3, 3, 3)), "b": rng.standard_normal(8), "fc": rng.standard_normal((8, 5)), "flat": None}
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items() if v is not None]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc"], ["y"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def light_model() -> onnx.ModelProto:
    """One Softmax of [1, 3, 12, 12]: of what is cached, as little as can be compiled, for tests whose every process compiles all it needs."""
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 12, 12]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], "softmax")], "light", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module", autouse=True)
def no_gpu():
    with settings.override(opencl="none"):
        yield


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return tiny_model()


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)


def test_load(model):
    graph = coexec.load(model)
    assert [n.op_type for n in graph.nodes] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert str(graph.inputs[0].type) == "float32[1,3,12,12]"


def test_plan_can_be_saved_and_read_again(model, tmp_path):
    plan = coexec.plan(model, strategy="cpu")
    assert plan.devices == {"cpu"} and {p.op_type for p in plan.partitions} >= {"Conv", "Gemm"}
    plan.save(tmp_path / "plan.json")
    assert coexec.Plan.load(tmp_path / "plan.json") == plan


def test_run_equals_the_reference(model, x):
    with coexec.InferenceSession(model, strategy="cpu") as session:
        (found,) = session.run(None, {"x": x})
        assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("x", [1, 3, 12, 12], "tensor(float)")]
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_wrong_feed_is_named(model, x):
    with coexec.InferenceSession(model, strategy="cpu") as session:
        with pytest.raises(InputError, match=r"input 'x'.*wrong shape.*\[1, 3, 11, 12\].*float32\[1,3,12,12\]"):
            session.run(None, {"x": x[:, :, 1:]})


def test_a_saved_plan_runs_without_scikit_learn(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    coexec.plan(model, strategy="cpu").save(tmp_path / "plan.json")
    code = (
        f"import sys; sys.modules['sklearn'] = None; from coexec.cli.main import main; "
        f"sys.exit(main(['run', {str(tmp_path / 'm.onnx')!r}, '--random', '--gpu', 'none', '--plan', {str(tmp_path / 'plan.json')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "y: float32 [1, 5]" in done.stdout, done.stderr
