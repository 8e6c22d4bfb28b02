"""InferenceSession as a user meets it, and what it says to bad input."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import coexec
from coexec.errors import InputError, ModelError, PlanMismatch, UsageError
from coexec.runtime.feeds import Familiar


def relu(shape, kind=TensorProto.FLOAT):
    info = [helper.make_tensor_value_info(n, kind, shape) for n in ("x", "y")]
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="r")], "g", info[:1], info[1:]))


def test_it_has_the_shape_of_onnx_runtime():
    session = coexec.InferenceSession(relu(["N", 4]).SerializeToString(), strategy="cpu")
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape, x.type) == ("x", ["N", 4], "tensor(float)") and y.name == "y"
    data = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(session.run(None, {"x": data})[0], np.maximum(data, 0))
    np.testing.assert_array_equal(session.run(["y"], {"x": data[:1]})[0], np.maximum(data[:1], 0))
    assert session.get_outputs()[0].shape == [1, 4]
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run(None, {"x": data})


BAD_FEEDS = [
    ({}, "missing input 'x' float32\\[N,4\\]: found no feeds"),
    ({"z": 1}, "no input 'z'.*expected 'x' float32"),
    ({"x": np.zeros((2, 4))}, "input 'x'.*wrong element type: found float64, expected float32.*astype"),
    ({"x": np.zeros((2, 5), np.float32)}, "input 'x'.*wrong shape: found \\[2, 5\\], expected float32\\[N,4\\]"),
    ({"x": np.zeros(4, np.float32)}, "input 'x'.*wrong shape: found \\[4\\]"),
    ([1, 2], "feeds must be a dict"),
]


@pytest.mark.parametrize("feeds, message", BAD_FEEDS)
def test_bad_feeds_are_named(feeds, message):
    session = coexec.InferenceSession(relu(["N", 4]), strategy="cpu")
    with pytest.raises(InputError, match=message) as caught:
        session.run(None, feeds)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_unknown_outputs_and_strategies_suggest():
    session = coexec.InferenceSession(relu([4]), strategy="cpu")
    with pytest.raises(UsageError, match="no output 'yy'; did you mean y"):
        session.run(["yy"], {"x": np.zeros(4, np.float32)})
    with pytest.raises(UsageError, match="flop.*did you mean flops"):
        coexec.InferenceSession(relu([4]), strategy="flop")


def test_shapes_given_at_creation_must_fit():
    options = coexec.SessionOptions(shapes={"x": (3, 5)})
    with pytest.raises(ModelError, match="contradicts the model"):
        coexec.InferenceSession(relu(["N", 4]), options, strategy="cpu")
    with pytest.raises(InputError, match="no input 'a'"):
        coexec.InferenceSession(relu(["N", 4]), coexec.SessionOptions(shapes={"a": (3, 4)}), strategy="cpu")


def test_a_plan_is_replayed_and_refused_for_another_model(tmp_path):
    path = tmp_path / "plan.json"
    coexec.plan(relu([64, 64]), strategy="fixed:gpu=0.5").save(path)
    data = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(64, 64)
    with coexec.InferenceSession(relu([64, 64]), plan=str(path)) as session:
        assert session.plan["r"].devices == ("gpu", "cpu")
        np.testing.assert_array_equal(session.run(None, {"x": data})[0], np.maximum(data, 0))
    with pytest.raises(PlanMismatch, match="another model"):
        coexec.InferenceSession(relu([64, 32]), plan=str(path))


def test_the_same_session_serves_several_threads():
    import threading

    wrong = []
    with coexec.InferenceSession(relu([64, 64]), strategy="fixed:gpu=0.5") as session:
        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(20):
                x = rng.standard_normal((64, 64)).astype(np.float32)
                if not np.array_equal(session.run(None, {"x": x})[0], np.maximum(x, 0)):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong


def test_a_wrong_kernel_is_caught_by_check():
    from coexec.errors import NumericMismatch
    from coexec.runtime.executor import PreparedRun

    with coexec.InferenceSession(relu([8, 8]), coexec.SessionOptions(check=True), strategy="cpu") as session:
        prepared: PreparedRun = session._ready
        step, action = prepared.actions[-1]

        def wrong():
            action()
            prepared.views[step.node.output].array[3, 4] = 99

        prepared.actions[-1] = (step, wrong)
        with pytest.raises(NumericMismatch, match=r"Relu 'r' .*found 99 at index \[3, 4\]"):
            session.run(None, {"x": np.ones((8, 8), np.float32)})


def test_inputs_that_decide_shapes_are_bound_by_value():
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6]), helper.make_tensor_value_info("s", TensorProto.INT64, [2])]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"], name="r"), helper.make_node("Relu", ["r"], ["y"], name="a")]
    data = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    with coexec.InferenceSession(helper.make_model(helper.make_graph(nodes, "g", info, out)), strategy="cpu") as session:
        for shape in ([3, 4], [4, 3], [3, 4], [-1, 2], *([1 + i, -1] for i in (0, 1, 2, 3, 5)) , [12, 1]):
            found = session.run(None, {"x": data, "s": np.array(shape)})[0]
            np.testing.assert_array_equal(found, np.maximum(data.reshape(shape), 0))
        assert all(n.is_static for n in session.graph.nodes) and not session.plan["a"].note
        from coexec.api import session as api
        session._values_seen = api.SPECIALISED_VALUES  # a caller whose values never repeat gets the dynamic path
        for shape in ([6, 2], [2, 6]):
            found = session.run(None, {"x": data, "s": np.array(shape)})[0]
            np.testing.assert_array_equal(found, np.maximum(data.reshape(shape), 0))
        assert session.plan["a"].note.startswith("fallback")


def test_feeds_like_the_last_ones_pass_unchecked_and_no_others():
    familiar = Familiar()
    x = np.zeros((2, 3), np.float32)
    assert not familiar.knows({"x": x}) and not familiar.knows({})
    familiar.learn({"x": x})
    assert familiar.knows({"x": np.ones((2, 3), np.float32)})
    for other in ({"x": x.astype(">f4")}, {"x": x.astype(np.float64)}, {"x": x[:1]}, {"y": x}, {"x": x, "y": x}, {"x": x.tolist()}, {}, None, [x]):
        assert not familiar.knows(other)
    familiar.learn({"x": x, "words": np.array(["a"], object)})
    assert not familiar.knows({"x": x, "words": np.array(["a"], object)}), "the checks convert these"


def test_familiar_feeds_run_the_plan_of_their_own_shape():
    """Between two runs of one shape a checked run of another makes its own plan the current one."""
    short, long = (np.full((n, 8), n, np.float32) for n in (2, 5))
    with coexec.InferenceSession(relu(["N", 8]), strategy="cpu") as session:
        for feed in (short, short, long, short):
            assert np.array_equal(session.run(None, {"x": feed})[0], feed)
        session.run_checked({"x": long})
        assert np.array_equal(session.run(None, {"x": short})[0], short)
