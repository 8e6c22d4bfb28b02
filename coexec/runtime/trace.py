"""The trace: spans on tracks, arrows between them, and the file that Perfetto (ui.perfetto.dev) and chrome://tracing open.

The format is the Trace Event Format's JSON object (Google, "Trace Event Format", 2016): complete events `X` with `ts` and `dur` in
microseconds, flow events `s` and `f` for arrows, metadata events `M` that name tracks. `ts` and `dur` are on every event, 0 where they
say nothing. Spans of one track never overlap.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, files
from ..errors import UsageError

#: Track -> what a viewer calls it, from top to bottom; team threads and further devices follow.
TRACKS = {
    "session": "session: creation",
    "compile": "session: kernels",
    "run": "runs",
    "cpu": "CPU: calling thread",
    "host": "CPU: waits, enqueues, copies",
    "gpu": "GPU: queue",
}
#: Runs after this many spans are not traced: viewers become slow, and the file grows by some 400 bytes a span.
MAX_SPANS = 500_000
_PROCESS = 1


@dataclass(frozen=True)
class Span:
    """A slice of the trace: what `track` did from `start_us` on, for `duration_us`, in microseconds since the trace began.

    category: `piece` (a node's piece on a processor), `share` (a team thread's part of one), `enqueue`, `wait`, `copy`, `run`, `creation`.
    """

    name: str
    track: str
    start_us: float
    duration_us: float
    category: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stop_us(self) -> float:
        return self.start_us + self.duration_us


@dataclass(frozen=True)
class Arrow:
    """Something that `source` caused `target` to wait for, or to begin."""

    name: str
    source: Span
    target: Span


class Trace:
    """Collects spans from the moment it is made. Times go in as time.perf_counter_ns.

    `facts` is what a reader should know of model, plan and devices. One thread at a time adds.
    """

    def __init__(self) -> None:
        self.began_ns = time.perf_counter_ns()
        self.spans: list[Span] = []
        self.arrows: list[Arrow] = []
        self.runs = 0
        self.facts: dict[str, Any] = {"coexec": __version__, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "untraced_runs": 0}

    def add(self, name: str, track: str, start_ns: int, stop_ns: int, category: str, **args: Any) -> Span:
        """A span, and what to say of it; an argument that is None or no finite number is left out."""
        known = {k: v for k, v in args.items() if v is not None and not (isinstance(v, float) and not math.isfinite(v))}
        span = Span(name, track, (start_ns - self.began_ns) / 1e3, (stop_ns - start_ns) / 1e3, category, known)
        self.spans.append(span)
        return span

    @contextmanager
    def phase(self, name: str, track: str = "session", **args: Any) -> Iterator[dict[str, Any]]:
        """A span around a block, also where it raises; the block may add to the arguments."""
        started = time.perf_counter_ns()
        try:
            yield args
        finally:
            self.add(name, track, started, time.perf_counter_ns(), "creation", **args)

    @property
    def full(self) -> bool:
        return len(self.spans) >= MAX_SPANS

    def of(self, *categories: str) -> list[Span]:
        """The spans of those categories, in order."""
        return [s for s in self.spans if s.category in categories]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: `traceEvents`, and `otherData` with the facts."""
        return {"traceEvents": list(_events(self)), "displayTimeUnit": "ms", "otherData": self.facts}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the trace, whole or not at all. Raises OSError."""
        files.write(path, json.dumps(self.to_dict(), allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def phase(trace: Trace | None, name: str, track: str = "session", **args: Any) -> AbstractContextManager[dict[str, Any]]:
    """`Trace.phase`, or nothing where nothing is traced."""
    return nullcontext(args) if trace is None else trace.phase(name, track, **args)


def _events(trace: Trace) -> Iterator[dict[str, Any]]:
    known = list(TRACKS)
    used = sorted({s.track for s in trace.spans}, key=lambda t: (known.index(t) if t in TRACKS else _after(t), t))
    threads = {track: number for number, track in enumerate(used, 1)}
    model = trace.facts.get("model")
    yield _named("process_name", 0, name=f"coexec {model}" if model else "coexec")
    for track, thread in threads.items():
        yield _named("thread_name", thread, name=TRACKS.get(track, track))
        yield _named("thread_sort_index", thread, sort_index=thread)
    for span in sorted(trace.spans, key=lambda s: s.start_us):
        start, stop = round(span.start_us, 3), round(span.stop_us, 3)
        length = round(stop - start, 3)
        if start + length > stop:  # the sum of two rounded numbers may pass the third
            length = max(0.0, round(length - 1e-3, 3))
        yield {"ph": "X", "name": span.name, "cat": span.category, "ts": start, "dur": length, "pid": _PROCESS,
               "tid": threads[span.track], "args": dict(span.args)}
    for number, arrow in enumerate(trace.arrows, 1):
        tip = _inside(arrow.target, max(arrow.target.start_us, arrow.source.stop_us))
        tail = _inside(arrow.source, min(arrow.source.stop_us, tip))
        common = {"name": arrow.name, "cat": "flow", "id": number, "dur": 0, "pid": _PROCESS}
        yield {"ph": "s", "ts": tail, "tid": threads[arrow.source.track], **common}
        yield {"ph": "f", "bp": "e", "ts": max(tip, tail), "tid": threads[arrow.target.track], **common}


def _after(track: str) -> float:
    """Where a track without a place of its own goes: threads of the CPU's team below the calling thread."""
    return list(TRACKS).index("cpu") + 0.5 if track.startswith("cpu") else len(TRACKS)


