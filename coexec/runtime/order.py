"""The order in which a run's steps are done, as the executor and the simulation of it both take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..graph.ir import Graph
from ..partition.plan import Plan
from .bands import in_bands
from .hoist import hoist
from .schedule import Start, Step, Wait, schedule


def ordered(graph: Graph, plan: Plan, asynchronous: frozenset[str], one_by_one: bool = False) -> list[Step]:
    """The plan's schedule, its asynchronous pieces enqueued early and its host pieces in bands, where the plan asks for them. one_by_one: as if
    each node read all that the one before wrote.
    """
    steps = schedule(graph, plan, asynchronous)
    if one_by_one:
        steps = apart(steps)
    if len(asynchronous) == 1:  # with more, pieces also wait for one another's devices
        steps = hoist(graph, steps)
    return in_bands(steps, plan.band_bytes) if plan.band_bytes else steps


def apart(steps: Sequence[Step]) -> list[Step]:
    """The same steps where no node is begun before each other unit is done with the one before; on one unit they follow each other anyway."""
    out: list[Step] = []
    started: dict[str, int] = {}  # the last piece of each asynchronous device
    waited: dict[str, int] = {}
    moved, node, by_host = {-1: -1}, None, -1  # where steps lie now; the node at hand; the last step of the host
    for at, step in enumerate(steps):
        if isinstance(step, Start):
            if step.node.name != node:
                node, before, others = step.node.name, by_host, dict(started)
            if step.index >= 0:
                step = replace(step, after=max(moved[step.after], before))
                started[step.device] = step.index
            else:
                for device, index in others.items():
                    if waited.get(device, 0) < index:
                        out.append(Wait(device, index))
                        waited[device] = index
                by_host = len(out)
        elif isinstance(step, Wait):
            waited[step.device] = max(step.index, waited.get(step.device, 0))
        moved[at] = len(out)
        out.append(step)
    return out
