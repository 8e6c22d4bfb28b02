"""InferenceSession: a model prepared to run, in the shape of ONNX Runtime's."""

from __future__ import annotations

import logging
import os
import sys
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import settings
from ..cost.corrections import Corrections
from ..devices.base import Device
from ..devices.registry import find_devices, session_threads
from ..errors import CoexecError, DeviceError, DeviceHang, FallbackForbidden, InputError, NumericMismatch, UsageError, suggest
from ..graph.ir import Graph, Value
from ..graph.passes import deciding_inputs
from ..partition.plan import Plan
from ..partition.strategies.base import parse_strategy
from ..partition.wishes import Wishes
from ..profiles import DeviceProfile
from ..runtime.check import NodeError, run_checked
from ..runtime.executor import PreparedRun
from ..runtime.feeds import Familiar, check_feeds
from ..runtime.memory import MemoryPlan
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
from ..runtime.schedule import Move, Wait
from ..runtime.trace import Trace, check_writable, phase
from ..runtime.traced import facts_of, run_traced
from ..runtime.turns import Turns
from ..runtime.watchdog import TimedOut, Watch
from .following import Follower, Replan
from .models import Shapes, bind, load, random_feeds
from .planning import cached_profile, plan_prepared, repredicted, resolve_profile
from .refinement import Candidate, refine, remember, remembered

log = logging.getLogger("coexec")

#: Prepared input shapes that one session keeps; the least recently used goes first.
KEPT_SHAPES = 4
#: A session specialises itself on the values of inputs that decide shapes until it has seen this many; then they stay dynamic.
SPECIALISED_VALUES = 16


@dataclass
class SessionOptions:
    """How a session runs. `intra_op_num_threads` 0: every core less those of an emulated GPU.

    strict: fail where a node cannot run where the plan puts it, or its device fails, instead of moving it to the CPU.
    device_retries: how many times a device that failed is tried again, each time with the next run; `retry_device` does so when told.
    check: compare every node with the unsplit reference, in every run.
    force: node name -> device, against the strategy's choice. max_gpu_share: of each operator, the GPU computes at most so much (0 to 1).
    objective: `latency`, or `energy` by the watts that the profile tells (modelled). memory_limit: bytes that packed weights and activations
        may take together, as modelled; strategy `coexec` looks for the best plan that fits. None: no limit.
    shapes: input name -> shape, for models with symbolic dimensions; else the first run decides.
    gpu: the OpenCL device, PLATFORM:DEVICE, or `none`.
    tune_budget_s: seconds at most in which to try kernel forms for the GPU's pieces of the plan that were not tuned before; kept on disk.
    verify: check the strategy's plan by measurement when the session is made: runs correct the cost model, it plans again, and the fastest is
        kept, the CPU's and the GPU's own plans among the candidates. Takes seconds; remembered, so that later sessions start with it.
    adapt: watch how long runs take; where that drifts away from what was predicted, because of another load or a device that throttles, plan again
        beside the runs and swap the plan between two of them. `session.replans` tells.
    progress: called with (done, of, what) while the session measures a machine that has no profile, tunes, verifies and compiles, and in its
        first run.
    enable_profiling: trace the session's making and its runs, for `end_profiling` to write; or a Trace that was begun before.
    profile_file_prefix: where `end_profiling` writes unless it is told: PREFIX_DATE_TIME.json.
    """

    intra_op_num_threads: int = 0
    strict: bool = False
    device_retries: int = 0
    check: bool = False
    force: Mapping[str, str] = field(default_factory=dict)
    max_gpu_share: float = 1.0
    objective: str = "latency"
    memory_limit: int | None = None
    shapes: Shapes = field(default_factory=dict)
    gpu: str = ""
    tune_budget_s: float = 0.0
    verify: bool = False
    adapt: bool = False
    progress: Callable[[int, int, str], None] | None = None
    enable_profiling: bool | Trace = False
    profile_file_prefix: str = "coexec_profile"

    @property
    def wishes(self) -> Wishes:
        """What is asked of plans. Raises UsageError where it is no sense, or contradicts itself."""
        return Wishes(dict(self.force), self.max_gpu_share, self.objective, self.memory_limit)


