"""A run between two looks at the clock for every step; what `PreparedRun.run` does, and what it took.

The host's steps are timed on the host. A piece of an asynchronous device is timed by the device where its timer can be believed:
its clock is compared with the host's before and after the run, and every piece must lie between its enqueueing and the moment the host
saw it done. Otherwise the piece lasts from its enqueueing, or the end of the piece before it, until the host saw it done. Each span
says which, in `clock`: `device` or `wall`.
"""

from __future__ import annotations

import platform
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..devices.base import DONE, Event
from ..devices.timed import Read, Stretch
from ..errors import DeviceError
from ..graph.ir import Node
from ..ops import op_for
from ..ops.fallback import is_fallback
from . import clocks
from .schedule import HOST, Alias, Dynamic, Flush, Move, Start, Step, Wait
from .trace import Arrow, Span, Trace

if TYPE_CHECKING:
    from .executor import PreparedRun

_now = time.perf_counter_ns

#: How often a watch looks whether a piece is done, where the device has no clock to ask.
WATCH_S = 50e-6


@dataclass(eq=False)
class _Work:
    """One step as it went: the host's clock around it, and for asynchronous work its event and when the host saw it done."""

    step: Step
    begun_ns: int
    ended_ns: int = 0
    event: Event | None = None
    read: Read | None = None
    done_ns: int = 0


class _Watch:
    """Looks at the events of a device whose clock is of no use, so that their ends are known before somebody waits for them."""

    def __init__(self) -> None:
        self._waiting: deque[_Work] = deque()
        self._over = False
        self._thread = threading.Thread(target=self._look, name="coexec-watch", daemon=True)
        self._thread.start()

    def follow(self, work: _Work) -> None:
        self._waiting.append(work)

    def close(self) -> None:
        self._over = True
        self._thread.join()

    def _look(self) -> None:
        while not self._over:
            try:
                while self._waiting and (self._waiting[0].done_ns or self._waiting[0].event.done):  # type: ignore[union-attr]
                    work = self._waiting.popleft()
                    work.done_ns = work.done_ns or _now()
            except Exception:  # a driver that cannot say: the next wait tells, and raises what there is to raise
                return
            time.sleep(WATCH_S)


def facts_of(prepared: PreparedRun) -> dict[str, Any]:
    """What a trace's reader should know of model, plan and devices."""
    plan = prepared.plan
    return {
        "model": plan.model, "model_digest": plan.model_digest, "strategy": plan.strategy, "profile": plan.profile,
        "shapes": {k: list(v) for k, v in plan.shapes.items()}, "predicted_ms": plan.predicted_ms, "threads": prepared.threads,
        "activation_bytes": prepared.memory.nbytes, "host": platform.platform(), "python": platform.python_version(),
        "devices": {
            name: {"name": d.facts.name, "kind": d.facts.kind, "driver": d.facts.driver, "compute_units": d.facts.compute_units,
                   "emulated": d.facts.emulated, "used": name in plan.devices}
            for name, d in prepared.devices.items()
        },
    }


def run_traced(prepared: PreparedRun, feeds: Mapping[str, Any], trace: Trace) -> dict[str, Any]:
    """`PreparedRun.run` of a run that was prepared with a trace; its spans are in `trace` afterwards, however it ended."""
    tape = _Tape(prepared, trace)
    before = {name: clocks.read(timer) for name, timer in prepared.timers.items() if timer.own_clock}
    tape.watches = {name: _Watch() for name in prepared.asynchronous & prepared.queues.keys() if before.get(name) is None}
    queues = tuple(prepared.queues.values())
    failure: BaseException | None = None
    began = _now()
    try:
        with tape.host("copy inputs"):
            prepared._feed(feeds)
        prepared.uncounted()
        for queue in queues:
            queue.begin_run()
        try:
            for step, action in prepared.actions:
                tape.play(step, action)
        except BaseException:
            prepared._drain()
            raise
        finally:
            for queue in queues:
                queue.end_run()
        with tape.host("copy outputs"):
            return prepared._results()
    except BaseException as error:
        failure = error
        raise
    finally:
        ended = _now()
        for watch in tape.watches.values():
            watch.close()
        # A device that failed is not asked for the time. What went wrong before is more worth saying than what goes wrong here.
        with suppress(Exception) if failure is not None else nullcontext():
            asked = not isinstance(failure, DeviceError)
            readings = {n: (r, clocks.read(prepared.timers[n]) if r is not None and asked else None) for n, r in before.items()}
            tape.tell(began, ended, readings, failure)


