"""The order in which a run's steps are done, as the executor and the simulation of it both take them."""

from __future__ import annotations

from ..graph.ir import Graph
from ..partition.plan import Plan
from .bands import in_bands
from .hoist import hoist
from .schedule import Step, schedule


def ordered(graph: Graph, plan: Plan, asynchronous: frozenset[str]) -> list[Step]:
    """The plan's schedule, its asynchronous pieces enqueued early and its host pieces in bands, where the plan asks for them."""
    steps = schedule(graph, plan, asynchronous)
    if len(asynchronous) == 1:  # with more, pieces also wait for one another's devices
        steps = hoist(graph, steps)
    return in_bands(steps, plan.band_bytes) if plan.band_bytes else steps
