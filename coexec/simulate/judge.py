"""The judge of plans: how long each takes by the very steps of its run, waits that memory asks for and pieces enqueued early included."""

from __future__ import annotations

from dataclasses import replace

from ..cost.compose import CostModel
from ..graph.ir import Graph
from ..partition.plan import Plan
from ..partition.strategies.base import Judge
from .run import Program, Simulated, simulate
from .times import Predicted


def played(graph: Graph, made: Plan, cost: CostModel) -> tuple[Program, Simulated]:
    """What a run of that plan does, and a run of it on the board of those costs. `graph` is one that `bind` prepared."""
    program = Program(graph, made, cost.shared)
    return program, simulate(program, Predicted(cost, graph, made))


def judging(graph: Graph, cost: CostModel) -> Judge:
    """How long plans of that graph take there, in microseconds; each is played once."""
    known: dict[tuple, float] = {}

    def judge(made: Plan) -> float:
        if cost.profile.in_step:
            made = replace(made, counters=True)
        key = made.partitions, made.counters, made.band_bytes, made.early_reuse
        if key not in known:
            known[key] = played(graph, made, cost)[1].latency_us
        return known[key]

    return judge
