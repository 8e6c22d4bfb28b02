"""Loops that never end: the time-out ends them, with the node's name and the documented exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import coexec
from coexec import settings
from coexec.errors import LoopTimeout


def looping(trips: int | None, constant: bool = False, nested: bool = False) -> onnx.ModelProto:
    """y = x + 1, `trips` times over (None: for ever), in a body; `constant` lets folding try it, `nested` puts it into an If."""
    def info(name, kind, shape=()):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Add", ["v", "one"], ["w"]), helper.make_node("Identity", ["go"], ["on"])], "body",
        [info("i", TensorProto.INT64), info("go", TensorProto.BOOL), info("v", TensorProto.FLOAT)],
        [info("on", TensorProto.BOOL), info("w", TensorProto.FLOAT)],
        [numpy_helper.from_array(np.float32(1), "one")])
    inputs = ["m" if trips is not None else "", "true", "c" if constant else "x"]
    nodes = [helper.make_node("Loop", inputs, ["l"], name="spin", body=body)]
    if nested:
        branch = helper.make_graph(nodes, "then", [], [info("l", TensorProto.FLOAT)])
        other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [info("e", TensorProto.FLOAT)])
        nodes = [helper.make_node("If", ["yes"], ["l"], name="spin", then_branch=branch, else_branch=other)]
    weights = [numpy_helper.from_array(np.int64(trips or 0), "m"), numpy_helper.from_array(np.array(True), "true"),
               numpy_helper.from_array(np.float32(2), "c")]
    inputs = [info("x", TensorProto.FLOAT), *([info("yes", TensorProto.BOOL)] if nested else [])]
    graph = helper.make_graph([*nodes, helper.make_node("Add", ["l", "x"], ["y"])], "g", inputs, [info("y", TensorProto.FLOAT)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("trips", [None, 2**62])
@pytest.mark.parametrize("nested", [False, True])
def test_an_endless_loop_ends_with_its_name(trips, nested):
    feeds = {"x": np.float32(3).reshape(()), **({"yes": np.array(True)} if nested else {})}
    with settings.override(loop_timeout=0.3), coexec.InferenceSession(looping(trips, nested=nested), strategy="cpu") as session:
        started = time.perf_counter()
        with pytest.raises(LoopTimeout, match="'spin'.*COEXEC_LOOP_TIMEOUT") as caught:
            session.run(None, feeds)
        assert caught.value.exit_code == 6 and time.perf_counter() - started < 3


def test_folding_gives_up_and_leaves_it_to_the_run():
    """An endless loop of constants must not hold up reading the model."""
    started = time.perf_counter()
    with settings.override(loop_timeout=0.3), coexec.InferenceSession(looping(None, constant=True), strategy="cpu") as session:
        assert time.perf_counter() - started < 8
        with pytest.raises(LoopTimeout):
            session.run(None, {"x": np.float32(3).reshape(())})


def test_a_loop_that_ends_is_not_touched():
    with coexec.InferenceSession(looping(50), strategy="cpu") as session:
        assert session.run(None, {"x": np.float32(3).reshape(())})[0] == 56
    with settings.override(loop_timeout=0), coexec.InferenceSession(looping(50), strategy="cpu") as session:
        assert session.run(None, {"x": np.float32(3).reshape(())})[0] == 56


def test_the_command_says_so_in_one_line(tmp_path):
    onnx.save(looping(None), tmp_path / "m.onnx")
    done = subprocess.run([sys.executable, "-m", "coexec", "run", "m.onnx", "--random", "--strategy", "cpu"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": os.getcwd(), "COEXEC_LOOP_TIMEOUT": "0.5"})
    assert done.returncode == 6 and done.stderr.count("\n") == 1 and "spin" in done.stderr and "Traceback" not in done.stderr, done.stderr
