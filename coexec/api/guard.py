"""Runs of a session that end with the right answer whatever their devices do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from .. import settings
from ..devices.base import Device
from ..errors import CoexecError, DeviceError, DeviceHang, NumericMismatch
from ..graph.ir import Graph
from ..partition.plan import Plan
from ..runtime.check import run_checked
from ..runtime.executor import PreparedRun
from ..runtime.recovery import (
    Fault,
    Health,
    abandon,
    failures,
    far_devices,
    fault_of,
    has_nan,
    retire,
    same_nans,
    timeout_s,
    watched,
    without_devices,
)
from ..runtime.trace import Trace
from ..runtime.watchdog import TimedOut, Watch
from .kept import Kept

Feeds = Mapping[str, Any]


class Guard:
    """Runs prepared runs; where a device fails, hangs or computes NaN of its own, the run ends on the CPU with the right answer, and the device is
    left alone from then on. Under `strict` such a run raises the documented error instead.

    once: does a run (prepared, feeds, checked, trace). make: prepares a graph's plan.
    """

    def __init__(self, devices: dict[str, Device], kept: Kept, health: Health, checked: bool,
                 once: Callable[[PreparedRun, Feeds, bool, Trace | None], dict[str, Any]], make: Callable[[Graph, Plan], PreparedRun]):
        self.devices, self.kept, self.health = devices, kept, health
        self._once, self._make = once, make
        #: Read once: what a run asks for, it would ask for again in every run.
        self.checked, self.limit_s = checked or settings.get("check"), settings.get("timeout")
        self._watch = Watch()
        self._forked = False
        self._knows_nan: set[int] = set()

    def self_test(self) -> None:
        """A GPU that computes a small convolution wrongly is not used; tried once a process and device."""
        gpu = self.devices.get("gpu")
        if gpu is None or not settings.get("self_test"):
            return
        wrong = _tried(gpu)
        if wrong is not None:
            self.health.report(Fault("gpu", gpu.facts.name, "Conv 'self_test'", "", f"{wrong.what}: {wrong.found}", wrong))

    def prepare(self, graph: Graph, plan: Plan) -> PreparedRun:
        """The plan prepared; without devices that failed before, or fail now."""
        if self.health.quarantined & plan.devices:
            plan = without_devices(graph, plan, self.health.faults[-1])
        try:
            return self._make(graph, plan)
        except failures(self.devices.values()) as error:
            if not far_devices(plan) or self.health.strict and isinstance(error, DeviceError):
                raise
            fault = fault_of(error, self.devices, plan, graph)
            self.health.report(fault)
            return self._make(graph, without_devices(graph, plan, fault))

    def run(self, prepared: PreparedRun, feeds: Feeds, trace: Trace | None = None) -> dict[str, Any]:
        """The outputs by name. Raises what a fault is documented to raise where `strict`."""
        if not prepared.is_far:
            return self._once(prepared, feeds, self.checked, trace)
        try:
            if self.checked or not self.limit_s:  # the reference takes as long as it takes
                results = self._once(prepared, feeds, self.checked, trace)
            elif trace is not None:
                results = self._watch.call(partial(self._once, prepared, feeds, False, trace), timeout_s(prepared, self.limit_s), prepared.places)
            else:
                results = watched(self._watch, prepared, feeds, self.limit_s)
        except TimedOut:
            error = DeviceHang("the device did not answer in time", found=f"no answer after {timeout_s(prepared, self.limit_s):g} s",
                               hint="COEXEC_TIMEOUT sets how long to wait")
            return self._finish_without(prepared, feeds, fault_of(error, self.devices, prepared.plan, prepared.graph, prepared), trace)
        except failures(self.devices.values()) as error:
            return self._finish_without(prepared, feeds, fault_of(error, self.devices, prepared.plan, prepared.graph, prepared), trace)
        if has_nan(results.values()) and id(prepared) not in self._knows_nan and not has_nan(feeds.values()):
            return self._judge_nan(prepared, feeds, results)
        return results

    def probe(self, work: Callable[[], None], prepared: PreparedRun, failed: Callable[[], None]) -> None:
        """Something else than a run that asks the same devices. One that fails meanwhile, which `failed` hears of, is as bad as one that fails in
        a run.
        """
        try:
            self._watch.call(work, self.limit_s, prepared.places) if self.limit_s else work()
        except (TimedOut, *failures(self.devices.values())) as error:
            failed()
            if isinstance(error, TimedOut):
                error = DeviceHang("the device did not answer in time", found=f"no answer to a probe after {self.limit_s:g} s")
            self.health.report(fault_of(error, self.devices, prepared.plan, prepared.graph))

    def _drop(self, prepared: PreparedRun, hung: bool) -> tuple | None:
        """Forgets a prepared run whose device failed; returns its key."""
        key = self.kept.forget(prepared)
        retire(prepared, hung)
        return key

    def _finish_without(self, prepared: PreparedRun, feeds: Feeds, fault: Fault, trace: Trace | None) -> dict[str, Any]:
        """The run once more, on the CPU alone; so are those after it, until the device is tried again."""
        graph, plan = prepared.graph, prepared.plan
        key = self._drop(prepared, hung=isinstance(fault.error, DeviceHang))
        self.health.report(fault)
        alone = self._make(graph, without_devices(graph, plan, fault))
        self.kept.put(key, alone)
        return self._once(alone, feeds, False, trace)

    def _judge_nan(self, prepared: PreparedRun, feeds: Feeds, found: dict[str, Any]) -> dict[str, Any]:
        """NaN out of inputs without one: the model's own where the CPU finds it too, else the device's fault."""
        alone = self._make(prepared.graph, without_devices(prepared.graph, prepared.plan, "tried without it"))
        try:
            expected = alone.run(feeds)
        finally:
            alone.close()
        if same_nans(found, expected):
            self._knows_nan.add(id(prepared))
            return found
        where = "in no node in particular: it did not happen again"
        try:
            self._watch.call(partial(run_checked, prepared, feeds), timeout_s(prepared, max(60.0, self.limit_s)), prepared.places)
        except NumericMismatch as mismatch:
            where = mismatch.where
        except (TimedOut, *failures(self.devices.values())) as error:
            where = f"(the second look ended with {type(error).__name__})"
        error = NumericMismatch("the device computed NaN where the CPU does not", where=where)
        fault = fault_of(error, self.devices, prepared.plan, prepared.graph, prepared)
        self._drop(prepared, hung=self._watch.lost)
        self.health.report(fault)
        return expected

    # Between runs

    def leave_behind(self) -> None:
        """Gives up what a run may still use that hangs, or that Ctrl-C left before its end was known."""
        if self._watch.lost:
            self.kept.abandon_far()
            self._watch = Watch()

    @property
    def anew_due(self) -> bool:
        """Whether the next run is to begin without what was prepared: the devices are another process's, or are to be tried again."""
        return self._forked or self.health.retry_due

    def give_up_forked(self) -> bool:
        """In a process that was forked: the GPU is given up, for OpenCL does not survive that. Returns False in any other."""
        if not self._forked:
            return False
        self._forked, self.health.retry_due = False, False
        gpu = self.devices.pop("gpu", None)
        if gpu is not None:
            abandon(gpu)
            self.health.report(Fault("gpu", gpu.facts.name, "", "", "this process was forked, and OpenCL does not survive that"))
        return True

    def forgive(self) -> None:
        """Devices that failed are tried again by the next run, which prepares them anew."""
        self.leave_behind()
        self.health.forgive()
        self.kept.retire()

    def after_fork(self, kept: Kept) -> None:
        """In the child: threads are gone, the driver's too. kept: where what is prepared from now on is kept."""
        abandon((self.kept, self._watch))
        self.kept, self._watch, self._forked = kept, Watch(), True

    def close(self) -> None:
        """Ends what was prepared."""
        self.leave_behind()
        self.kept.close()
        self._watch.close()


@cache
def _tried(gpu: Any) -> CoexecError | None:
    """What is wrong with that device's answers; None where they are right."""
    from ..report.self_test import self_test

    try:
        found = self_test(gpu)
    except gpu.failures as error:
        found = {"error": str(error)}
    if found.get("hangs"):
        return DeviceHang("the start-up self-test did not end", found=found["error"])
    return NumericMismatch("the start-up self-test failed", found=found["error"]) if found["error"] else None