@dataclass(frozen=True)
class NodeArg:
    """An input or output as ONNX Runtime shows it: `shape` holds names or None where a dimension is open, `type` like `tensor(float)`."""

    name: str
    shape: list[int | str | None] | None
    type: str


_ONNX_NAMES = {"float32": "float", "float64": "double", "object": "string"}


def _argument(value: Value) -> NodeArg:
    dtype = value.type.dtype
    kind = "opaque" if dtype is None else f"tensor({_ONNX_NAMES.get(dtype.name, dtype.name)})"
    return NodeArg(value.name, None if value.type.shape is None else list(value.type.shape), kind)


@cache
def _tell_of_unwritable_cache() -> None:
    """One warning a process; everything works without a cache, only slower."""
    folder = settings.get("cache_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "no permission to write"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        log.warning("[%s] the cache cannot be written: found %s, expected a writable folder; kernels and profiles are made anew each time; "
                    "set COEXEC_CACHE_DIR", folder, reason)


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


_sessions: weakref.WeakSet[InferenceSession] = weakref.WeakSet()


def _after_fork() -> None:
    for session in list(_sessions):
        session._after_fork()


os.register_at_fork(after_in_child=_after_fork)


class InferenceSession:
    """A model prepared to run; the interface of onnxruntime.InferenceSession.

    source: path, bytes, onnx.ModelProto or Graph. device_profile: a DeviceProfile or its path; default: this machine's.
    strategy: `cpu`, `gpu`, `fixed:gpu=0.5`, `flops`, `coexec` ...; plan: a Plan (or its path) to replay instead.
    One thread at a time runs a session; others wait their turn, in the order in which they came. A GPU that fails or hangs
    is left alone from then on: the run ends on the CPU with the right answer, and one warning says what happened (`faults` lists them). Raises ModelError, NoDevice, PlanMismatch, UsageError.
    """

    def __init__(self, source: Any, sess_options: SessionOptions | None = None, *, device_profile: DeviceProfile | str | None = None,
                 strategy: str = "coexec", plan: Plan | str | None = None):
        _tell_of_unwritable_cache()
        self.options = sess_options or SessionOptions()
        self.strategy, self._wishes = strategy, self.options.wishes
        self._trace = self._begin_trace()
        with phase(self._trace, "import"):
            self._model = load(source)
        self._output_names = [v.name for v in self._model.outputs]
        #: Read once: what a run asks for, it would ask for again in every run.
        self._checked, self._limit_s = self.options.check or settings.get("check"), settings.get("timeout")
        self._familiar = Familiar()
        self._runs_familiar: PreparedRun | None = None
        self._given_plan = Plan.load(plan) if plan is not None and not isinstance(plan, Plan) else plan
        self._partitioner = None if self._given_plan is not None else parse_strategy(strategy)
        self._profile = resolve_profile(device_profile)
        #: What `verify` tried, with what was measured; empty without it.
        self.candidates: list[Candidate] = []
        self._lock = Turns()
        self._prepared: OrderedDict[tuple, PreparedRun] = OrderedDict()
        self._current: PreparedRun | None = None
        self._closed = False
        self._health = Health(self.options.strict, self.options.device_retries)
        self._watch = Watch()
        self._forked = False
        self._knows_nan: set[int] = set()
        #: Of each prepared graph, what follows its times; None in a session that does not adapt.
        self._followers: dict[int, Follower | None] | None = {} if self._adapts() else None
        _sessions.add(self)
        need_gpu = "gpu" in self._given_plan.devices if self._given_plan is not None else self._partitioner.needs_gpu
        only_cpu = self._partitioner is not None and not self._partitioner.uses_gpu
        with phase(self._trace, "open devices"):
            self.devices = find_devices("none" if only_cpu and not self.options.force else self.options.gpu, need_gpu)
            self._self_test()
        if self._given_plan is not None:
            self._given_plan.check_board({name: device.facts.name for name, device in self.devices.items()})
        with phase(self._trace, "passes"):
            bound = bind(self._model, {**self._open_shapes(), **self.options.shapes})
        self._deciding = deciding_inputs(bound)
        self._values_seen = 0
        if not self._deciding and all(v.type.is_static or v.type.dtype is None or v.type.dtype == object for v in bound.inputs):
            self._prepare(bound, self._key({v.name: v.type.shape for v in bound.inputs}, {}))

    def _adapts(self) -> bool:
        """Whether plans follow the machine. Raises UsageError where they are asked to and cannot."""
        if not self.options.adapt:
            return False
        for wrong, found in ((self._given_plan is not None, "a saved plan, which is replayed as it is"),
                             (self._trace is not None, "a traced session, whose runs take longer than others"),
                             (self._partitioner is not None and not self._partitioner.needs_profile,
                              f"strategy '{self.strategy}', which predicts nothing")):
            if wrong:
                raise UsageError("the plan of this session cannot follow the machine", found=found, hint="leave out one of them")
        return not self._checked

    def _begin_trace(self) -> Trace | None:
        wanted = self.options.enable_profiling
        if isinstance(wanted, Trace):
            return wanted
        if not wanted:
            return None
        check_writable(self._trace_path(), "SessionOptions.profile_file_prefix")
        return Trace()

    def _trace_path(self) -> Path:
        """A name that no file has yet."""
        stem, number = f"{self.options.profile_file_prefix}_{time.strftime('%Y-%m-%d_%H-%M-%S')}", 1
        while (path := Path(f"{stem}{f'_{number}' if number > 1 else ''}.json")).exists():
            number += 1
        return path

    def _open_shapes(self) -> Shapes:
        """A given plan's shapes, for the inputs that the model leaves open."""
        given = self._given_plan.shapes if self._given_plan is not None else {}
        return {v.name: given[v.name] for v in self._model.inputs if v.name in given and not v.type.is_static}

    @staticmethod
    def _key(shapes: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> tuple:
        return tuple(shapes.values()), tuple((n, a.tobytes()) for n, a in values.items())

    def _prepare(self, graph: Graph, key: tuple, feeds: Mapping[str, Any] | None = None) -> PreparedRun:
        self._use_as_profiled()
        if self._given_plan is not None:
            made = self._given_plan
        else:
            made = self._planned(graph, feeds)
        if self.options.tune_budget_s > 0 and "gpu" in made.devices and "gpu" in self.devices:
            with phase(self._trace, "tune"):
                self.devices["gpu"].tune(graph, made, self.options.tune_budget_s, self._telling_of_tuning())
        fallen = [(p.name, p.note) for p in made.partitions if p.note.startswith(("fallback:", "gpu:"))]
        if self.options.strict and fallen:
            raise FallbackForbidden(fallen, where=graph.name)
        if self._health.quarantined & set(made.devices):
            made = without_devices(graph, made, self._health.faults[-1])
        try:
            prepared = self._prepared_run(graph, made)
        except failures(self.devices.values()) as error:
            if not far_devices(made) or self.options.strict and isinstance(error, DeviceError):
                raise
            fault = fault_of(error, self.devices, made, graph)
            self._health.report(fault)
            prepared = self._prepared_run(graph, without_devices(graph, made, fault))
        self._prepared[key] = self._current = prepared
        self._tell(prepared)
        while len(self._prepared) > KEPT_SHAPES:
            self._prepared.popitem(last=False)[1].close()
        return prepared

    def _telling(self, work: str) -> Callable[[int, int, str], None] | None:
        """The progress that was asked for, which is told what is being done, too."""
        told = self.options.progress
        return None if told is None else lambda done, total, what: told(done, total, f"{work}, {what}" if what else work)

    def _telling_of_tuning(self) -> Callable[[int, int, str], None] | None:
        """The same of tuning, which ends when all pieces are done or its time is over: the nearer of the two, in 1000 parts."""
        told, begun = self._telling("tuning"), time.perf_counter()

        def tell(done: int, total: int, what: str) -> None:
            share = max(done / total if total else 1.0, (time.perf_counter() - begun) / self.options.tune_budget_s)
            told(round(1000 * min(1.0, share)), 1000 if total else 0, what)  # type: ignore[misc]

        return None if told is None else tell

    def _prepared_run(self, graph: Graph, plan: Plan) -> PreparedRun:
        threads = session_threads(self.devices, self.options.intra_op_num_threads, "gpu" in plan.devices)
        trace = self._trace if self._followers is None else Trace()
        return PreparedRun(graph, plan, self.devices, threads, self.options.strict, trace, self.options.progress)

    def _tell(self, prepared: PreparedRun) -> None:
        """The trace's facts, and the first rungs of COEXEC_DEBUG, on stderr."""
        if self._trace is not None:
            self._trace.facts |= facts_of(prepared)
        level = settings.get("debug")
        if level >= 1:
            devices = ", ".join(f"{name}: {device.facts.name}" for name, device in self.devices.items())
            waits = sum(isinstance(step, Wait) for step in prepared.steps)
            print(f"coexec: {prepared.graph.name}: {len(prepared.graph.nodes)} nodes, {len(prepared.kernels)} pieces, {waits} waits, "
                  f"{prepared.memory.nbytes / 1e6:.1f} MB of activations, {prepared.threads} CPU thread(s); {devices}", file=sys.stderr)
        if level >= 2:
            print(prepared.plan, file=sys.stderr)

    def _planned(self, graph: Graph, feeds: Mapping[str, Any] | None) -> Plan:
        partitioner = self._partitioner
        if self._profile is None and (partitioner.needs_profile or self._wishes.objective != "latency" or self._wishes.memory_bytes is not None):
            with phase(self._trace, "profile"):
                self._profile = cached_profile(self._telling("measuring this machine"), self.devices)
            self._use_as_profiled()
        own = partitioner == parse_strategy("coexec")
        if self.options.verify and partitioner.needs_profile and (made := self._verified(graph, feeds)) is not None:
            if own and not any(candidate.doubtful for candidate in self.candidates):
                remember(made, graph, self._profile, self.devices, self.options.intra_op_num_threads)
            return made
        with phase(self._trace, "plan", strategy=self.strategy):
            known = remembered(graph, self._profile, self.devices, self.options.intra_op_num_threads, self._wishes) if own else None
            if known is not None:  # the machine may have been measured again since
                return repredicted(known, graph, self._profile, self.options.intra_op_num_threads)
            return plan_prepared(graph, profile=self._profile, strategy=self.strategy, wishes=self._wishes, devices=self.devices,
                                 threads=self.options.intra_op_num_threads)

    def _use_as_profiled(self) -> None:
        """The CPU on the cores that were measured; memory shared with the GPU, and the GPU waited for, in the ways that were the cheapest."""
        if self._profile is None:
            return
        from ..profiling.ways import as_profiled

        for name, section in (("cpu", self._profile.cpu), ("gpu", self._profile.gpu)):
            if name in self.devices and section is not None:
                self.devices[name] = as_profiled(self.devices[name], section)

    def _by_event(self) -> dict[str, Device]:
        """The devices for plans that are yet to be measured: whether words in shared memory keep their sides in step is tried there."""
        return {name: device.used_by(waiting="event") if device.waiting == "flag" else device for name, device in self.devices.items()}

    def _verified(self, graph: Graph, feeds: Mapping[str, Any] | None) -> Plan | None:
        """The plan that measurement kept; None, with a warning, where made-up inputs do not run, or a device fails."""
        with phase(self._trace, "verify", strategy=self.strategy):
            try:
                made, self.candidates = refine(
                    graph, random_feeds(graph) if feeds is None else feeds, self._by_event(), self._profile, strategy=self.strategy,
                    threads=self.options.intra_op_num_threads, wishes=self._wishes, progress=self._telling("checking plans"))
            except (InputError, DeviceError) as error:
                log.warning("the plan cannot be checked by measurement: %s", error)
                return None
            except DeviceHang as error:
                gpu = self.devices["gpu"].facts.name
                self._health.report(Fault("gpu", gpu, "", "", f"{error.what} while the plan was checked by measurement: {error.found}", error))
                return None
        if any(candidate.doubtful for candidate in self.candidates):
            log.warning("plans were checked while the cores did other work too: found two that do less than 1.4 times the work of one, expected 2; "
                        "the plan found is not remembered, check again (--verify) when the machine is quiet")
        return made

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None) -> list[Any]:
        """The outputs, all or those named, for a dict of arrays. Raises InputError, UsageError, DeviceError, NumericMismatch."""
        names = self._output_names if output_names is None else list(output_names)
        for name in names:
            if name not in self._output_names:
                raise UsageError(f"the model has no output '{name}'", hint=suggest(name, self._output_names))
        with self._lock:
            if self._closed:
                raise UsageError("the session is closed", hint="make a new one")
            self._leave_behind()
            if self._forked or self._health.retry_due:
                self._begin_anew()
            prepared, feeds = self._current, input_feed
            if prepared is None or prepared is not self._runs_familiar or not self._familiar.knows(input_feed):
                feeds = check_feeds(self._model.inputs, input_feed)
                prepared = self._for(feeds)
                self._familiar.learn(feeds)
                self._runs_familiar = None if self._deciding else prepared
            results = self._run_safely(prepared, feeds) if self._followers is None else self._run_following(prepared, feeds)
        return [results[n] for n in names]

    def _run_following(self, prepared: PreparedRun, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """A run that its follower is told of; before it, another plan may take over."""
        follower = self._follower(prepared)
        if follower is None:
            return self._run_safely(prepared, feeds)
        if (successor := follower.successor()) is not None:
            key = next(k for k, p in self._prepared.items() if p is prepared)
            self._prepared[key] = self._current = successor
            retire(prepared)
            prepared = successor
        self._trace = looking = follower.trace
        began = time.perf_counter()
        try:
            results = self._run_safely(prepared, feeds)
            taken_ms = (time.perf_counter() - began) * 1e3
        finally:
            self._trace = None
        if self._health.quarantined:
            follower.stop()
        elif looking is not None:
            follower.looked(feeds)
        elif follower.ran(taken_ms, feeds):
            self._probe(follower, prepared, feeds)
        return results

    def _probe(self, follower: Follower, prepared: PreparedRun, feeds: Mapping[str, Any]) -> None:
        """Times one operator on a unit that was slow. A device that fails meanwhile is as bad as one that fails in a run."""
        work, limit_s = partial(follower.probe, feeds), self._limit_s
        try:
            self._watch.call(work, limit_s, prepared.places) if limit_s else work()
        except (TimedOut, *failures(self.devices.values())) as error:
            follower.stop()
            if isinstance(error, TimedOut):
                error = DeviceHang("the device did not answer in time", found=f"no answer to a probe after {limit_s:g} s")
            self._health.report(fault_of(error, self.devices, prepared.plan, prepared.graph))

    def _follower(self, prepared: PreparedRun) -> Follower | None:
        """What follows that graph's times; made at its first run. None where there is nothing to choose from."""
        graph = prepared.graph
        if id(graph) not in self._followers:
            for gone in self._followers.keys() - {id(p.graph) for p in self._prepared.values()}:
                if (old := self._followers.pop(gone)) is not None:
                    old.close()
            useful = prepared.plan.predicted_ms is not None and self._profile is not None and {"cpu", "gpu"} <= self.devices.keys()
            self._followers[id(graph)] = Follower(
                graph, prepared.plan, self._profile, partial(self._planned_again, graph), partial(self._prepared_again, graph),
                session_threads(self.devices, self.options.intra_op_num_threads)) if useful and not self._health.quarantined else None
        return self._followers[id(graph)]

    def _planned_again(self, graph: Graph, corrections: Corrections) -> Plan:
        return plan_prepared(graph, profile=self._profile, strategy=self.strategy, wishes=self._wishes, devices=self.devices, corrections=corrections)

    def _prepared_again(self, whole: Graph, plan: Plan, graph: Graph | None = None, threads: int | None = None) -> PreparedRun:
        """Beside the runs: for the whole graph, or one that was made of a part of it. Its runs can be traced."""
        threads = session_threads(self.devices, self.options.intra_op_num_threads, "gpu" in plan.devices) if threads is None else threads
        return PreparedRun(graph or whole, plan, self.devices, threads, trace=Trace())

    @property
    def replans(self) -> list[Replan]:
        """The plans that took another's place, in order; empty in a session that does not adapt."""
        return [change for follower in (self._followers or {}).values() if follower is not None for change in follower.changes]

    def _run_once(self, prepared: PreparedRun, feeds: Mapping[str, Any], checked: bool) -> dict[str, Any]:
        if self._trace is not None:
            return self._run_traced(prepared, feeds, checked)
        return run_checked(prepared, feeds) if checked else prepared.run(feeds)

    def _run_safely(self, prepared: PreparedRun, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """A run that ends with the right answer whatever its devices do, or, under `strict`, with the documented error."""
        checked, limit_s = self._checked, self._limit_s
        if not prepared.is_far:
            return self._run_once(prepared, feeds, checked)
        try:
            if checked or not limit_s:  # the reference takes as long as it takes
                results = self._run_once(prepared, feeds, checked)
            elif self._trace is not None:
                results = self._watch.call(partial(self._run_once, prepared, feeds, False), timeout_s(prepared, limit_s), prepared.places)
            else:
                results = watched(self._watch, prepared, feeds, limit_s)
        except TimedOut:
            error = DeviceHang("the device did not answer in time", found=f"no answer after {timeout_s(prepared, limit_s):g} s",
                               hint="COEXEC_TIMEOUT sets how long to wait")
            return self._finish_without(prepared, feeds, fault_of(error, self.devices, prepared.plan, prepared.graph, prepared))
        except failures(self.devices.values()) as error:
            return self._finish_without(prepared, feeds, fault_of(error, self.devices, prepared.plan, prepared.graph, prepared))
        if has_nan(results.values()) and id(prepared) not in self._knows_nan and not has_nan(feeds.values()):
            return self._judge_nan(prepared, feeds, results)
        return results

    def _leave_behind(self) -> None:
        """Gives up what a run may still use that hangs, or that Ctrl-C left before its end was known."""
        if not self._watch.lost:
            return
        for prepared in self._prepared.values():
            if far_devices(prepared.plan):
                abandon(prepared)
        self._prepared = OrderedDict((k, p) for k, p in self._prepared.items() if not far_devices(p.plan))
        if self._current is not None and far_devices(self._current.plan):
            self._current = None
        self._watch = Watch()

    def _drop(self, prepared: PreparedRun, hung: bool = False) -> tuple | None:
        """Forgets a prepared run whose device failed; returns its key."""
        key = next((k for k, p in self._prepared.items() if p is prepared), None)
        self._prepared.pop(key, None)
        if self._current is prepared:
            self._current = None
        retire(prepared, hung)
        return key

    def _finish_without(self, prepared: PreparedRun, feeds: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
        """The run once more, on the CPU alone; so are those after it, until the device is tried again."""
        graph, plan = prepared.graph, prepared.plan
        key = self._drop(prepared, hung=isinstance(fault.error, DeviceHang))
        self._health.report(fault)
        alone = self._prepared_run(graph, without_devices(graph, plan, fault))
        self._prepared[key] = self._current = alone
        return self._run_once(alone, feeds, False)

    def _judge_nan(self, prepared: PreparedRun, feeds: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        """NaN out of inputs without one: the model's own where the CPU finds it too, else the device's fault."""
        alone = self._prepared_run(prepared.graph, without_devices(prepared.graph, prepared.plan, "tried without it"))
        try:
            expected = alone.run(feeds)
        finally:
            alone.close()
        if same_nans(found, expected):
            self._knows_nan.add(id(prepared))
            return found
        where = "in no node in particular: it did not happen again"
        try:
            self._watch.call(partial(run_checked, prepared, feeds), timeout_s(prepared, max(60.0, self._limit_s)), prepared.places)
        except NumericMismatch as mismatch:
            where = mismatch.where
        except (TimedOut, *failures(self.devices.values())) as error:
            where = f"(the second look ended with {type(error).__name__})"
        error = NumericMismatch("the device computed NaN where the CPU does not", where=where)
        fault = fault_of(error, self.devices, prepared.plan, prepared.graph, prepared)
        self._drop(prepared, hung=self._watch.lost)
        self._health.report(fault)
        return expected

    def _self_test(self) -> None:
        """A GPU that computes a small convolution wrongly is not used; tried once a process and device."""
        gpu = self.devices.get("gpu")
        if gpu is None or not settings.get("self_test"):
            return
        wrong = _tried(gpu)
        if wrong is not None:
            self._health.report(Fault("gpu", gpu.facts.name, "Conv 'self_test'", "", f"{wrong.what}: {wrong.found}", wrong))

    def _begin_anew(self) -> None:
        """Before a run: the devices are tried again, or, in a process that was forked, given up."""
        if self._forked:
            self._forked = False
            gpu = self.devices.pop("gpu", None)
            if gpu is not None:
                abandon(gpu)
                self._health.report(Fault("gpu", gpu.facts.name, "", "", "this process was forked, and OpenCL does not survive that"))
            self._health.retry_due = False
        else:
            self._retry()

    def retry_device(self) -> None:
        """Tries a device again that failed: the next run prepares it anew."""
        with self._lock:
            self._retry()

    def _retry(self) -> None:
        self._leave_behind()
        self._health.forgive()
        for follower in (self._followers or {}).values():
            if follower is not None:
                follower.close()
        self._followers = None if self._followers is None else {}
        for prepared in self._prepared.values():
            retire(prepared)
        self._prepared.clear()
        self._current = None

    @property
    def faults(self) -> list[Fault]:
        """What went wrong with devices so far, in order."""
        return list(self._health.faults)

    def _after_fork(self) -> None:
        """In the child: threads are gone, the driver's too, and another thread may have held the lock."""
        self._lock, self._watch, self._forked = Turns(), Watch(), True
        abandon((self._prepared, self._current, self._followers))
        self._followers = None
        self._prepared, self._current = OrderedDict(), None

    def _run_traced(self, prepared: PreparedRun, feeds: Mapping[str, Any], checked: bool) -> dict[str, Any]:
        """A run for the trace, after the one that is checked: comparing every node would be all that its times show."""
        if checked:
            run_checked(prepared, feeds)
        if self._trace.full:
            self._trace.facts["untraced_runs"] += 1
            return prepared.run(feeds)
        return run_traced(prepared, feeds, self._trace)

    def end_profiling(self, path: str | os.PathLike[str] | None = None) -> str:
        """Writes the trace and returns its path: that one, or PREFIX_DATE_TIME.json. Later runs are not traced.

        Raises UsageError where nothing was traced, or the file cannot be written; then the trace is kept for another try.
        """
        with self._lock:
            return self._write_trace(path)

    def _write_trace(self, path: str | os.PathLike[str] | None = None) -> str:
        if self._trace is None:
            raise UsageError("there is no trace to write", hint="make the session with SessionOptions(enable_profiling=True); "
                                                                "end_profiling writes once")
        target = check_writable(self._trace_path() if path is None else path, "end_profiling")
        self._trace.save(target)
        self._trace = None
        return str(target)

    def _for(self, feeds: Mapping[str, Any]) -> PreparedRun:
        current = self._current
        if current is not None and not self._deciding and all(
                v.type.shape is None or v.type.shape == np.shape(feeds[v.name]) for v in current.graph.inputs):
            return current
        shapes = {v.name: None if v.type.dtype is None else np.shape(feeds[v.name]) for v in self._model.inputs}
        values = {n: feeds[n] for n in self._deciding}
        key = self._key(shapes, values)
        if key in self._prepared:
            self._prepared.move_to_end(key)
            self._current = self._prepared[key]
            return self._current
        if values:
            self._values_seen += 1
            if self._values_seen > SPECIALISED_VALUES:
                self._deciding, values = (), {}
                key = self._key(shapes, values)
        with phase(self._trace, "passes"):
            bound = bind(self._model, {k: s for k, s in shapes.items() if s is not None}, values)
        return self._prepare(bound, key, feeds)

    def run_checked(self, input_feed: Mapping[str, Any], rtol: float = 1e-3, atol: float = 1e-5, stop: bool = True,
                    report: Callable[[NodeError], None] | None = None) -> dict[str, Any]:
        """Outputs by name, every node compared with the unsplit reference on the way. Raises NumericMismatch where `stop`."""
        feeds = check_feeds(self._model.inputs, input_feed)
        with self._lock:
            return run_checked(self._for(feeds), feeds, rtol, atol, stop, report)

    def get_inputs(self) -> list[NodeArg]:
        """The model's inputs: name, shape, type."""
        return [_argument(v) for v in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs: name, shape (as far as known), type."""
        typed = self._current.graph.outputs if self._current is not None else self._model.outputs
        return [_argument(v) for v in typed]

    @property
    def _ready(self) -> PreparedRun:
        if self._current is None:
            why = "its device is to be tried again" if self._health.faults else "the model has open dimensions"
            raise UsageError(f"the session is not prepared yet: {why}", found=[str(v) for v in self._model.inputs],
                             hint="run it once, or give SessionOptions.shapes")
        return self._current

    @property
    def is_prepared(self) -> bool:
        """True once there is a plan: from the beginning, or from the first run where shapes or values are open until then."""
        return self._current is not None

    @property
    def plan(self) -> Plan:
        """The plan that runs. Raises UsageError before the first run of a model with open dimensions."""
        return self._ready.plan

    @property
    def graph(self) -> Graph:
        """The prepared graph: types inferred, constants folded, operators fused."""
        return self._ready.graph

    @property
    def profile(self) -> DeviceProfile | None:
        """The profile the plan was made from; None where the strategy needs none."""
        return self._profile

    @property
    def threads(self) -> int:
        """CPU threads in use."""
        return self._ready.threads

    @property
    def memory(self) -> MemoryPlan:
        """Where every activation lies in the arena."""
        return self._ready.memory

    @property
    def peak_memory_bytes(self) -> int:
        """Bytes of activation memory, planned for all values together: images, and where nothing is shared both sides' copies, included."""
        return self._ready.planned_bytes

    @property
    def measured_memory_bytes(self) -> int | None:
        """Bytes of that memory that the system has handed out by now, in whole pages; None where it does not tell."""
        with self._lock:
            told = [buffer.resident_bytes() for buffer in (self._ready.buffer, *self._ready.images)]
        return None if None in told else sum(told)

    @property
    def copied_bytes_per_run(self) -> int:
        """Bytes of activations that a run copies between the CPU's memory and the GPU's: 0 where they share it, or hand it over."""
        prepared = self._ready
        if not prepared.buffer.copies:
            return 0
        return sum(step.region.size * step.value.dtype.itemsize for step in prepared.steps if isinstance(step, Move))

    def close(self) -> None:
        """Frees kernels and memory; a closed session cannot run. A trace that was not written yet is written, as `end_profiling` does."""
        with self._lock:
            self._closed, self._runs_familiar = True, None
            if self._trace is not None:
                try:
                    log.info("wrote the trace to %s", self._write_trace())
                except (UsageError, OSError) as error:
                    log.warning("the trace is lost: %s", error)
                    self._trace = None
            for follower in (self._followers or {}).values():
                if follower is not None:
                    follower.close()
            self._leave_behind()
            for prepared in self._prepared.values():
                prepared.close()
            self._prepared.clear()
            self._current = None
            self._watch.close()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
