"""InferenceSession: a model prepared to run, in the shape of ONNX Runtime's."""

from __future__ import annotations

import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import settings
from ..devices.registry import find_devices, session_threads
from ..errors import UsageError, suggest
from ..graph.ir import Graph
from ..graph.passes import deciding_inputs
from ..partition.plan import Plan
from ..partition.strategies.base import parse_strategy
from ..profiles import DeviceProfile
from ..runtime.check import NodeError, run_checked
from ..runtime.executor import PreparedRun
from ..runtime.feeds import Familiar, check_feeds
from ..runtime.memory import MemoryPlan
from ..runtime.recovery import Fault, Health, abandon
from ..runtime.schedule import Move, Wait
from ..runtime.trace import Trace, check_writable, phase
from ..runtime.traced import facts_of, run_traced
from ..runtime.turns import Turns
from .arguments import NodeArg, argument_of
from .choice import PlanChoice
from .followers import Followers
from .following import Replan
from .guard import Guard
from .kept import Kept
from .models import Shapes, bind, load
from .options import SessionOptions
from .planning import resolve_profile
from .refinement import Candidate

log = logging.getLogger("coexec")

#: A session specialises itself on the values of inputs that decide shapes until it has seen this many; then they stay dynamic.
SPECIALISED_VALUES = 16


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


_sessions: weakref.WeakSet[InferenceSession] = weakref.WeakSet()


def _after_fork() -> None:
    for session in list(_sessions):
        session._after_fork()


os.register_at_fork(after_in_child=_after_fork)