def _named(what: str, thread: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "ts": 0, "dur": 0, "pid": _PROCESS, "tid": thread, "args": args}


def _inside(span: Span, at_us: float) -> float:
    """That moment, moved into the span: an arrow is tied to the slice around its end, whose own end is outside."""
    return round(max(span.start_us, min(at_us, span.stop_us - min(0.002, span.duration_us / 2))), 3)


def check_writable(path: str | os.PathLike[str], where: str = "") -> Path:
    """That path, if a trace can be written there. Raises UsageError: the time to know is before the run."""
    target = Path(path)
    expected = "the name of a file that can be written"
    try:
        kind = target.stat().st_mode
        if not stat.S_ISREG(kind):
            raise UsageError("cannot write a trace there", where=where, expected=expected,
                             found=f"'{path}', {'a folder' if stat.S_ISDIR(kind) else 'no ordinary file'}")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError("cannot write a trace there", where=where, found=f"'{path}': {error.strerror}", expected=expected) from None
    if not target.parent.is_dir():
        raise UsageError("cannot write a trace there", where=where, found=f"no folder '{target.parent}'", expected="a folder that exists",
                         hint=f"mkdir -p {target.parent}")
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}", suffix=".part", dir=target.parent)
    except OSError as error:
        raise UsageError("cannot write a trace there", where=where, found=f"'{path}': {error.strerror}", expected=expected) from None
    try:
        os.close(handle)
    finally:
        os.unlink(temporary)
    return target


#: How many pieces `summary` names.
SLOWEST = 10


def summary(trace: Trace) -> dict[str, Any]:
    """What the runs spent their time on: means over all complete runs, without the first (a warm-up) where there are several.

    {"runs", "run_ms", "waiting_ms", "busy": {track: share of the run}, "slowest": [{"name", "op_type", "device", "region",
    "implementation", "us", "predicted_us"}]}; predictions are of whole nodes, as plans have them. Empty without a complete run.
    """
    runs = [s for s in trace.of("run") if "error" not in s.args]
    runs = runs[1:] or runs
    if not runs:
        return {}
    numbers = {s.args["run"] for s in runs}
    total = sum(s.duration_us for s in runs)
    inside = [s for s in trace.of("piece", "wait", "copy") if s.args.get("run") in numbers]
    busy: dict[str, float] = {}
    pieces: dict[tuple[str, str, str], list[Span]] = {}
    for span in inside:
        if span.track != "host":
            busy[span.track] = busy.get(span.track, 0.0) + span.duration_us
        if span.category == "piece":
            pieces.setdefault((span.args["node"], span.track, span.args.get("region", "")), []).append(span)
    slowest = sorted(pieces.items(), key=lambda item: -sum(s.duration_us for s in item[1]))[:SLOWEST]
    return {
        "runs": len(runs),
        "run_ms": total / len(runs) / 1e3,
        "waiting_ms": sum(s.duration_us for s in inside if s.category == "wait") / len(runs) / 1e3,
        "busy": {track: us / total if total else 0.0 for track, us in sorted(busy.items())},
        "slowest": [
            {"name": name, "op_type": spans[0].args["op_type"], "device": device, "region": region,
             "implementation": spans[0].args.get("implementation", ""), "us": sum(s.duration_us for s in spans) / len(runs),
             "predicted_us": spans[0].args.get("predicted_us")}
            for (name, device, region), spans in slowest
        ],
    }
