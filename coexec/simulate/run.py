"""A simulated run: the steps that the executor would take for a plan, taken on clocks.

The host walks the steps as `runtime.executor` does; every other device works through its queue in order; waits, gates and counters are
those of `runtime.order`, `runtime.hazards` and `runtime.weave`, not a second description of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from ..graph.ir import Graph
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..partition.halos import keep_halos
from ..partition.plan import Plan
from ..regions import Region
from ..runtime.hazards import guard
from ..runtime.memory import MemoryPlan, plan_memory
from ..runtime.order import ordered
from ..runtime.schedule import HOST, Dynamic, Move, Start, Step, Wait
from ..runtime.trace import Arrow, Span, Trace
from ..runtime.weave import Hear, Sync, Tell, WovenStep, weave
from .clocks import Actor, Clock, Hold, Work
from .scenario import QUIET, Scenario
from .times import Overheads, Times


class Program:
    """What a run of a plan does, step by step: made once, simulated as often as one likes. `shared`: the memories are one."""

    def __init__(self, graph: Graph, plan: Plan, shared: bool = True):
        self.graph = graph
        self.plan = plan = replace(plan, partitions=keep_halos(graph, [plan[n.name] for n in graph.nodes]))
        self.devices = tuple(sorted(plan.devices - {HOST}))
        steps = ordered(graph, plan, frozenset(self.devices))
        self.memory: MemoryPlan = plan_memory(graph, steps, plan.early_reuse)
        self.guarded: list[Step] = guard(steps, self.memory)
        self.shared = shared
        self.is_woven = plan.counters and shared and len(self.devices) == 1 and HOST in plan.devices
        self.steps: Sequence[WovenStep] = weave(self.guarded, self.memory, self.devices[0]) if self.is_woven else self.guarded

    @cached_property
    def crossed(self) -> Mapping[Start, int]:
        """Bytes that a piece is the first on its side to read of what another unit wrote."""
        found: dict[Start, int] = {}
        moved: dict[str, int] = {}
        for step in self.guarded:
            if isinstance(step, Move):
                side = HOST if step.to_host else step.device
                moved[side] = moved.get(side, 0) + step.region.size * step.value.dtype.itemsize
            elif isinstance(step, Start):
                found[step] = moved.pop(step.device, 0)
        return found

    @cached_property
    def far_pieces(self) -> int | None:
        """Where the host has no piece, how many others have; else None."""
        near = any(isinstance(s, Dynamic) or isinstance(s, Start) and s.index < 0 for s in self.guarded)
        return None if near else sum(isinstance(s, Start) for s in self.guarded) or None

    @cached_property
    def copied_bytes(self) -> tuple[int, int]:
        """Of the inputs and of the outputs, which each run copies."""
        return tuple(sum(v.type.nbytes for v in values if v.type.is_static) for values in (self.graph.inputs, self.graph.outputs))  # type: ignore


class Slice(NamedTuple):
    """Something that a track did, in simulated microseconds; categories are those of `runtime.trace`."""

    track: str
    name: str
    category: str
    start_us: float
    stop_us: float
    step: Any = None


@dataclass
class Simulated:
    """One run. `slices` in the order they ended; `busy_us` is how long each unit worked on pieces, `waiting_us` how long the host waited."""

    begin_us: float
    end_us: float
    slices: list[Slice]
    events: int
    busy_us: dict[str, float] = field(default_factory=dict)
    waiting_us: float = 0.0

    @property
    def latency_us(self) -> float:
        return self.end_us - self.begin_us


@dataclass
class _Command:
    """Something in a device's queue: a piece, an upload, or a word to the host and a gate."""

    name: str
    category: str
    available_us: float
    us: float = 0.0
    slow: float = 1.0
    step: Any = None


@dataclass
class _Device:
    queue: deque[_Command] = field(default_factory=deque)
    #: When each piece was done, by its index.
    done_us: dict[int, float] = field(default_factory=dict)
    heard: int = 0


def simulate(program: Program, times: Times, scenario: Scenario = QUIET, begin_us: float = 0.0) -> Simulated:
    """One run of the program that begins at that time of the scenario."""
    play = _Play(program, times, scenario, begin_us)
    play.clock.play(play.host(), [play.device(name) for name in program.devices])
    return play.result


