"""`coexec simulate`: output, files and messages."""

from __future__ import annotations

import csv
import io
import json

import onnx
import pytest

from coexec.cli.main import main
from coexec.profiles import save_profile
from tests.partition.boards import Net, board


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Runs `coexec simulate` in a folder with net.onnx, board.yaml and none.yaml; gives (exit code, stdout, stderr)."""
    net, x = Net(1, 3, 32, 32), "x"
    for channels in (3, 32):
        x = net("Relu", net.conv(x, channels, 32))
    onnx.save(net.model(x), tmp_path / "net.onnx")
    save_profile(board(), tmp_path / "board.yaml")
    save_profile(board(gpu=False), tmp_path / "none.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COEXEC_DEBUG", raising=False)

    def run(*arguments, profile="board.yaml"):
        code = main(["simulate", "net.onnx", "--profile", profile, *arguments])
        return code, *capsys.readouterr()

    return run


def test_it_compares_strategies_and_says_that_it_is_simulated(call):
    code, out, _ = call()
    assert code == 0 and "simulated on test board" in out and all(s in out for s in ("cpu", "gpu", "coexec", "times as fast"))
    code, out, _ = call("--json", "--strategy", "cpu,gpu,fixed:gpu=0.5,axis=height")
    data = json.loads(out)
    assert data["simulated"] is True and list(data["strategies"]) == ["cpu", "gpu", "fixed:gpu=0.5,axis=height"]
    one = data["strategies"]["cpu"]
    assert one["simulated_ms"] == pytest.approx(one["predicted_ms"], rel=0.01) and one["busy"]["cpu"] > 0.9
    assert data["speedup_over_best_single"] > 0


def test_changes_reach_the_simulation(call):
    slow, fast = (json.loads(call("--json", "--strategy", "gpu", "--set", f"gpu.peak_gflops={f}")[1]) for f in ("0.1x", "10x"))
    assert slow["strategies"]["gpu"]["simulated_ms"] > 1.5 * fast["strategies"]["gpu"]["simulated_ms"]
    assert fast["changes"] == ["gpu.peak_gflops=10x"]


def test_a_board_without_a_gpu_compares_what_it_can(call):
    code, out, _ = call("--json", profile="none.yaml")
    assert code == 0 and list(json.loads(out)["strategies"]) == ["cpu", "coexec"]


def test_a_sweep_is_a_table_and_a_picture(call, tmp_path):
    code, out, err = call("--sweep", "sync_us=1,1000", "--sweep", "launch_us=1,10")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 4 and list(rows[0]) == ["gpu.sync_us", "gpu.launch_us", "cpu_ms", "gpu_ms", "coexec_ms", "gain"]
    assert float(rows[0]["coexec_ms"]) <= float(rows[2]["coexec_ms"]) and "pays" in err
    code, out, _ = call("--sweep", "gpu.peak_gflops=0.1x..10x:4", "--csv", "s.csv", "--plot", "s.png", "--json")
    data = json.loads(out)
    assert code == 0 and len(data["rows"]) == 4 and data["rows"][0]["gpu.peak_gflops"] == "0.1x" and data["names"] == ["gpu.peak_gflops"]
    assert (tmp_path / "s.csv").read_text().count("\n") == 5 and (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert call("--sweep", "sync_us=1,10", "--sweep", "launch_us=1,10", "--plot", "two.svg")[0] == 0
    assert "<svg" in (tmp_path / "two.svg").read_text()


def test_a_scenario_shows_the_plan_kept_beside_planning_anew(call):
    code, out, _ = call("--scenario", "throttle:gpu,to=0.3,after=1ms", "--runs", "30", "--json")
    courses = json.loads(out)["courses"]
    assert code == 0 and len(courses["plan_kept"]["simulated_ms"]) == 30
    assert courses["planned_anew"]["last_ms"] <= courses["plan_kept"]["last_ms"]
    assert "planned anew" in call("--scenario", "load:cpu,share=0.5", "--runs", "5")[1]


def test_a_saved_plan_and_a_trace(call, tmp_path, capsys):
    assert main(["plan", "net.onnx", "--profile", "board.yaml", "-o", "plan.json"]) == 0
    capsys.readouterr()
    code, out, _ = call("--plan", "plan.json", "--trace", "t.json", "--json")
    assert code == 0 and list(json.loads(out)["strategies"]) == ["coexec"]
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["simulated"] is True


@pytest.mark.parametrize("arguments, says", [
    (["--set", "gpu.clock=2x"], "no number 'gpu.clock'"), (["--sweep", "sync_us=1..10"], "range"), (["--csv", "x.csv"], "needs a --sweep"),
    (["--sweep", "sync_us=1,2", "--trace", "t.json"], "do not go together"), (["--sweep", "sync_us=1,2", "--plot", "x.txt"], "format follows"),
    (["--scenario", "rain:cpu"], "unknown kind"), (["--strategy", "best"], "unknown strategy"), (["--runs", "0"], "at least 1"),
    (["--sweep", "sync_us=0..1:200", "--sweep", "launch_us=0..1:200"], "too many what-ifs"), (["--trace", "no/where.json"], "no folder"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(call, arguments, says):
    code, out, err = call(*arguments)
    assert code == 2 and says in err and err.count("\n") == 1 and "Traceback" not in err and not out
