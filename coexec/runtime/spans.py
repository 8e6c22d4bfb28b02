"""How the steps of a traced run become the trace's spans and arrows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..devices.base import DONE
from ..devices.timed import Stretch
from ..graph.ir import Node
from ..ops import op_for
from ..ops.fallback import is_fallback
from . import clocks
from .schedule import HOST, Alias, Dynamic, Flush, Move, Start, Wait
from .tape import Work, settle
from .trace import Arrow, Span, Trace
from .weave import Hear, Stepping, Sync

if TYPE_CHECKING:
    from .executor import PreparedRun


class Told(NamedTuple):
    """What is known of a run beside its steps: when it was (time.perf_counter_ns), the copies of inputs and outputs (name, from, to), the clocks
    of the devices before and after it, and what ended it early.
    """

    began_ns: int
    ended_ns: int
    copies: Sequence[tuple[str, int, int]]
    readings: Mapping[str, tuple[clocks.Reading | None, clocks.Reading | None]]
    failure: BaseException | None


class Ran(NamedTuple):
    """When a piece or copy ran on an asynchronous device, on the host's clock, and by whose clock (`device` or `wall`) that is known.

    held_ns: how long its device had it in hand before that, waiting for the host.
    """

    start_ns: int
    stop_ns: int
    clock: str
    held_ns: int = 0


def tell(prepared: PreparedRun, trace: Trace, works: Sequence[Work], told: Told) -> None:
    """Adds the run's spans to the trace."""
    plan, number = prepared.plan, trace.runs
    trace.runs += 1
    settle(works, told.ended_ns)
    took_ns = told.ended_ns - told.began_ns
    trace.add(f"run {number}", "run", told.began_ns, told.ended_ns, "run", run=number, model_digest=plan.model_digest, strategy=plan.strategy,
              predicted_us=None if plan.predicted_ms is None else plan.predicted_ms * 1e3, measured_us=took_ns / 1e3,
              error=None if told.failure is None else type(told.failure).__name__)
    for name, start, stop in told.copies:
        trace.add(name, "host", start, stop, "copy", run=number)
    read = {id(work): work.read() if work.read is not None else [] for work in works}  # of each: a driver keeps its times until they are read
    ran: dict[int, Ran] = {}
    for device in sorted(prepared.asynchronous):
        ran |= _on_device(trace, device, works, read, told.readings.get(device))
    writer = _Writer(prepared, trace, number, told.ended_ns, works, ran, read)
    for work in works:
        writer.add(work)


def _on_device(trace: Trace, device: str, works: Sequence[Work], read: Mapping[int, list[Stretch]],
               readings: tuple[clocks.Reading | None, clocks.Reading | None] | None) -> dict[int, Ran]:
    """By the id of each work of an asynchronous device: when it ran."""
    theirs = (w for w in works if w.start is not None or isinstance(w.step, Move))
    works = [w for w in theirs if w.done_ns and (w.start or w.step).device == device]  # type: ignore[union-attr]
    clock = trace.facts.setdefault("clocks", {})
    mapping, why = clocks.mapping_of(*(readings or (None, None)))
    mapped: list[tuple[Work, int, int]] = []
    if mapping is not None:
        for work in works:
            found = read[id(work)]
            if not found:
                if work.start is not None and work.event is not DONE:  # else an empty piece
                    why = "the driver gave no times of a piece"
                continue
            start, stop = found[0].start_ns, found[-1].stop_ns
            tells = isinstance(work.step, Stepping) and work.step.tells  # then the driver is still at it when the host hears of the end
            if not mapping.holds(start, start if tells else stop, work.begun.ns, work.done_ns):
                why = clocks.OUTSIDE
            mapped.append((work, mapping.host_ns(start), mapping.host_ns(stop)))
    if why:
        clock[device] = {"clock": "wall", "why": why}
        mapped = [(w, w.begun.ns, w.done_ns) for w in works]
    else:
        clock[device] = {"clock": "device", "offset_us": mapping.offset_ns / 1e3, "uncertainty_us": mapping.uncertainty_ns / 1e3}
    result, free = {}, 0
    for work, start, stop in mapped:  # in order, one at a time, inside what the host saw, and not before the host let it through
        start = min(max(start, work.begun.ns, free), max(work.done_ns, free))
        let = min(work.gate.begun.ns, work.done_ns) if work.gate is not None else 0
        begun, free = max(start, let), max(start, let, min(stop, work.done_ns))
        result[id(work)] = Ran(begun, free, "wall" if why else "device", begun - start)
    return result


