"""What moment whole runs were measured in: reference kernels before and after each, and how much longer a plan takes then, as a profile says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..cost.compose import ALONE, CostModel
from ..devices.base import Device
from ..graph.ir import Graph
from ..partition.joins import joined
from ..partition.plan import Plan, pieces
from ..profiles import DeviceProfile
from ..profiling.drift import slowness
from ..profiling.rounds import NoClock, Round, sweep
from ..profiling.references import named

#: Nanoseconds of each unit's reference kernels.
Reading = dict[str, tuple[float, ...]]


class Run(NamedTuple):
    """Milliseconds that a run took, and by how much longer than in a usual moment of the profile its plan's kernels take then."""

    ms: float
    slowness: float

    @property
    def steady_ms(self) -> float:
        """What it would have taken in a usual moment."""
        return self.ms / self.slowness


class Moments:
    """Tells of every processor of a profile that is here what moment it is. A context manager."""

    def __init__(self, profile: DeviceProfile, devices: Mapping[str, Device]):
        self.profile = profile
        self.sections = {"cpu": profile.cpu, "gpu": profile.gpu, ALONE: profile.cpu_alone}
        self.rounds: dict[str, Round] = {}
        for unit, section in self.sections.items():
            device = devices.get(unit[:3])
            if device is not None and section is not None:
                with suppress(NoClock):
                    self.rounds[unit] = Round(device, [], section.threads or 1)

    def timer(self, plan: Plan, graph: Graph, cold: bool = False) -> Callable[[Callable[[], Any]], Run]:
        """What times one run of that plan, between two readings of its processors.

        cold: the caches hold nothing of the session's when it begins, as where an application does other things between runs, and as kernels are
        timed for profiles. Sessions that take turns leave one another little anyway.
        """
        work = work_by_kernel(plan, graph, self.profile)
        units = [unit for unit in dict.fromkeys(u for u, _ in work) if unit in self.rounds]

        def timed(run: Callable[[], Any]) -> Run:
            before = self._read(units)
            if cold:
                sweep()
            begun = time.perf_counter()
            run()
            ms = (time.perf_counter() - begun) * 1e3
            after = self._read(units)
            beside = {unit: named([(a + b) / 2 for a, b in zip(ns, after[unit])]) for unit, ns in before.items()}
            longer = sum(us * slowness(self.sections[unit], kernel, beside.get(unit, {}))  # type: ignore[arg-type]
                         for (unit, kernel), us in work.items())
            return Run(ms, longer / sum(work.values()) if work else 1.0)

        return timed

    def _read(self, units: Sequence[str]) -> Reading:
        """Each by itself, as in the profile's rounds: what both take from one another when they work at the same time is told by plans (`busy`)."""
        return {unit: self.rounds[unit].reading() for unit in units}

    def __enter__(self) -> Moments:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.rounds.values():
            one.close()


def work_by_kernel(plan: Plan, graph: Graph, profile: DeviceProfile) -> dict[tuple[str, str], float]:
    """Microseconds of a plan's pieces, by processor and kernel."""
    costs, found, free = CostModel(profile), Counter(), joined(graph)  # type: ignore[var-annotated]
    for node, partition in zip(graph.nodes, plan.partitions):
        if node in free:
            continue
        for device, region in pieces(node, partition):
            unit = costs.host_unit(plan.devices == {"cpu"}) if device == "cpu" else device
            found[unit, costs.kernel_name(node, region, unit)] += costs.kernel(node, region, unit).us
    return {key: us for key, us in found.items() if us > 0}
