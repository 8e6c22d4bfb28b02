"""Whatever the board: a run of what `coexec` plans, played step by step, is no longer than one of the best single device's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coexec.api.simulation import simulate_plan, simulate_strategies
from coexec.graph.ir import Graph
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.partition.strategies import parse_strategy
from coexec.profiles import DeviceProfile
from coexec.runtime.schedule import Wait
from coexec.simulate.judge import judging
from coexec.simulate.what_if import changed, parse_change
from tests.partition.boards import board, classifier, tangle
from tests.partition.test_exactness import random_dag
from tests.runtime.random_graphs import random_model

#: From what a phone's driver may cost down to nothing.
COSTS = {"sync_us": (0, 1, 20, 150, 1000), "launch_us": (0, 1, 5, 40, 300), "begin_us": (0, 10, 200), "ready_us": ("none", 0, 2, 50),
         "crossing_gbs": (0.5, 5, 50), "busy.compute": (1, 1.15, 1.6), "peak_gflops": ("0.01x", "0.1x", "0.5x", "1x", "10x"),
         "bandwidth_gbs": ("0.2x", "1x", "5x"), "transfer_gbs": ("none", "none", 0.3, 3)}


def any_board(rng: np.random.Generator) -> DeviceProfile:
    changes = [f"gpu.{name}={rng.choice([str(v) for v in values])}" for name, values in COSTS.items()]
    changes += [f"gpu.map_us={rng.choice([0, 5, 80])}", f"cpu.peak_gflops={rng.choice(['0.02x', '0.2x', '1x'])}"]
    made = changed(board(), [parse_change(c) for c in changes])
    return replace(made, cpu_alone=changed(made, [parse_change("cpu.peak_gflops=1.8x")]).cpu) if rng.random() < 0.5 else made


def any_graph(rng: np.random.Generator) -> Graph:
    kind = int(rng.integers(4))
    if kind == 0:
        return classifier(int(rng.integers(2, 9)), int(rng.choice([8, 32, 64])), int(rng.choice([14, 28, 56])))
    if kind == 1:
        return tangle()
    return random_dag(rng, int(rng.integers(3, 20))) if kind == 2 else prepare(load_model(random_model(rng, int(rng.integers(3, 9)))))


@pytest.mark.parametrize("seed", range(10))
def test_no_run_is_longer_than_on_the_best_single_device(seed):
    rng, both = np.random.default_rng(seed), 0
    for _ in range(40):
        graph, profile = any_graph(rng), any_board(rng)
        if not graph.nodes:
            continue
        found = simulate_strategies(graph, profile, ("coexec", "cpu", "gpu"))
        alone = min(found["cpu"].simulated_ms, found["gpu"].simulated_ms)
        assert found["coexec"].simulated_ms <= alone * (1 + 1e-9), f"{graph.name} on {profile.gpu}"
        both += found["coexec"].simulated_ms < 0.98 * alone
    assert both, "somewhere two are faster than one"


def test_where_waits_are_dear_memory_is_used_again_only_after_them():
    """Else the host would wait at every piece for memory that a piece may still be at: that is no part of what the search weighs."""
    graph, profile = classifier(8), board(cpu_gflops=100, gpu_gflops=120, sync_us=300.0)
    made = parse_strategy("coexec").plan(graph, profile, judging=judging)
    assert made.devices == {"cpu", "gpu"} and not made.early_reuse
    waiting, early = (simulate_plan(graph, replace(made, early_reuse=e), profile) for e in (False, True))
    assert _waits(waiting) < _waits(early) and waiting.program.memory.nbytes > early.program.memory.nbytes
    assert waiting.simulated_ms < early.simulated_ms
    assert waiting.simulated_ms == pytest.approx(made.predicted_ms, rel=0.02), "what is left is what was weighed"
    cheap = board(cpu_gflops=100, gpu_gflops=120, sync_us=0.0)
    assert parse_strategy("coexec").plan(graph, cheap, judging=judging).early_reuse, "where they cost nothing, a small arena is better"


def _waits(found) -> int:
    return sum(isinstance(s, Wait) for s in found.program.guarded)


def test_the_last_word_has_the_simulation():
    """A plan that the search prefers and that the steps of its run make slower than the CPU alone is not kept."""
    graph, profile = classifier(6), board()
    made = parse_strategy("coexec").plan(graph, profile, judging=judging)
    assert any(len(p.devices) > 1 for p in made.partitions)

    def against_cuts(graph, cost):
        return lambda plan: 1e6 if any(len(p.devices) > 1 for p in plan.partitions) else 1e3 * plan.predicted_ms

    alone = parse_strategy("coexec").plan(graph, profile, judging=against_cuts)
    assert alone.strategy == "coexec"
    assert alone.predicted_ms == min(parse_strategy(s).plan(graph, profile).predicted_ms for s in ("cpu", "gpu"))