class _Play:
    def __init__(self, program: Program, times: Times, scenario: Scenario, begin_us: float):
        self.program, self.times, self.clock = program, times, Clock(scenario, begin_us)
        self.overheads: Overheads = times.overheads
        self.devices = {name: _Device() for name in program.devices}
        self.told = 0
        self.slices: list[Slice] = []
        self.waiting_us = 0.0
        self.begin_us = begin_us

    @property
    def result(self) -> Simulated:
        busy: dict[str, float] = {}
        for s in self.slices:
            if s.category == "piece":
                busy[s.track] = busy.get(s.track, 0.0) + s.stop_us - s.start_us
        return Simulated(self.begin_us, self.clock.now_us, self.slices, self.clock.events, busy, self.waiting_us)

    # The host

    def host(self) -> Actor:
        costs = self.overheads
        fed, fetched = self.program.copied_bytes
        yield from self._doing("host", "copy inputs", "copy", Work(_copy_us(costs, costs.feed_us, fed), HOST))
        for step in self.program.steps:
            yield from self._step(step)
        yield from self._doing("host", "copy outputs", "copy", Work(_copy_us(costs, costs.fetch_us, fetched), HOST))
        yield Work(costs.run_us if self.program.far_pieces is None else costs.away_us + costs.away_piece_us * self.program.far_pieces, HOST)

    def _step(self, step: WovenStep) -> Iterator[Work | Hold]:
        costs, clock = self.overheads, self.clock
        match step:
            case Start(node=node, device=device, index=index):
                us, slow = self.times.of(step)
                us += costs.crossing_us(device, self.program.crossed[step]) if self.program.shared else 0.0
                if index < 0:
                    yield from self._doing(HOST, node.name, "piece", Work(us, HOST, slow, True), step)
                    return
                far = costs.far[device]
                yield from self._doing("host", f"enqueue {node.name}", "enqueue", Work(far.launch_us, HOST), step)
                self.devices[device].queue.append(_Command(node.name, "piece", clock.now_us + far.begin_us, us, slow, step))
            case Move(value=value, region=region, device=device, to_host=to_host) if not self.program.shared:
                us = costs.move_us(region.size * value.dtype.itemsize)
                if to_host:
                    yield from self._doing("host", f"download {value.name}", "copy", Work(us, HOST), step)
                else:
                    self.devices[device].queue.append(_Command(f"upload {value.name}", "copy", clock.now_us, us, step=step))
            case Wait(device=device, index=index):
                yield from self._waiting(step, device, lambda: index in self.devices[device].done_us, index)
            case Hear(device=device, index=index):
                yield from self._waiting(step, device, lambda: self.devices[device].heard >= index, index)
            case Sync(device=device, signal=signal):
                self.devices[device].queue.append(_Command(f"in step {signal}", "wait", clock.now_us, step=step))
            case Tell(number=number):
                self.told = number
            case Dynamic(node=node):
                us, slow = self.times.of(Start(node, HOST, Region()))
                yield from self._doing(HOST, node.name, "piece", Work(us, HOST, slow, True), step)

    def _waiting(self, step: Any, device: str, done: Any, index: int) -> Iterator[Work | Hold]:
        """Until the piece is done and the host knows."""
        far, began = self.overheads.far[device], self.clock.now_us
        yield Hold(done)
        ended = max(began + far.ready_us, self.devices[device].done_us[index] + far.sync_us)
        yield Work(max(0.0, ended - self.clock.now_us))
        self.waiting_us += self.clock.now_us - began
        self.slices.append(Slice("host", f"wait for {device}", "wait", began, self.clock.now_us, step))

    # A device's queue

    def device(self, name: str) -> Actor:
        mine, clock = self.devices[name], self.clock
        while True:
            yield Hold(lambda: bool(mine.queue))
            command = mine.queue.popleft()
            yield Work(max(0.0, command.available_us - clock.now_us))
            match command.step:
                case Sync(signal=signal, target=target):
                    mine.heard = max(mine.heard, signal)
                    yield Hold(lambda: self.told >= target)
                case step:
                    yield from self._doing(name, command.name, command.category,
                                           Work(command.us, name, command.slow, command.category == "piece"), step)
                    if isinstance(step, Start):
                        mine.done_us[step.index] = clock.now_us

    def _doing(self, track: str, name: str, category: str, work: Work, step: Any = None) -> Iterator[Work]:
        began = self.clock.now_us
        yield work
        self.slices.append(Slice(track, name, category, began, self.clock.now_us, step))


def _copy_us(costs: Overheads, known_us: float | None, nbytes: int) -> float:
    """Read once and written once."""
    return 2 * nbytes / (costs.copy_gbs * 1e3) if known_us is None else known_us


def as_trace(program: Program, run: Simulated) -> Trace:
    """The run as a trace that viewers open; its facts say that it is simulated."""
    trace, plan = Trace(), program.plan
    trace.runs = 1
    trace.facts |= {"simulated": True, "model": plan.model, "model_digest": plan.model_digest, "strategy": plan.strategy, "profile": plan.profile,
                    "predicted_ms": plan.predicted_ms, "activation_bytes": program.memory.nbytes}

    def at(us: float) -> int:
        return trace.began_ns + round((us - run.begin_us) * 1e3)

    trace.add("run 0", "run", at(run.begin_us), at(run.end_us), "run", run=0, strategy=plan.strategy, simulated=True)
    started: dict[tuple[str, int], Span] = {}
    enqueued: dict[Any, Span] = {}
    for s in sorted(run.slices, key=lambda s: (s.start_us, s.stop_us)):
        args: dict[str, Any] = {"run": 0}
        if isinstance(s.step, (Start, Dynamic)):
            args |= _described(program, s.step)
        span = trace.add(s.name, s.track, at(s.start_us), at(s.stop_us), s.category, **args)
        match s.step:
            case Start(device=device, index=index) if s.category == "piece" and index >= 0:
                started[device, index] = span
                trace.arrows.append(Arrow("enqueue", enqueued[s.step], span))
            case Start() if s.category == "enqueue":
                enqueued[s.step] = span
            case Wait(device=device, index=index) | Hear(device=device, index=index):
                if (device, index) in started:
                    trace.arrows.append(Arrow("join", started[device, index], span))
    return trace


def _described(program: Program, step: Start | Dynamic) -> dict[str, Any]:
    node, partition = step.node, program.plan[step.node.name]
    known = {"node": node.name, "op_type": node.op_type, "axis": partition.axis, "bounds": list(partition.bounds), "cut": str(partition),
             "predicted_us": partition.predicted_us, "estimated": partition.estimated}
    if isinstance(step, Start):
        op = op_for(node)
        known |= {"device": step.device, "region": str(step.region)}
        if not is_fallback(op):
            work = op.work(node, step.region)
            known |= {"flops": work.flops, "bytes_read": work.bytes_read, "bytes_written": work.bytes_written}
    return known
