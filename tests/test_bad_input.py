"""Bad input as a user meets it: the real command in a process of its own, one clear line, the documented code, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .test_smoke import light_model, tiny_model


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def graph_of(nodes, outputs=("y",)):
    return helper.make_model(helper.make_graph(nodes, "g", [info("x", [2])], [info(o, None) for o in outputs]),
                             opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    whole = tiny_model().SerializeToString()
    (folder / "good.onnx").write_bytes(whole)
    onnx.save(light_model(), folder / "light.onnx")
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("this is no model\n")
    onnx.save(graph_of([helper.make_node("Fly", ["x"], ["a"], name="one", domain="acme"), helper.make_node("Reluu", ["a"], ["y"], name="two")]),
              folder / "unknown.onnx")
    onnx.save(graph_of([helper.make_node("Add", ["x", "b"], ["a"], name="p"), helper.make_node("Abs", ["a"], ["b"], name="q")], ["b"]),
              folder / "cycle.onnx")
    heavy = helper.make_model(helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"], name="p")], "g", [info("x", [64])], [info("y", [64])],
                                                [numpy_helper.from_array(np.ones(64, np.float32), "w")]))
    onnx.save_model(heavy, folder / "weightless.onnx", save_as_external_data=True, location="gone.bin", size_threshold=0)
    (folder / "gone.bin").unlink()
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "small.npy", x[:, :, :5])
    np.save(folder / "double.npy", x.astype(np.float64))
    x[0, 1, 2, 3] = np.nan
    np.save(folder / "nan.npy", x)
    (folder / "plan.json").write_text('{"format": 1, "model": 3}')
    (folder / "profile.yaml").write_text("format: 1\nname: [\n")
    return folder


def coexec(place, *arguments, **environment):
    env = {k: v for k, v in os.environ.items() if k != "COEXEC_DEBUG"} | environment
    return subprocess.run([sys.executable, "-m", "coexec", *arguments], cwd=place, env=env, capture_output=True, text=True, timeout=120)


CASES = {
    "truncated": (["truncated.onnx"], 4, ["truncated.onnx", "expected"]),
    "not onnx": (["text.onnx"], 4, ["text.onnx", "not an ONNX model", "expected"]),
    "missing file": (["nowhere.onnx"], 4, ["nowhere.onnx", "No such file", "expected"]),
    "unknown operators, all at once": (["unknown.onnx"], 4, ["acme::Fly 'one'", "Reluu 'two'", "did you mean Relu", "expected"]),
    "cycle": (["cycle.onnx"], 4, ["cycle", "Add 'p'", "Abs 'q'", "expected"]),
    "missing weights": (["weightless.onnx"], 4, ["weights are missing", "gone.bin", "expected"]),
    "missing input": (["good.onnx"], 2, ["x", "float32[1,3,12,12]"]),
    "unknown input": (["good.onnx", "--input", "z=x.npy"], 2, ["'z'", "expected"]),
    "wrong shape": (["good.onnx", "--input", "x=small.npy"], 2, ["wrong shape", "[1, 3, 5, 12]", "expected float32[1,3,12,12]"]),
    "wrong type": (["good.onnx", "--input", "x=double.npy"], 2, ["element type", "float64", "expected float32"]),
    "nan": (["good.onnx", "--input", "x=nan.npy"], 2, ["NaN", "[0, 1, 2, 3]"]),
    "no such input file": (["good.onnx", "--input", "x=none.npy"], 2, ["none.npy"]),
    "broken plan": (["good.onnx", "--plan", "plan.json", "--input", "x=x.npy"], 7, ["plan.json", "'model'", "expected"]),
    "broken profile": (["good.onnx", "--profile", "profile.yaml", "--input", "x=x.npy"], 7, ["profile.yaml", "line"]),
    "no driver": (["good.onnx", "--strategy", "gpu", "--input", "x=x.npy"], 3, ["OpenCL", "pocl-opencl-icd"]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_that_says_where_what_and_what_to_try(place, name):
    arguments, code, words = CASES[name]
    before = sorted(p.name for p in place.iterdir())
    no_driver = {"OCL_ICD_VENDORS": str(place / "no-vendors"), "OPENCL_VENDOR_PATH": str(place / "no-vendors")}
    done = coexec(place, "run", *arguments, "-o", "out.npz", **(no_driver if name == "no driver" else {"COEXEC_OPENCL": "none"}))
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("coexec: error: "), done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    for word in words:
        assert word in done.stderr, done.stderr
    assert sorted(p.name for p in place.iterdir()) == before, "a failed run left a file"


def test_without_any_driver_the_default_strategy_runs_on_the_cpu(place, tmp_path):
    """With a profile of a board whose GPU is not here, and with one that has none: the same answer as `cpu`, and no GPU in the plan."""
    vendors = {"OCL_ICD_VENDORS": str(place / "no-vendors"), "OPENCL_VENDOR_PATH": str(place / "no-vendors")}
    cpu = "format: 1\nname: board\ncpu: {name: c, peak_gflops: 100.0, bandwidth_gbs: 20.0}\n"
    gpu = "gpu: {name: g, peak_gflops: 400.0, bandwidth_gbs: 20.0, launch_us: 1.0, sync_us: 1.0, operators: [Conv, Gemm, GlobalAveragePool]}\n"
    expected = coexec(place, "run", "good.onnx", "--input", "x=x.npy", "--strategy", "cpu", "-o", str(tmp_path / "cpu.npz"), **vendors)
    assert expected.returncode == 0, expected.stderr
    for name, text in (("cpu-only", cpu), ("with-gpu", cpu + gpu)):
        (tmp_path / f"{name}.yaml").write_text(text)
        done = coexec(place, "run", "good.onnx", "--input", "x=x.npy", "--profile", str(tmp_path / f"{name}.yaml"), "--json",
                      "-o", str(tmp_path / f"{name}.npz"), **vendors)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert list(json.loads(done.stdout)["devices"]) == ["cpu"]
        found, wanted = np.load(tmp_path / f"{name}.npz"), np.load(tmp_path / "cpu.npz")
        np.testing.assert_allclose(found["y"], wanted["y"], rtol=0, atol=1e-5 * np.abs(wanted["y"]).max())


def test_an_unwritable_cache_is_one_warning_not_a_failure(place, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    done = coexec(place, "run", "light.onnx", "--input", "x=x.npy", "--strategy", "fixed:gpu=0.5", COEXEC_CACHE_DIR=str(blocked / "cache"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("cache") >= 1, done.stderr
    assert blocked.read_text().startswith("a file")
