"""A run between two looks at the clock for every step; what `PreparedRun.run` does, and what it took.

The host's steps are timed on the host. A piece of an asynchronous device is timed by the device where its timer can be believed:
its clock is compared with the host's before and after the run, and every piece must lie between its enqueueing and the moment the host
saw it done. Otherwise the piece lasts from its enqueueing, or the end of the piece before it, until the host saw it done. Each span
says which, in `clock`: `device` or `wall`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError
from . import clocks
from .executor import Unanswered
from .spans import Told, tell
from .tape import Tape
from .trace import Trace

if TYPE_CHECKING:
    from .executor import PreparedRun

_now = time.perf_counter_ns


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


def run_traced(prepared: PreparedRun, feeds: Mapping[str, Any], trace: Trace, by_events: bool = False) -> dict[str, Any]:
    """`PreparedRun.run` of a run that was prepared with a trace; its spans are in `trace` afterwards, however it ended.

    by_events: waits by the driver's events also where other runs keep in step by counters.
    """
    in_step = prepared.in_step is not None and prepared.has_run and not by_events
    try:
        return _run(prepared, feeds, trace, in_step)
    except Unanswered:
        prepared.stop()
        return _run(prepared, feeds, trace, in_step=False)


def _run(prepared: PreparedRun, feeds: Mapping[str, Any], trace: Trace, in_step: bool) -> dict[str, Any]:
    tape = prepared.tapes.get(in_step)
    if tape is None:
        tape = prepared.tapes[in_step] = Tape(prepared, in_step)
    before = {name: clocks.read(timer) for name, timer in prepared.timers.items() if timer.own_clock}
    watched = () if in_step else sorted(name for name in prepared.asynchronous & prepared.queues.keys() if before.get(name) is None)
    tape.rewind()
    queues = tuple(prepared.queues.values())
    failure: BaseException | None = None
    copies: list[tuple[str, int, int]] = []
    began = _now()
    try:
        with _Timed("copy inputs", copies):
            prepared._feed(feeds)
        if not in_step:
            prepared.uncounted()
        for queue in queues:
            queue.begin_run()
        try:
            tape.play(watched)
        except Unanswered:
            raise
        except BaseException:
            prepared.stop()
            raise
        finally:
            for queue in queues:
                queue.end_run()
        prepared.has_run = True
        with _Timed("copy outputs", copies):
            return prepared._results()
    except BaseException as error:
        failure = error
        raise
    finally:
        ended = _now()
        # A device that failed is not asked for the time. What went wrong before is more worth saying than what goes wrong here.
        with suppress(Exception) if failure is not None else nullcontext():
            asked = not isinstance(failure, (DeviceError, Unanswered))
            readings = {n: (r, clocks.read(prepared.timers[n]) if r is not None and asked else None) for n, r in before.items()}
            tell(prepared, trace, tape.begun, Told(began, ended, tuple(copies), readings, failure))


class _Timed:
    """The host's clock around a block."""

    def __init__(self, name: str, into: list[tuple[str, int, int]]):
        self.name, self.into = name, into

    def __enter__(self) -> None:
        self.begun = _now()

    def __exit__(self, *_: object) -> None:
        self.into.append((self.name, self.begun, _now()))
