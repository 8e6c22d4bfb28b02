"""Denormal numbers count as zero while a run lasts, on both sides, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import coexec
from coexec import settings
from coexec.devices.cpu import denormals

TINY = np.float32(1e-39)
CHANNELS, EDGE = 16, 96  # enough work for two threads

needs_x86 = pytest.mark.skipif(not denormals.POSSIBLE, reason="an x86-64 processor is missing: others compute with denormal numbers as quickly as with any")


def fading(kernel: int = 1):
    """A convolution by weights that training has let fade away."""
    weights = np.full((CHANNELS, CHANNELS, kernel, kernel), TINY)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, EDGE, EDGE]) for name in "xy"]
    graph = helper.make_graph([node], "fading", infos[:1], infos[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


X = np.ones((1, CHANNELS, EDGE, EDGE), np.float32)


def ours_is_whole():
    """Whether this thread computes with denormal numbers as NumPy's users expect."""
    return (np.full(64, TINY) * np.float32(0.5) > 0).all()


@needs_x86
@pytest.mark.parametrize("strategy, threads", [("cpu", 1), ("cpu", 2), ("gpu", 1), ("fixed:gpu=0.5", 1)])
def test_what_has_faded_away_counts_as_zero(strategy, threads):
    for keep in (False, True):
        with settings.override(denormals=keep), coexec.InferenceSession(
                fading(), coexec.SessionOptions(intra_op_num_threads=threads), strategy=strategy) as session:
            for _ in range(2):
                (y,) = session.run(None, {"x": X})
                assert ours_is_whole(), "the caller's thread is as it was"
        assert (y > 0).all() if keep else not y.any(), f"{strategy}, denormals={keep}"


@needs_x86
def test_a_run_that_fails_gives_the_thread_back():
    with coexec.InferenceSession(fading(), strategy="cpu") as session:
        session.run(None, {"x": X})
        prepared = session._ready
        prepared.hot = [lambda: 1 / 0]
        with pytest.raises(ZeroDivisionError):
            session.run(None, {"x": X})
    assert ours_is_whole() and denormals._thread.depth == 0


@needs_x86
def test_runs_within_runs():
    with coexec.InferenceSession(fading(), strategy="cpu"):  # numba is loaded
        for _ in range(2):
            denormals.flush()
        denormals.restore()
        assert not ours_is_whole()
        denormals.restore()
    assert ours_is_whole()


def test_no_module_of_the_cpu_compiles_what_only_an_x86_core_has(tmp_path):
    """In a process of its own that takes itself for an aarch64 one: there LLVM would end it, and every run imports all of them."""
    told = """
import platform
platform.machine = lambda: "aarch64"
from llvmlite import ir
declare = ir.Module.declare_intrinsic
def checked(self, name, *more, **others):
    assert not name.startswith("llvm.x86"), name
    return declare(self, name, *more, **others)
ir.Module.declare_intrinsic = checked
from coexec.devices.cpu import build, denormals
build._discover()
denormals.flush()
denormals.restore()
print("fine")
"""
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, env={**os.environ, "COEXEC_CACHE_DIR": str(tmp_path)})
    assert found.stdout == "fine\n", found.stderr
