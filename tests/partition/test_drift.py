"""Timings of slow moments are brought to usual ones; what least is known of is timed next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coexec.cost.geometry import Facts
from coexec.cost.kernels import bound_by
from coexec.profiling.choosing import Choosing
from coexec.profiling.drift import at_usual_moments, facts_of_drift, slowness
from coexec.profiling.fit import facts_of_rows, kernels_of, steadied
from coexec.profiling.from_table import fit_profile_from_table
from coexec.profiling.judging import held_out_accuracy
from coexec.profiling.sampler import Sampler, draw
from coexec.profiling.table import Measurement, read_table, write_table
from tests.partition.test_kernels import timed

#: By how much kernels follow the references in the tables made here: exponents of the one that reads from far, the one that stores and the one
#: that computes.
TRUE = {"compute": (0.2, 0.1, 0.7), "memory": (0.3, 0.5, 0.1)}


def drifting(count: int, follows: float = 1.0) -> tuple[list[Measurement], list[Measurement]]:
    """Rows of a CPU as in usual moments, and the same in moments up to 1.4 times as slow or as fast, beside what the references took. follows: the
    power with which convolutions of 1x1 follow what is true of their kind.
    """
    rng = np.random.default_rng(1)
    good = [r for r in timed(count) if r.unit == "cpu"]
    kernels = {i: name for name, (at, _, _) in kernels_of(good, facts_of_rows(good)).items() for i in at}
    slow = []
    for i, row in enumerate(good):
        moment = np.exp(rng.uniform(-0.35, 0.35, 3))
        factor = float(np.prod(moment ** TRUE[bound_by(kernels[i])])) ** (follows if kernels[i] == "conv/pointwise" else 1.0)
        slow.append(replace(row, latency_us=row.latency_us * factor, reference_far_ns=2e4 * moment[0],
                            reference_store_ns=5000 * moment[1], reference_compute_ns=12000 * moment[2]))
    return good, slow


def test_how_kernels_follow_the_references_is_learnt_and_taken_off():
    good, slow = drifting(700)
    steady, facts, follow = steadied(slow)
    for bound, exponents in TRUE.items():
        assert [facts[f"drift_{bound}_{name}"] for name in ("far", "store", "compute")] == pytest.approx(exponents, abs=0.2)
    assert facts["reference_store_ns"] == pytest.approx(5000, rel=0.08) and facts["reference_compute_ns"] == pytest.approx(12000, rel=0.08)
    off = np.array([a.latency_us / b.latency_us for a, b in zip(steady, good)])
    before = np.array([a.latency_us / b.latency_us for a, b in zip(slow, good)])
    assert np.std(np.log(off)) < 0.25 * np.std(np.log(before)) and follow["conv/pointwise"] == pytest.approx(1.0, abs=0.15)
    assert all(r.reference_store_ns is None for r in steady) and steadied(steady) == (steady, {}, {}), "once is enough"
    blind = [replace(r, reference_far_ns=None, reference_store_ns=None, reference_compute_ns=None) for r in slow]
    assert held_out_accuracy(slow, 3)["cpu"]["mape"] < 0.6 * held_out_accuracy(blind, 3)["cpu"]["mape"]


def test_a_kernel_that_follows_less_than_others_of_its_kind_is_found():
    _, slow = drifting(900, follows=0.4)
    _, facts, follow = steadied(slow)
    others = [follow[k] for k in ("conv/columns", "conv/winograd4", "conv/small", "product/strips") if k in follow]
    assert follow["conv/pointwise"] < 0.75 * np.median(others) and len(others) > 1
    assert facts["drift_compute_compute"] * follow["conv/pointwise"] == pytest.approx(0.4 * TRUE["compute"][2], abs=0.15)


def test_a_profile_says_how_kernels_follow_and_what_a_moment_costs():
    _, slow = drifting(300)
    cpu = fit_profile_from_table(slow).cpu
    beside = {"reference_store_ns": 2 * cpu.facts["reference_store_ns"], "reference_compute_ns": cpu.facts["reference_compute_ns"]}
    name, latency = next((k, v) for k, v in cpu.latency.items() if k.startswith("plain/") and v.drift is not None)
    assert slowness(cpu, name, beside) == pytest.approx(2 ** (cpu.facts["drift_memory_store"] * latency.drift))
    assert slowness(cpu, "plain/of_which_nothing_is_known", beside) == pytest.approx(2 ** cpu.facts["drift_memory_store"])
    assert slowness(cpu, name, {}) == slowness(replace(cpu, facts={}), name, beside) == 1.0, "nothing is known of the moment, or of the board"
    assert facts_of_drift({"compute": (0.5, 0.5, 0.5)}, (np.nan, np.nan, 1000.0)) == {"reference_compute_ns": 1000.0, "drift_compute_compute": 0.5}, \
        "of several threads one reference is read"
    assert at_usual_moments(slow[:1], [2.0])[0].latency_us == pytest.approx(slow[0].latency_us / 2)


def test_the_moment_of_a_timing_is_kept_in_the_table(tmp_path):
    _, slow = drifting(20)
    write_table(slow, tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv") == slow
    old = [line.rsplit(",", 3)[0] for line in (tmp_path / "t.csv").read_text().splitlines()]
    (tmp_path / "old.csv").write_text("\n".join(old))
    assert read_table(tmp_path / "old.csv")[3] == replace(slow[3], reference_far_ns=None, reference_store_ns=None, reference_compute_ns=None)


def test_what_least_is_known_of_is_chosen():
    rng = np.random.default_rng(2)
    known, other = [draw("conv_1x1", rng) for _ in range(40)], [draw("pool", rng) for _ in range(3)]
    choosing = Choosing({"cpu": Facts()})
    choosing.learn([replace(s.row, unit="cpu", latency_us=1.0) for s in known])
    assert choosing.best([[known[0], other[0], known[1]], [known[2], other[1]]]) == other[:2], "nothing was timed of those kernels"
    only = choosing.best([[known[0], other[0], known[1]], [other[1]]], only_compiled=True)
    assert len(only) == 1 and only[0] in known, "no kernel is timed that was not compiled before"
    fresh = Choosing({"cpu": Facts()})
    assert fresh.best([[other[0]], [other[0], other[1]]]) == other[:2], "one that was just chosen is known"


def test_a_sampler_told_a_seed_draws_other_shapes_after_the_same_first_ones():
    def names(seed: int) -> list[tuple]:
        stream = iter(Sampler(seed))
        return [next(stream)[1].row.shape_key for _ in range(60)]

    one, other = names(1), names(2)
    assert one[:28] == other[:28] and one[28:] != other[28:]
