"""The benchmark tools: they run, and what they print follows from what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOLS / name), *map(str, arguments)], capture_output=True, text=True, check=False)


def ops(path: Path, **us: float) -> Path:
    path.write_text(json.dumps({"ops": {"Conv a": {unit: {"us": value, "spread_us": 0.01 * value} for unit, value in us.items()}}}))
    return path


def test_ways_to_make_convolutions_beside_the_choice(tmp_path):
    done = tool("bench_ways.py", "--every", 200, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "r.json").read_text())
    assert {r["unit"] for r in rows} == {"cpu", "gpu"}
    for r in rows:
        assert r["chosen"] in r["us"] and len(r["us"]) > 1 and all(us > 0 for us in r["us"].values())
    assert "| cpu | all |" in done.stdout and "| gpu | all |" in done.stdout
    wrong = tool("bench_ways.py", "--units", "npu")
    assert wrong.returncode == 2 and "npu" in wrong.stderr and "Traceback" not in wrong.stderr


def test_single_operators_of_a_model(tmp_path):
    import onnx

    from .test_smoke import tiny_model

    onnx.save(tiny_model(), tmp_path / "tiny.onnx")
    done = tool("bench_ops.py", tmp_path / "tiny.onnx", "--rounds", 2, "--seconds", 0.001, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["ops"] and {"cpu", "gpu", "onnxruntime"} <= {u for o in found["ops"].values() for u in o}
    for engines in found["ops"].values():
        for facts in engines.values():
            assert facts["us"] > 0 and facts["gbs"] > 0
    assert {"date", "machine", "versions", "threads", "fixed_costs"} <= set(found)
    same = tool("compare_bench.py", tmp_path / "r.json", tmp_path / "r.json", "--fail-above", 1.01)
    assert same.returncode == 0 and "geometric mean 1.000" in same.stdout and " *" not in same.stdout.split("\n", 1)[1]


@pytest.mark.parametrize("arguments, code, said", [
    ((), 0, "cpu: geometric mean 2.000"),
    (("--fail-above", "1.5"), 1, "2.000 *"),
    (("--relative-to", "onnxruntime", "--fail-above", "1.1"), 0, "cpu: geometric mean 1.000"),
])
def test_what_became_slower_is_told(tmp_path, arguments, code, said):
    before, after = ops(tmp_path / "a.json", cpu=10.0, onnxruntime=5.0), ops(tmp_path / "b.json", cpu=20.0, onnxruntime=10.0)
    done = tool("compare_bench.py", before, after, *arguments)
    assert done.returncode == code and said in done.stdout, done


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ops": {"a": 1}}', '{"ops": {"a": {"cpu": {"us": 0, "spread_us": 1}}}}'])
def test_what_is_no_result_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    done = tool("compare_bench.py", tmp_path / "x.json", tmp_path / "x.json")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "expected what bench_ops.py" in done.stderr


def test_what_tracing_costs(tmp_path):
    import onnx

    from .test_smoke import tiny_model

    onnx.save(tiny_model(), tmp_path / "tiny.onnx")
    done = subprocess.run([sys.executable, "-m", "tools.bench_trace", str(tmp_path / "tiny.onnx"), "--strategy", "fixed:gpu=0.5", "--rounds", "3",
                           "--json", str(tmp_path / "r.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "r.json").read_text())["models"]["tiny"]
    assert row["plain_ms"] > 0 and row["traced_ms"] > 0 and row["waits"] >= 1 and row["planned_bytes"] > 0 and row["copied_bytes_per_run"] == 0