class _Tape:
    """What happened in one run, and how it becomes spans."""

    def __init__(self, prepared: PreparedRun, trace: Trace):
        self.prepared, self.trace = prepared, trace
        self.number = trace.runs
        trace.runs += 1
        self.works: list[_Work] = []
        self.copies: list[tuple[str, int, int]] = []
        self.slots = prepared._number_pieces()
        self.outstanding: dict[str, list[_Work]] = {name: [] for name in prepared.asynchronous}
        self.watches: dict[str, _Watch] = {}

    def host(self, name: str) -> _Timed:
        return _Timed(name, self.copies)

    # While it runs

    def play(self, step: Step, action: Any) -> None:
        """One step, timed."""
        prepared = self.prepared
        timer = prepared.timers.get(step.device) if isinstance(step, (Start, Move)) else None
        work = _Work(step, _now())
        if isinstance(step, Wait) and step.device in self.watches:
            self._observe(step)
        self.works.append(work)
        if timer is None:
            action()
        elif isinstance(step, Start):
            work.event, work.read = timer.start(prepared.kernels[step])
            if step.index >= 0:
                prepared.events[self.slots[step.device, step.index]] = work.event
        else:
            work.event, work.read = timer.move(prepared.views[step.value].sub(step.region), step.to_host)
            if step.to_host:
                work.event.wait()
        work.ended_ns = _now()
        match step:
            case Start(device=device, index=index) if index >= 0:
                work.event = work.event or prepared.events[self.slots[device, index]]
                self._outstanding(device, work)
            case Move(device=device, to_host=False) if work.event is not None:
                self._outstanding(device, work)
            case Move(to_host=True):
                work.done_ns = work.ended_ns
            case Wait(device=device, index=index):
                self._seen(device, index, work.ended_ns)

    def _outstanding(self, device: str, work: _Work) -> None:
        self.outstanding[device].append(work)
        if device in self.watches:
            self.watches[device].follow(work)

    def _observe(self, wait: Wait) -> None:
        """Waits for one piece after another, to see when each ends."""
        for work in self.outstanding[wait.device]:
            if work.step.index <= wait.index and work.event is not None:  # type: ignore[union-attr]
                work.event.wait()
                work.done_ns = work.done_ns or _now()

    def _seen(self, device: str, index: int, at_ns: int) -> None:
        """A piece that was waited for is done, and so is every earlier one of that device."""
        for work in self.outstanding[device]:
            if work.step.index <= index:  # type: ignore[union-attr]
                work.done_ns = work.done_ns or at_ns
        self.outstanding[device] = [w for w in self.outstanding[device] if w.step.index > index]  # type: ignore[union-attr]

    # Afterwards

    def tell(self, began: int, ended: int, readings: Mapping[str, tuple[clocks.Reading | None, clocks.Reading | None]],
             failure: BaseException | None) -> None:
        """Adds the run's spans to the trace."""
        trace, plan = self.trace, self.prepared.plan
        for work in self.works:
            work.ended_ns = work.ended_ns or ended  # the step that failed
        for left in self.outstanding.values():
            for work in left:
                work.done_ns = work.done_ns or ended
        trace.add(f"run {self.number}", "run", began, ended, "run", run=self.number, model_digest=plan.model_digest, strategy=plan.strategy,
                  predicted_us=None if plan.predicted_ms is None else plan.predicted_ms * 1e3, measured_us=(ended - began) / 1e3,
                  error=None if failure is None else type(failure).__name__)
        for name, start, stop in self.copies:
            trace.add(name, "host", start, stop, "copy", run=self.number)
        stretches: dict[int, tuple[int, int, str]] = {}
        for device in sorted(self.prepared.asynchronous):
            stretches |= self._on_device(device, readings.get(device))
        longest = self._longest(stretches)
        started: dict[tuple[str, int], Span] = {}
        for work in self.works:
            self._add(work, stretches.get(id(work)), longest, started)

    def _on_device(self, device: str, readings: tuple[clocks.Reading | None, clocks.Reading | None] | None) -> dict[int, tuple[int, int, str]]:
        """When each piece and copy of an asynchronous device ran, on the host's clock, and by which clock that is known."""
        works = [w for w in self.works if isinstance(w.step, (Start, Move)) and w.step.device == device and w.done_ns]
        told = self.trace.facts.setdefault("clocks", {})
        mapping = clocks.Mapping(*readings) if readings and readings[0] and readings[1] else None
        why = "the driver gives no times, or such as no clock could show" if mapping is None else ""
        if mapping is not None and not mapping.believable:
            why = "its clock drifts away from the host's"
        mapped: list[tuple[_Work, int, int]] = []
        if mapping is not None and not why:
            slack = mapping.uncertainty_ns + clocks.SLACK_NS
            for work in works:
                found = work.read() if work.read is not None else []
                if not found:
                    if isinstance(work.step, Start) and work.event is not DONE:  # else an empty piece
                        why = "the driver gave no times of a piece"
                    continue
                start, stop = mapping.host_ns(found[0].start_ns), mapping.host_ns(found[-1].stop_ns)
                if start < work.begun_ns - slack or stop > work.done_ns + slack:
                    why = "a piece would have run before it was enqueued, or after the host saw it done"
                mapped.append((work, start, stop))
        if why:
            told[device] = {"clock": "wall", "why": why}
            mapped = [(w, w.begun_ns, w.done_ns) for w in works]
        else:
            told[device] = {"clock": "device", "offset_us": mapping.offset_ns / 1e3, "uncertainty_us": mapping.uncertainty_ns / 1e3}
        result, free = {}, 0
        for work, start, stop in mapped:  # in order, one at a time, inside what the host saw
            start = min(max(start, work.begun_ns, free), max(work.done_ns, free))
            free = max(start, min(stop, work.done_ns))
            result[id(work)] = start, free, "wall" if why else "device"
        return result

    def _longest(self, stretches: Mapping[int, tuple[int, int, str]]) -> dict[str, float]:
        """What each node took as plans count it: the time of its slower side, in microseconds."""
        sides: dict[str, dict[str, float]] = {}
        for work in self.works:
            if isinstance(work.step, Start):
                start, stop, _ = stretches.get(id(work), (work.begun_ns, work.ended_ns, ""))
                mine = sides.setdefault(work.step.node.name, {})
                mine[work.step.device] = mine.get(work.step.device, 0.0) + (stop - start) / 1e3
        return {name: max(times.values()) for name, times in sides.items()}

    def _add(self, work: _Work, ran: tuple[int, int, str] | None, longest: Mapping[str, float], started: dict[tuple[str, int], Span]) -> None:
        trace, run, step = self.trace, self.number, work.step
        host = lambda name, category, **args: trace.add(name, "host", work.begun_ns, work.ended_ns, category, run=run, **args)  # noqa: E731
        match step:
            case Start(node=node, device=device, index=index):
                args = {**self._described(step), "run": run, "measured_us": longest.get(node.name)}
                if index < 0:
                    self._add_cpu(work, node, args)
                    return
                enqueue = host(f"enqueue {node.name}", "enqueue", node=node.name, device=device)
                if ran is not None:
                    start, stop, clock = ran
                    piece = trace.add(node.name, device, start, stop, "piece", clock=clock, **_rate(args, stop - start))
                    started[device, index] = piece
                    trace.arrows.append(Arrow("enqueue", enqueue, piece))
            case Wait(device=device, index=index):
                piece = started.get((device, index))
                span = host(f"wait for {piece.name if piece else device}", "wait", device=device, node=piece.name if piece else None)
                if piece is not None:
                    trace.arrows.append(Arrow("join", piece, span))
            case Flush(device=device):
                host("flush", "enqueue", device=device)
            case Move(value=value, region=region, device=device, to_host=to_host):
                args = {"value": value.name, "region": str(region), "bytes": region.size * value.dtype.itemsize, "device": device,
                        "direction": "to host" if to_host else f"to {device}"}
                way = ("download" if to_host else "upload") if self.prepared.buffer.copies else "map" if to_host else "unmap"
                name = f"{way} {value.name}"
                span = host(name, "copy", **args)
                if ran is not None and work.read is not None:
                    copy = trace.add(name, device, ran[0], ran[1], "copy", run=run, clock=ran[2], **args)
                    trace.arrows.append(Arrow("enqueue", span, copy))
            case Alias(node=node):
                host(f"copy {node.name}", "copy", node=node.name)
            case Dynamic(node=node):
                trace.add(node.name, HOST, work.begun_ns, work.ended_ns, "piece", run=run, node=node.name, op_type=node.op_type,
                          implementation="reference")

    def _add_cpu(self, work: _Work, node: Node, args: dict[str, Any]) -> None:
        """The calling thread's piece, and what the other threads of the team did for it."""
        shares: list[Stretch] = sorted(work.read() if work.read is not None else [], key=lambda s: s.worker)
        if shares:
            args["shares_us"] = [(s.stop_ns - s.start_ns) / 1e3 for s in shares]
        self.trace.add(node.name, HOST, work.begun_ns, work.ended_ns, "piece", **_rate(args, work.ended_ns - work.begun_ns))
        for share in shares:
            if share.worker:
                self.trace.add(node.name, f"cpu: team thread {share.worker}", share.start_ns, share.stop_ns, "share", node=node.name,
                               op_type=node.op_type, run=self.number)

    def _described(self, step: Start) -> dict[str, Any]:
        """What is known of a piece before it runs."""
        known = self.prepared.described.get(step)
        if known is None:
            node, op, partition = step.node, op_for(step.node), self.prepared.plan[step.node.name]
            work = op.work(node, step.region)
            known = self.prepared.described[step] = {
                "node": node.name, "op_type": node.op_type, "device": step.device, "region": str(step.region), "cut": str(partition),
                "axis": partition.axis, "bounds": list(partition.bounds), "implementation": self.prepared.kernels[step].implementation or None,
                "flops": None if is_fallback(op) else work.flops, "bytes_read": work.bytes_read, "bytes_written": work.bytes_written,
                "predicted_us": partition.predicted_us, "estimated": None if partition.predicted_us is None else partition.estimated,
                "note": partition.note or None,
            }
        return known


class _Timed:
    """The host's clock around a block."""

    def __init__(self, name: str, into: list[tuple[str, int, int]]):
        self.name, self.into = name, into

    def __enter__(self) -> None:
        self.begun = _now()

    def __exit__(self, *_: object) -> None:
        self.into.append((self.name, self.begun, _now()))


def _rate(args: dict[str, Any], nanoseconds: int) -> dict[str, Any]:
    """The arguments, and the GFLOP/s that they come to."""
    flops = args.get("flops")
    return args if not flops or nanoseconds <= 0 else {**args, "gflops": round(flops / nanoseconds, 3)}
