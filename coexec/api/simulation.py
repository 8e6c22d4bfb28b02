"""Boards that are not there: plans simulated, what-ifs, and what happens while a board slows down. Everything from here is simulated."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..cost.compose import CostModel
from ..cost.corrections import Corrections
from ..graph.ir import Graph
from ..partition.plan import Plan
from ..partition.strategies.base import parse_strategy
from ..partition.wishes import Wishes
from ..profiles import DeviceProfile
from ..runtime.schedule import Start
from ..simulate.judge import played
from ..simulate.run import Program, Simulated, simulate
from ..simulate.scenario import QUIET, Scenario
from ..simulate.times import Predicted
from ..simulate.what_if import Change, changed
from .planning import plan_prepared

#: A board has changed when the median of so many runs is off by this share of what was expected: then it is planned anew.
DRIFT, LOOKED_AT = 0.1, 3
#: Co-execution pays where it is faster than the best single device by this share; less would be lost in what a simulation cannot know.
PAYS = 0.02


@dataclass(frozen=True)
class Simulation:
    """A plan and a simulated run of it."""

    plan: Plan
    program: Program
    run: Simulated

    @property
    def simulated_ms(self) -> float:
        return self.run.latency_us / 1e3


def simulate_plan(graph: Graph, made: Plan, profile: DeviceProfile, cost: CostModel | None = None) -> Simulation:
    """A run of that plan on the profile's board. `graph` is one that `bind` prepared."""
    return Simulation(made, *played(graph, made, cost or CostModel(profile)))


def simulate_strategies(graph: Graph, profile: DeviceProfile, strategies: Iterable[str], force: Mapping[str, str] | None = None
                        ) -> dict[str, Simulation]:
    """A plan of every strategy, simulated. Raises UsageError where a strategy cannot plan for that board."""
    cost = CostModel(profile)
    wishes = Wishes(dict(force or {}))
    return {s: simulate_plan(graph, plan_prepared(graph, profile=profile, strategy=s, wishes=wishes), profile, cost) for s in strategies}


def possible(strategies: Iterable[str], profile: DeviceProfile) -> list[str]:
    """Those that make sense on that board: without a GPU, only those that need none."""
    return [s for s in strategies if profile.gpu is not None or not parse_strategy(s).needs_gpu]


@dataclass(frozen=True)
class WhatIf:
    """One point of a sweep: the changes, and the simulated milliseconds of every strategy."""

    changes: tuple[Change, ...]
    simulated_ms: Mapping[str, float]

    @property
    def gain(self) -> float | None:
        """How many times faster the best plan that may use both is than the best single device; None where not both were asked for."""
        single = [ms for s, ms in self.simulated_ms.items() if s in ("cpu", "gpu")]
        both = [ms for s, ms in self.simulated_ms.items() if s not in ("cpu", "gpu")]
        return min(single) / min(both) if single and both else None


def what_ifs(graph: Graph, profile: DeviceProfile, points: Sequence[tuple[Change, ...]], strategies: Sequence[str],
             progress: Callable[[int, int, str], None] | None = None, force: Mapping[str, str] | None = None) -> list[WhatIf]:
    """Every point of a sweep, planned anew for the changed board and simulated on it."""
    found = []
    for done, point in enumerate(points):
        if progress is not None:
            progress(done, len(points), " ".join(map(str, point)))
        board = changed(profile, point)
        found.append(WhatIf(point, {s: one.simulated_ms for s, one in simulate_strategies(graph, board, strategies, force).items()}))
    if progress is not None:
        progress(len(points), len(points), "")
    return found


def pays_at(points: Sequence[WhatIf]) -> list[WhatIf]:
    """The points where co-execution pays."""
    return [p for p in points if (p.gain or 0.0) >= 1 + PAYS]


@dataclass
class Course:
    """Runs one after another, milliseconds each; `planned_at` are the runs before which it was planned anew."""

    simulated_ms: list[float] = field(default_factory=list)
    planned_at: list[int] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"simulated_ms": self.simulated_ms, "planned_at": self.planned_at, "p50_ms": statistics.median(self.simulated_ms),
                "last_ms": self.simulated_ms[-1], "total_ms": sum(self.simulated_ms)}


def course(graph: Graph, profile: DeviceProfile, strategy: str, runs: int, scenario: Scenario = QUIET, replan: bool = False,
           progress: Callable[[int, int, str], None] | None = None) -> Course:
    """So many runs through a scenario, the next beginning where the last ended.

    `replan`: where runs take another time than expected, the ratios of what pieces took to what the profile says correct the cost model, as
    runs on a real machine do (`Corrections`), and the strategy plans anew.
    """
    found, corrections, at_us = Course(), Corrections(), 0.0
    plain = CostModel(profile)
    made = plan_prepared(graph, profile=profile, strategy=strategy)
    one = simulate_plan(graph, made, profile, plain)
    expected_ms, times = one.simulated_ms, Predicted(plain, graph, made)
    found.plans.append(made)
    recent: list[float] = []
    for number in range(runs):
        if progress is not None:
            progress(number, runs, "")
        run = simulate(one.program, times, scenario, at_us)
        at_us = run.end_us
        found.simulated_ms.append(run.latency_us / 1e3)
        recent = [*recent, run.latency_us / 1e3][-LOOKED_AT:]
        if replan and len(recent) == LOOKED_AT and abs(statistics.median(recent) / expected_ms - 1) > DRIFT:
            corrections = corrections.seen(_ratios(run, plain, graph, times.unit))
            made = plan_prepared(graph, profile=profile, strategy=strategy, corrections=corrections)
            one, times = simulate_plan(graph, made, profile, plain), Predicted(plain, graph, made)
            expected_ms, recent = made.predicted_ms or expected_ms, []
            found.planned_at.append(number + 1)
            found.plans.append(made)
    if progress is not None:
        progress(runs, runs, "")
    return found


def _ratios(run: Simulated, cost: CostModel, graph: Graph, unit: str) -> dict[tuple[str, str], float]:
    """By node and unit, what the pieces took over what the profile says of them by themselves."""
    nodes, taken, told = {n.name: n for n in graph.nodes}, {}, {}
    for s in run.slices:
        if s.category == "piece" and isinstance(s.step, Start):
            key = s.step.node.name, s.step.device
            taken[key] = taken.get(key, 0.0) + s.stop_us - s.start_us
            section = unit if s.step.device == "cpu" else s.step.device
            told[key] = told.get(key, 0.0) + cost.kernel(nodes[key[0]], s.step.region, section).us
    return {key: us / told[key] for key, us in taken.items() if told[key] > 0}
