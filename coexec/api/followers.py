"""The followers of a session that adapts, one for each graph that it has prepared."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ..devices.registry import session_threads
from ..graph.ir import Graph
from ..partition.plan import Plan
from ..runtime.executor import PreparedRun
from ..runtime.recovery import abandon
from ..runtime.trace import Trace
from .choice import PlanChoice
from .following import Follower, Replan
from .guard import Guard


class Followers:
    """Does a session's runs and tells their followers of them; between two runs another plan may take over."""

    def __init__(self, guard: Guard, choice: PlanChoice, threads: int):
        self._guard, self._choice, self._threads = guard, choice, threads
        self._of: dict[int, Follower | None] = {}

    def __iter__(self) -> Iterator[Follower]:
        return (follower for follower in self._of.values() if follower is not None)

    @property
    def changes(self) -> list[Replan]:
        """The plans that took another's place, in order."""
        return [change for follower in self for change in follower.changes]

    def run(self, prepared: PreparedRun, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name, of that run or its successor."""
        follower = self._follower(prepared)
        if follower is None:
            return self._guard.run(prepared, feeds)
        if (successor := follower.successor()) is not None:
            self._guard.kept.succeed(prepared, successor)
            prepared = successor
        looking, began = follower.trace, time.perf_counter()
        results = self._guard.run(prepared, feeds, looking)
        taken_ms = (time.perf_counter() - began) * 1e3
        if looking is not None and not self._guard.health.quarantined:
            follower.looked(feeds)
        elif looking is None and not self._guard.health.quarantined and follower.ran(taken_ms, feeds):
            self._guard.probe(partial(follower.probe, feeds), prepared, follower.stop)
        if self._guard.health.quarantined:
            follower.stop()
        return results

    def _follower(self, prepared: PreparedRun) -> Follower | None:
        """What follows that graph's times; made at its first run. None where there is nothing to choose from."""
        graph, profile = prepared.graph, self._choice.profile
        if id(graph) not in self._of:
            for gone in self._of.keys() - {id(p.graph) for p in self._guard.kept}:
                if (old := self._of.pop(gone)) is not None:
                    old.close()
            useful = prepared.plan.predicted_ms is not None and profile is not None and {"cpu", "gpu"} <= self._guard.devices.keys()
            self._of[id(graph)] = Follower(
                graph, prepared.plan, profile, partial(self._choice.again, graph), partial(self._prepared, graph),
                session_threads(self._guard.devices, self._threads)) if useful and not self._guard.health.quarantined else None
        return self._of[id(graph)]

    def _prepared(self, whole: Graph, plan: Plan, graph: Graph | None = None, threads: int | None = None) -> PreparedRun:
        """Beside the runs: for the whole graph, or one that was made of a part of it. Its runs can be traced."""
        devices = self._guard.devices
        threads = session_threads(devices, self._threads, "gpu" in plan.devices) if threads is None else threads
        return PreparedRun(graph or whole, plan, devices, threads, trace=Trace())

    def close(self) -> None:
        """Ends all; the next run begins to follow anew."""
        for follower in self:
            follower.close()
        self._of.clear()

    def abandon(self) -> None:
        """Leaves all as they are, in a process whose threads are another's."""
        abandon(self._of)
        self._of = {}
