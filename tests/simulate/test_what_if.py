"""Profiles with numbers changed, sweeps of them, and where co-execution pays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coexec.api.simulation import course, pays_at, simulate_strategies, what_ifs
from coexec.errors import UsageError
from coexec.profiles import Latency, UnitProfile
from coexec.simulate.scenario import parse_scenario
from coexec.simulate.what_if import Change, changed, combinations, parse_change, parse_sweep
from tests.partition.boards import board, classifier


def test_changes_are_read_as_they_are_written():
    assert parse_change("gpu.peak_gflops=2x") == Change("gpu", "peak_gflops", 2.0, True)
    assert parse_change("begin_us=0") == Change("gpu", "begin_us", 0.0)
    assert parse_change("sync_us=100") == Change("gpu", "sync_us", 100.0) and str(parse_change("sync_us=1e2")) == "gpu.sync_us=100"
    assert parse_change("transfer_gbs=none").value is None and parse_change("cpu.busy.memory=1.5").field == "busy.memory"


@pytest.mark.parametrize("text", ["gpu.peak_gflops", "gpu.peak_gflops=", "gpu.peak_gflop=2", "peak_gflops=2x", "npu.sync_us=1", "sync_us=-1",
                                  "sync_us=fast", "gpu.peak_gflops=0", "gpu.peak_gflops=0x", "gpu.peak_gflops=none", "sync_us=1xx", "=2", ""])
def test_a_wrong_change_is_one_clear_line(text):
    with pytest.raises(UsageError) as found:
        parse_change(text)
    assert "\n" not in str(found.value) and any(w in str(found.value) for w in ("expected", "did you mean", "known"))


def test_a_factor_changes_what_a_fit_spends_on_it_and_nothing_else():
    plain = board()
    fit = Latency({"fixed_us": 3.0, "us_per_mtile3": 10.0, "us_per_mb_cold": 20.0, "us_per_mbyte": 5.0}, 9)
    plain = replace(plain, gpu=replace(plain.gpu, latency={"conv/x": fit}))
    twice = changed(plain, [parse_change("gpu.peak_gflops=2x")]).gpu
    assert twice.peak_gflops == 2 * plain.gpu.peak_gflops
    assert twice.latency["conv/x"].terms == {"fixed_us": 3.0, "us_per_mtile3": 5.0, "us_per_mb_cold": 20.0, "us_per_mbyte": 5.0}
    half = changed(plain, [parse_change("gpu.bandwidth_gbs=10")]).gpu
    assert half.latency["conv/x"].terms == {"fixed_us": 3.0, "us_per_mtile3": 10.0, "us_per_mb_cold": 40.0, "us_per_mbyte": 10.0}
    assert half.latency["conv/x"].provenance == "estimated", "nobody measured that"
    assert changed(plain, [parse_change("sync_us=7")]).gpu.latency == plain.gpu.latency


def test_the_cpu_with_more_threads_changes_in_proportion():
    plain = board()
    plain = replace(plain, cpu_alone=UnitProfile("both", 200.0, 30.0, threads=2))
    there = changed(plain, [parse_change("cpu.peak_gflops=50")])
    assert there.cpu.peak_gflops == 50.0 and there.cpu_alone.peak_gflops == 100.0


def test_a_board_without_a_gpu_has_none_to_change():
    with pytest.raises(UsageError, match="no gpu"):
        changed(board(gpu=False), [parse_change("sync_us=1")])
    with pytest.raises(UsageError, match="cannot multiply"):
        changed(board(), [parse_change("gpu.transfer_gbs=2x")])


def test_ranges_are_even_in_ratio():
    assert [c.value for c in parse_sweep("sync_us=1..100:3")] == [1.0, 10.0, 100.0]
    assert [c.value for c in parse_sweep("sync_us=0..100:3")] == [0.0, 50.0, 100.0]
    assert [c.told for c in parse_sweep("gpu.peak_gflops=0.5x,1x")] == ["0.5x", "1x"]
    assert len(combinations([parse_sweep("sync_us=1,2"), parse_sweep("launch_us=1,2,3")])) == 6
    for wrong in ("sync_us=1..2", "sync_us=1..x:3", "sync_us=1..2x:3", "sync_us=1..2:1", "sync_us="):
        with pytest.raises(UsageError):
            parse_sweep(wrong)


def test_slow_waits_make_co_execution_worthless_and_no_worse():
    graph, points = classifier(), combinations([parse_sweep("sync_us=1,100,100000")])
    told = []
    found = what_ifs(graph, board(), points, ("cpu", "gpu", "coexec"), lambda *a: told.append(a))
    gains = [p.gain for p in found]
    assert gains[0] > 1.3 and gains == sorted(gains, reverse=True) and gains[-1] == pytest.approx(1.0, abs=1e-3)
    assert pays_at(found) == [p for p in found if p.gain >= 1.02] and len(told) == 4 and told[-1][:2] == (3, 3)


def test_a_throttled_gpu_gets_less_once_it_is_planned_anew():
    graph, profile = classifier(), board()
    scenario = parse_scenario(["throttle:gpu,to=0.25,after=20ms"])
    kept, anew = (course(graph, profile, "coexec", 80, scenario, replan) for replan in (False, True))
    assert kept.planned_at == [] and anew.planned_at and anew.simulated_ms[0] == kept.simulated_ms[0]
    assert kept.simulated_ms[-1] > 1.2 * kept.simulated_ms[0]
    assert anew.simulated_ms[-1] < 0.95 * kept.simulated_ms[-1], "the CPU has taken over"
    shares = [sum(p.ratio.get("gpu", 0.0) for p in plan.partitions) for plan in (anew.plans[0], anew.plans[-1])]
    assert shares[1] < shares[0]
    calm = course(graph, profile, "coexec", 10, replan=True)
    assert calm.planned_at == [] and max(calm.simulated_ms) == pytest.approx(min(calm.simulated_ms))


def test_strategies_are_ranked_as_their_plans_say():
    found = simulate_strategies(classifier(), board(), ("cpu", "gpu", "flops", "coexec"))
    assert min(found, key=lambda s: found[s].simulated_ms) == "coexec"
    assert all(one.simulated_ms == pytest.approx(one.plan.predicted_ms, rel=0.02) for one in found.values())
