"""`coexec profile check` and `diff`: a profile beside the machine at hand, and beside another; what a loaded profile needs and keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from coexec.cli.main import main
from coexec.cost.compose import CostModel
from coexec.devices.cpu.device import CpuDevice
from coexec.errors import UsageError
from coexec.profiles import Latency, load_profile, save_profile
from coexec.profiling.from_table import refit
from coexec.profiling.table import read_table
from coexec.report import comparison
from coexec.report.evaluation import Took
from tests.partition.boards import board


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A profile of this machine's CPU, measured in a few seconds, and its table beside it."""
    path = tmp_path_factory.mktemp("verbs") / "mine.yaml"
    told = ["profile", "-q", "--gpu", "none", "--time-budget", "20s", "-o", str(path)]
    assert main(told) == 0
    if not load_profile(path).cpu.latency:  # nothing was compiled before, and compiling took all of it
        assert main([*told, "--resume"]) == 0
    return path


def called(capsys, *arguments):
    """Exit code and the JSON object of a verb."""
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_profile_of_this_machine_has_its_names_and_drivers(mine, capsys):
    code, found = called(capsys, "profile", "check", str(mine), "--gpu", "none")
    told = {f["what"]: f for f in found["findings"]}
    assert {"name", "driver", "emulated", "compute_units", "threads"} <= {w for w, f in told.items() if f["fits"]}
    assert any(w.startswith("time of probes") for w in told), "some kernels were timed again"
    assert code == (0 if found["fits"] else 7), "only the speed of a noisy machine may differ"


def slower(profile, factor):
    """The same board, whose kernels take that much longer."""
    fits = {name: replace(fit, terms={k: v * factor for k, v in fit.terms.items()}) for name, fit in profile.cpu.latency.items()}
    return replace(profile, cpu=replace(profile.cpu, latency=fits), cpu_alone=None)


@pytest.mark.parametrize("change, what", [
    (lambda p: replace(p, cpu=replace(p.cpu, driver="NumPy 0.1")), "driver"),
    (lambda p: replace(p, cpu=replace(p.cpu, compute_units=999)), "compute_units"),
    (lambda p: replace(p, gpu=board().gpu), "name"),
    (lambda p: slower(p, 20.0), "time of probes"),
])
def test_another_driver_board_or_clock_is_noticed(mine, tmp_path, capsys, change, what):
    save_profile(change(load_profile(mine)), tmp_path / "other.yaml")
    code, found = called(capsys, "profile", "check", str(tmp_path / "other.yaml"), "--gpu", "none")
    assert code == 7 and not found["fits"] and any(f["what"].startswith(what) for f in found["findings"] if not f["fits"])
    assert main(["profile", "check", str(tmp_path / "other.yaml"), "--gpu", "none"]) == 7
    said = capsys.readouterr()
    assert "differs" in said.out and "does not fit this machine" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("factors, fits", [((3.0, 1.2, 3.0, 3.0), True), ((0.3, 0.3, 0.9, 0.3), True),
                                           ((3.0, 2.5, 3.0, 3.0), False), ((0.3, 0.2, 0.3, 0.3), False)])
def test_a_passing_slow_moment_is_no_other_clock(mine, monkeypatch, factors, fits):
    profile, moments = load_profile(mine), iter(factors)
    costs = CostModel(profile)

    def timed(device, wanted, threads, order):
        factor = next(moments)
        return [Took(factor * costs.kernel(node, region, "cpu").us, "") for node, _, region in wanted]

    monkeypatch.setattr(comparison, "time_pieces", timed)
    (found,) = comparison._speeds("cpu", profile.cpu, profile, CpuDevice(), 1, comparison.TOLERANCE)
    assert found.fits == fits and found.here == pytest.approx(min(factors, key=lambda f: abs(f - 1)), abs=1e-3)


def test_two_profiles_are_compared(mine, tmp_path, capsys):
    code, found = called(capsys, "profile", "diff", str(mine), str(mine))
    assert code == 0 and found["same"] and not found["differences"] and set(found["latency_ratio"]["cpu"].values()) == {1.0}
    other = slower(load_profile(mine), 2.0)
    save_profile(replace(other, cpu=replace(other.cpu, peak_gflops=1.5)), tmp_path / "other.yaml")
    code, found = called(capsys, "profile", "diff", str(mine), str(tmp_path / "other.yaml"))
    assert code == 0 and not found["same"] and {"key": "cpu.peak_gflops", "a": load_profile(mine).cpu.peak_gflops, "b": 1.5} in found["differences"]
    measured = [r for r in found["latency_ratio"]["cpu"].values() if r == pytest.approx(2.0, rel=0.01)]
    assert len(measured) > len(found["latency_ratio"]["cpu"]) / 3, "the others are estimates from the peak, which changed too"


@pytest.mark.parametrize("arguments, said", [
    (["chek", "p.yaml"], "did you mean check"), (["check"], "found 0 of them"), (["diff", "a.yaml"], "expected 2"),
    (["check", "p.yaml", "--full"], "found --full"), (["check", "nothing.yaml"], "cannot read the profile"),
])
def test_wrong_words_are_usage_errors(arguments, said, capsys):
    assert main(["profile", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_retraining_from_the_table_gives_the_same_profile(mine, tmp_path):
    assert main(["profile", "-q", "--from-csv", str(mine.with_suffix(".csv")), "-o", str(tmp_path / "again.yaml")]) == 0
    assert load_profile(tmp_path / "again.yaml") == load_profile(mine)
    rows = read_table(mine.with_suffix(".csv"))
    assert refit(load_profile(mine), rows[:len(rows) // 2]).cpu.latency != load_profile(mine).cpu.latency
    told = load_profile(mine)
    slowed = replace(told, cpu=replace(told.cpu, busy={"compute": 1.5, "memory": 1.25}))
    assert refit(slowed, rows).cpu.busy == slowed.cpu.busy, "what company costs is seen in runs, which no table holds"
    with pytest.raises(UsageError, match="another board"):
        refit(load_profile(mine), [replace(rows[0], device="another")])


def test_loading_and_predicting_needs_no_scikit_learn(mine):
    code = ("import sys; from coexec.profiles import load_profile; from coexec.cost.compose import CostModel; "
            f"CostModel(load_profile({str(mine)!r})); print([m for m in sys.modules if m.split('.')[0] == 'sklearn'])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_fit_says_where_it_comes_from(mine):
    made = load_profile(mine)
    assert made.machine.date and made.machine.tool_version and made.cpu.driver and made.cpu.provenance == "measured"
    fits = made.cpu.latency
    said = {(f.provenance, f.samples > 0, f.error_pct is not None) for f in fits.values()}
    assert ("measured", True, True) in said and said <= {("measured", True, True), ("estimated", False, False)}
    assert all(isinstance(f, Latency) for f in fits.values())
    assert all(fit.held_out_pct is not None for name, fit in fits.items() if "/" in name and fit.samples)