class _Writer:
    """Adds the spans of one step after the other."""

    def __init__(self, prepared: PreparedRun, trace: Trace, number: int, ended_ns: int, works: Sequence[Work], ran: Mapping[int, Ran],
                 read: Mapping[int, list[Stretch]]):
        self._prepared, self._trace, self._number, self._ended_ns = prepared, trace, number, ended_ns
        self._ran, self._read = ran, read
        self._longest = self._slower_sides(works)
        self._pieces: dict[tuple[str, int], Span] = {}

    def add(self, work: Work) -> None:
        match step := work.step:
            case Start(index=index) if index < 0:
                self._add_cpu(work, step.node)
            case Start() | Stepping():
                self._add_piece(work, work.start)
            case Wait(device=device, index=index) | Hear(device=device, index=index):
                piece = self._pieces.get((device, index))
                span = self._on_host(work, f"wait for {piece.name if piece else device}", "wait", device=device, node=piece.name if piece else None)
                if piece is not None:
                    self._trace.arrows.append(Arrow("join", piece, span))
            case Flush(device=device):
                self._on_host(work, "flush", "enqueue", device=device)
            case Sync(device=device):
                self._on_host(work, "enqueue a gate", "enqueue", device=device)
            case Move():
                self._add_move(work, step)
            case Alias(node=node):
                self._on_host(work, f"copy {node.name}", "copy", node=node.name)
            case Dynamic(node=node):
                self._span(node.name, HOST, work, "piece", node=node.name, op_type=node.op_type, implementation="reference")

    def _span(self, name: str, track: str, work: Work, category: str, **args: Any) -> Span:
        """A span as long as the host was at it; the step that failed lasts to the end of the run."""
        return self._trace.add(name, track, work.begun.ns, work.ended.ns or self._ended_ns, category, run=self._number, **args)

    def _on_host(self, work: Work, name: str, category: str, **args: Any) -> Span:
        return self._span(name, "host", work, category, **args)

    def _add_piece(self, work: Work, start: Start) -> None:
        enqueue = self._on_host(work, f"enqueue {start.node.name}", "enqueue", node=start.node.name, device=start.device)
        ran = self._ran.get(id(work))
        if ran is None:
            return
        args = _rate(self._described(start), ran.stop_ns - ran.start_ns)
        piece = self._trace.add(start.node.name, start.device, ran.start_ns, ran.stop_ns, "piece", **args, clock=ran.clock,
                                held_us=ran.held_ns / 1e3 if work.gate is not None else None)
        self._pieces[start.device, start.index] = piece
        self._trace.arrows.append(Arrow("enqueue", enqueue, piece))

    def _add_move(self, work: Work, move: Move) -> None:
        args = {"value": move.value.name, "region": str(move.region), "bytes": move.region.size * move.value.dtype.itemsize, "device": move.device,
                "direction": "to host" if move.to_host else f"to {move.device}"}
        way = ("download" if move.to_host else "upload") if self._prepared.buffer.copies else "map" if move.to_host else "unmap"
        name = f"{way} {move.value.name}"
        span = self._on_host(work, name, "copy", **args)
        ran = self._ran.get(id(work))
        if ran is not None and work.read is not None:
            copy = self._trace.add(name, move.device, ran.start_ns, ran.stop_ns, "copy", run=self._number, clock=ran.clock, **args)
            self._trace.arrows.append(Arrow("enqueue", span, copy))

    def _add_cpu(self, work: Work, node: Node) -> None:
        """The calling thread's piece, and what the other threads of the team did for it."""
        args = self._described(work.start)
        shares = sorted(self._read[id(work)], key=lambda s: s.worker)
        if shares:
            args["shares_us"] = [(s.stop_ns - s.start_ns) / 1e3 for s in shares]
        stop = work.ended.ns or self._ended_ns
        self._trace.add(node.name, HOST, work.begun.ns, stop, "piece", **_rate(args, stop - work.begun.ns))
        for share in shares:
            if share.worker:
                self._trace.add(node.name, f"cpu: team thread {share.worker}", share.start_ns, share.stop_ns, "share", node=node.name,
                                op_type=node.op_type, run=self._number)

    def _slower_sides(self, works: Sequence[Work]) -> dict[str, float]:
        """What each node took as plans count it: the time of its slower side, in microseconds."""
        sides: dict[str, dict[str, float]] = {}
        for work in works:
            if work.start is not None:
                ran = self._ran.get(id(work))
                took = ran.stop_ns - ran.start_ns if ran is not None else (work.ended.ns or self._ended_ns) - work.begun.ns
                mine = sides.setdefault(work.start.node.name, {})
                mine[work.start.device] = mine.get(work.start.device, 0.0) + took / 1e3
        return {name: max(times.values()) for name, times in sides.items()}

    def _described(self, start: Start) -> dict[str, Any]:
        """What there is to say of a piece of this run; most of it is known before any."""
        known = self._prepared.described.get(start)
        if known is None:
            node, op, partition = start.node, op_for(start.node), self._prepared.plan[start.node.name]
            work = op.work(node, start.region)
            known = self._prepared.described[start] = {
                "node": node.name, "op_type": node.op_type, "device": start.device, "region": str(start.region), "cut": str(partition),
                "axis": partition.axis, "bounds": list(partition.bounds), "implementation": self._prepared.kernels[start].implementation or None,
                "flops": None if is_fallback(op) else work.flops, "bytes_read": work.bytes_read, "bytes_written": work.bytes_written,
                "predicted_us": partition.predicted_us, "estimated": None if partition.predicted_us is None else partition.estimated,
                "note": partition.note or None,
            }
        return {**known, "run": self._number, "measured_us": self._longest.get(start.node.name)}


def _rate(args: dict[str, Any], nanoseconds: int) -> dict[str, Any]:
    """The arguments, and the GFLOP/s that they come to."""
    flops = args.get("flops")
    return args if not flops or nanoseconds <= 0 else {**args, "gflops": round(flops / nanoseconds, 3)}
