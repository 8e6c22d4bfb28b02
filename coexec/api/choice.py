"""Which plan a session runs a graph by: the one it was given, one that measurement kept before, or its strategy's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..cost.corrections import Corrections
from ..devices.base import Device
from ..errors import DeviceError, DeviceHang, FallbackForbidden, InputError
from ..graph.ir import Graph
from ..partition.plan import Plan
from ..partition.strategies.base import Partitioner, parse_strategy
from ..partition.wishes import Wishes
from ..profiles import DeviceProfile
from ..runtime.recovery import Fault, Health
from ..runtime.trace import Trace, phase
from .models import random_feeds
from .options import SessionOptions
from .planning import cached_profile, plan_prepared, repredicted
from .refinement import Candidate, refine, remember, remembered

log = logging.getLogger("coexec")


class PlanChoice:
    """Makes plans for a session's graphs on its devices.

    given: a plan to replay, else `strategy` plans. profile: the board's; None until one is needed, then this machine's. candidates: what `verify`
    tried, with what was measured; empty without it.
    """

    def __init__(self, options: SessionOptions, wishes: Wishes, strategy: str, given: Plan | None, profile: DeviceProfile | None,
                 devices: dict[str, Device], health: Health):
        self.options, self.strategy, self.given, self.profile = options, strategy, given, profile
        self.devices, self.health = devices, health
        self.candidates: list[Candidate] = []
        self._wishes = wishes

    def made(self, graph: Graph, feeds: Mapping[str, Any] | None, trace: Trace | None) -> Plan:
        """The plan for a graph, its kernels tuned where that was asked for; `feeds` are inputs to measure with. What is done is told to the trace.

        Raises FallbackForbidden where the options are strict and a node cannot run where it should.
        """
        self._use_as_profiled()
        plan = self.given if self.given is not None else self._planned(graph, feeds, trace)
        if self.options.tune_budget_s > 0 and "gpu" in plan.devices and "gpu" in self.devices:
            with phase(trace, "tune"):
                self.devices["gpu"].tune(graph, plan, self.options.tune_budget_s, self._telling_of_tuning())
        fallen = [(p.name, p.note) for p in plan.partitions if p.note.startswith(("fallback:", "gpu:"))]
        if self.options.strict and fallen:
            raise FallbackForbidden(fallen, where=graph.name)
        return plan

    def again(self, graph: Graph, corrections: Corrections) -> Plan:
        """The strategy's plan after what runs have shown."""
        return plan_prepared(graph, profile=self.profile, strategy=self.strategy, wishes=self._wishes, devices=self.devices, corrections=corrections,
                             threads=self.options.intra_op_num_threads)

    def _planned(self, graph: Graph, feeds: Mapping[str, Any] | None, trace: Trace | None) -> Plan:
        partitioner = parse_strategy(self.strategy)
        if self.profile is None and self._needs_profile(partitioner):
            with phase(trace, "profile"):
                self.profile = cached_profile(self.options.telling("measuring this machine"), self.devices)
            self._use_as_profiled()
        own, threads = partitioner == parse_strategy("coexec"), self.options.intra_op_num_threads
        if self.options.verify and partitioner.needs_profile and (plan := self._verified(graph, feeds, trace)) is not None:
            if own and not any(candidate.doubtful for candidate in self.candidates):
                remember(plan, graph, self.profile, self.devices, threads)
            return plan
        with phase(trace, "plan", strategy=self.strategy):
            known = remembered(graph, self.profile, self.devices, threads, self._wishes) if own else None
            if known is not None:  # the machine may have been measured again since
                return repredicted(known, graph, self.profile, threads)
            return plan_prepared(graph, profile=self.profile, strategy=self.strategy, wishes=self._wishes, devices=self.devices, threads=threads)

    def _needs_profile(self, partitioner: Partitioner) -> bool:
        return partitioner.needs_profile or self._wishes.objective != "latency" or self._wishes.memory_bytes is not None

    def _verified(self, graph: Graph, feeds: Mapping[str, Any] | None, trace: Trace | None) -> Plan | None:
        """The plan that measurement kept; None, with a warning, where made-up inputs do not run, or a device fails."""
        with phase(trace, "verify", strategy=self.strategy):
            try:
                plan, self.candidates = refine(
                    graph, random_feeds(graph) if feeds is None else feeds, self._by_event(), self.profile, strategy=self.strategy,
                    threads=self.options.intra_op_num_threads, wishes=self._wishes, progress=self.options.telling("checking plans"))
            except (InputError, DeviceError) as error:
                log.warning("the plan cannot be checked by measurement: %s", error)
                return None
            except DeviceHang as error:
                gpu = self.devices["gpu"].facts.name
                self.health.report(Fault("gpu", gpu, "", "", f"{error.what} while the plan was checked by measurement: {error.found}", error))
                return None
        if any(candidate.doubtful for candidate in self.candidates):
            log.warning("plans were checked while the cores did other work too: found two that do less than 1.4 times the work of one, expected 2; "
                        "the plan found is not remembered, check again (--verify) when the machine is quiet")
        return plan

    def _use_as_profiled(self) -> None:
        """The CPU on the cores that were measured; memory shared with the GPU, and the GPU waited for, in the ways that were the cheapest."""
        if self.profile is None:
            return
        from ..profiling.ways import as_profiled

        for name, section in (("cpu", self.profile.cpu), ("gpu", self.profile.gpu)):
            if name in self.devices and section is not None:
                self.devices[name] = as_profiled(self.devices[name], section)

    def _by_event(self) -> dict[str, Device]:
        """The devices for plans that are yet to be measured: whether words in shared memory keep their sides in step is tried there."""
        return {name: device.used_by(waiting="event") if device.waiting == "flag" else device for name, device in self.devices.items()}

    def _telling_of_tuning(self) -> Callable[[int, int, str], None] | None:
        """Progress of tuning, which ends when all pieces are done or its time is over: the nearer of the two, in 1000 parts."""
        told, begun = self.options.telling("tuning"), time.perf_counter()

        def tell(done: int, total: int, what: str) -> None:
            share = max(done / total if total else 1.0, (time.perf_counter() - begun) / self.options.tune_budget_s)
            told(round(1000 * min(1.0, share)), 1000 if total else 0, what)  # type: ignore[misc]

        return None if told is None else tell