class InferenceSession:
    """A model prepared to run; the interface of onnxruntime.InferenceSession.

    source: path, bytes, onnx.ModelProto or Graph. device_profile: a DeviceProfile or its path; default: this machine's.
    strategy: `cpu`, `gpu`, `fixed:gpu=0.5`, `flops`, `coexec` ...; plan: a Plan (or its path) to replay instead.
    One thread at a time runs a session; others wait their turn, in the order in which they came. A GPU that fails or hangs is left alone from
    then on: the run ends on the CPU with the right answer, and one warning says what happened (`faults` lists them). Raises ModelError, NoDevice,
    PlanMismatch, UsageError.
    """

    def __init__(self, source: Any, sess_options: SessionOptions | None = None, *, device_profile: DeviceProfile | str | None = None,
                 strategy: str = "coexec", plan: Plan | str | None = None):
        _tell_of_unwritable_cache()
        self.options = sess_options or SessionOptions()
        self.strategy, wishes = strategy, self.options.wishes
        self._trace = self._begin_trace()
        with phase(self._trace, "import"):
            self._model = load(source)
        self._output_names = [v.name for v in self._model.outputs]
        self._familiar = Familiar()
        self._runs_familiar: PreparedRun | None = None
        given = Plan.load(plan) if plan is not None and not isinstance(plan, Plan) else plan
        partitioner = None if given is not None else parse_strategy(strategy)
        profile = resolve_profile(device_profile)
        adapts = self._adapts(given)
        with phase(self._trace, "open devices"):
            only_cpu = partitioner is not None and not partitioner.uses_gpu
            need_gpu = partitioner.needs_gpu if partitioner is not None else "gpu" in given.devices
            self.devices = find_devices("none" if only_cpu and not self.options.force else self.options.gpu, need_gpu)
            health = Health(self.options.strict, self.options.device_retries)
            self._kept, self._lock, self._closed = Kept(), Turns(), False
            self._guard = Guard(self.devices, self._kept, health, self.options.check, self._run_once, self._prepared_run)
            self._guard.self_test()
        if given is not None:
            given.check_board({name: device.facts.name for name, device in self.devices.items()})
        self._choice = PlanChoice(self.options, wishes, strategy, given, profile, self.devices, health)
        #: What follows the times of runs; None in a session that does not adapt.
        self._followers = Followers(self._guard, self._choice, self.options.intra_op_num_threads) if adapts else None
        _sessions.add(self)
        with phase(self._trace, "passes"):
            bound = bind(self._model, {**self._open_shapes(given), **self.options.shapes})
        self._deciding = deciding_inputs(bound)
        self._values_seen = 0
        if not self._deciding and all(v.type.is_static or v.type.dtype is None or v.type.dtype == object for v in bound.inputs):
            self._prepare(bound, self._key({v.name: v.type.shape for v in bound.inputs}, {}))

    def _adapts(self, given: Plan | None) -> bool:
        """Whether plans follow the machine. Raises UsageError where they are asked to and cannot."""
        if not self.options.adapt:
            return False
        for wrong, found in ((given is not None, "a saved plan, which is replayed as it is"),
                             (self._trace is not None, "a traced session, whose runs take longer than others"),
                             (given is None and not parse_strategy(self.strategy).needs_profile,
                              f"strategy '{self.strategy}', which predicts nothing")):
            if wrong:
                raise UsageError("the plan of this session cannot follow the machine", found=found, hint="leave out one of them")
        return not (self.options.check or settings.get("check"))

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

    def _open_shapes(self, given: Plan | None) -> Shapes:
        """A given plan's shapes, for the inputs that the model leaves open."""
        known = given.shapes if given is not None else {}
        return {v.name: known[v.name] for v in self._model.inputs if v.name in known and not v.type.is_static}

    @staticmethod
    def _key(shapes: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> tuple:
        return tuple(shapes.values()), tuple((n, a.tobytes()) for n, a in values.items())

    def _prepare(self, graph: Graph, key: tuple, feeds: Mapping[str, Any] | None = None) -> PreparedRun:
        prepared = self._guard.prepare(graph, self._choice.made(graph, feeds, self._trace))
        self._kept.put(key, prepared)
        self._tell(prepared)
        return prepared

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

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None) -> list[Any]:
        """The outputs, all or those named, for a dict of arrays. Raises InputError, UsageError, DeviceError, NumericMismatch."""
        names = self._output_names if output_names is None else list(output_names)
        for name in names:
            if name not in self._output_names:
                raise UsageError(f"the model has no output '{name}'", hint=suggest(name, self._output_names))
        with self._lock:
            if self._closed:
                raise UsageError("the session is closed", hint="make a new one")
            self._guard.leave_behind()
            if self._guard.anew_due and not self._guard.give_up_forked():
                self._retry()
            prepared, feeds = self._kept.current, input_feed
            if prepared is None or prepared is not self._runs_familiar or not self._familiar.knows(input_feed):
                feeds = check_feeds(self._model.inputs, input_feed)
                prepared = self._for(feeds)
                self._familiar.learn(feeds)
                self._runs_familiar = None if self._deciding else prepared
            results = self._guard.run(prepared, feeds, self._trace) if self._followers is None else self._followers.run(prepared, feeds)
        return [results[n] for n in names]

    @property
    def replans(self) -> list[Replan]:
        """The plans that took another's place, in order; empty in a session that does not adapt."""
        return [] if self._followers is None else self._followers.changes

    @property
    def candidates(self) -> list[Candidate]:
        """What `verify` tried, with what was measured; empty without it."""
        return self._choice.candidates

    def retry_device(self) -> None:
        """Tries a device again that failed: the next run prepares it anew."""
        with self._lock:
            self._retry()

    def _retry(self) -> None:
        if self._followers is not None:
            self._followers.close()
        self._guard.forgive()

    @property
    def faults(self) -> list[Fault]:
        """What went wrong with devices so far, in order."""
        return list(self._guard.health.faults)

    def _after_fork(self) -> None:
        """In the child: threads are gone, the driver's too, and another thread may have held the lock."""
        self._lock, self._kept = Turns(), Kept()
        self._guard.after_fork(self._kept)
        if self._followers is not None:
            self._followers.abandon()
            self._followers = None

    def _run_once(self, prepared: PreparedRun, feeds: Mapping[str, Any], checked: bool, trace: Trace | None) -> dict[str, Any]:
        if trace is not None:
            return self._run_traced(prepared, feeds, checked, trace)
        return run_checked(prepared, feeds) if checked else prepared.run(feeds)

    def _run_traced(self, prepared: PreparedRun, feeds: Mapping[str, Any], checked: bool, trace: Trace) -> dict[str, Any]:
        """A run for the trace, after the one that is checked: comparing every node would be all that its times show."""
        if checked:
            run_checked(prepared, feeds)
        if trace.full:
            trace.facts["untraced_runs"] += 1
            return prepared.run(feeds)
        return run_traced(prepared, feeds, trace)

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
        """What is prepared for those inputs; prepared now where nothing is."""
        current = self._kept.current
        if current is not None and not self._deciding and all(
                v.type.shape is None or v.type.shape == np.shape(feeds[v.name]) for v in current.graph.inputs):
            return current
        shapes = {v.name: None if v.type.dtype is None else np.shape(feeds[v.name]) for v in self._model.inputs}
        values = {n: feeds[n] for n in self._deciding}
        key = self._key(shapes, values)
        if (known := self._kept.use(key)) is not None:
            return known
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
        return [argument_of(v) for v in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs: name, shape (as far as known), type."""
        typed = self._kept.current.graph.outputs if self._kept.current is not None else self._model.outputs
        return [argument_of(v) for v in typed]

    @property
    def _ready(self) -> PreparedRun:
        if self._kept.current is None:
            why = "its device is to be tried again" if self._guard.health.faults else "the model has open dimensions"
            raise UsageError(f"the session is not prepared yet: {why}", found=[str(v) for v in self._model.inputs],
                             hint="run it once, or give SessionOptions.shapes")
        return self._kept.current

    @property
    def is_prepared(self) -> bool:
        """True once there is a plan: from the beginning, or from the first run where shapes or values are open until then."""
        return self._kept.current is not None

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
        return self._choice.profile

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
            if self._followers is not None:
                self._followers.close()
            self._guard.close()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
