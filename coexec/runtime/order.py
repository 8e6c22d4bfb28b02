"""The steps of a run as it is really taken: scheduled, hoisted, in bands, guarded, and where every value lies. What runs and what simulates
runs take them from here. Pure functions of graph and plan.
"""

from __future__ import annotations

from ..graph.ir import Graph
from ..partition.plan import Plan
from .bands import in_bands
from .hazards import guard
from .hoist import hoist
from .memory import MemoryPlan, plan_memory
from .schedule import Step, schedule


def steps_of(graph: Graph, plan: Plan, asynchronous: frozenset[str]) -> tuple[list[Step], MemoryPlan]:
    """The steps of one run of a plan whose halos count (`keep_halos`), and the memory that they are guarded for."""
    steps = hoist(graph, schedule(graph, plan, asynchronous))
    if plan.band_bytes:
        steps = in_bands(steps, plan.band_bytes)
    memory = plan_memory(graph, steps)
    return guard(steps, memory), memory
