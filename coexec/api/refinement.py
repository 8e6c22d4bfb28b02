"""Plans checked by measurement: runs of a plan correct the cost model, it plans anew, and whatever is fastest on this machine is kept.

Every candidate is measured in turns with the best so far, the CPU alone and the GPU alone among them, so that a plan that does not pay is
never kept. The best plan is remembered in the cache, by model, shapes, profile, devices and kernels; later sessions start with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, files, settings
from ..cost.compose import CostModel
from ..cost.corrections import Between, Corrections
from ..devices.base import Device
from ..devices.registry import company, session_threads
from ..errors import CoexecError, DeviceHang, UsageError
from ..graph.ir import Graph
from ..partition.plan import Plan
from ..partition.strategies.base import parse_strategy
from ..partition.strategies.coexec import Coexec
from ..partition.wishes import NONE, Wishes
from ..profiles import DeviceProfile
from ..report.timing import interleave
from ..runtime.executor import PreparedRun
from ..runtime.recovery import retire, timeout_s, watched
from ..runtime.schedule import HOST
from ..runtime.trace import Trace
from ..runtime.traced import run_traced
from ..runtime.watchdog import TimedOut, Watch
from .observation import between, by_counters, quiet, ratios_seen
from .planning import plan_prepared

log = logging.getLogger("coexec")

FORMAT = 1
#: Plans made from what the one before showed, and traced runs of each.
ROUNDS, TRACED = 3, 10
#: Two candidates are compared by this many turns, or as many as fit into the time (seconds), but at least so many.
TURNS, COMPARE_S, LEAST_TURNS = 40, 2.5, 7
#: Comparisons in a disturbed moment are made again, for so many seconds in all, with so long a pause before each.
PATIENT_S, PAUSE_S = 10.0, 0.5
#: So much later one device must win again before the other is left alone: what takes a core away mostly lasts less.
LATER_S = 2.0
#: A challenger must be faster by this share: less is noise.
MARGIN = 0.01


@dataclass(frozen=True)
class Candidate:
    """A plan and the milliseconds of its runs, the lower quartile; None for the first, which was compared only as the best so far.

    doubtful: it was compared while an emulated GPU and the CPU had less than two cores between them.
    """

    name: str
    plan: Plan
    latency_ms: float | None
    doubtful: bool = False


def refine(graph: Graph, feeds: Mapping[str, Any], devices: Mapping[str, Device], profile: DeviceProfile, *, strategy: str = "coexec",
           threads: int = 0, wishes: Wishes = NONE, progress: Callable[[int, int, str], None] | None = None
           ) -> tuple[Plan, list[Candidate]]:
    """The fastest plan that was found, and every candidate in the order it was tried.

    `feeds` are inputs to measure with. `threads` 0: as many as a session would take. Raises what preparing the first plan raises, DeviceHang
    where a device does not answer, and UsageError where anything but the latency is to be best: nothing here measures that.
    """
    if wishes.objective != "latency":
        raise UsageError("only latency is checked by measurement", found=f"objective {wishes.objective}, which is modelled", expected="latency",
                         hint="leave out --verify or --objective")
    profile = profile.with_threads(threads or settings.get("threads"))
    asked = {"profile": profile, "wishes": wishes, "devices": devices, "threads": threads}
    steps = ROUNDS + 3
    tell = progress or (lambda done, total, what: None)

    def prepare(plan: Plan, trace: Trace | None = None) -> PreparedRun:
        return PreparedRun(graph, plan, devices, session_threads(dict(devices), threads, "gpu" in plan.devices), trace=trace)

    tell(0, steps, strategy)
    eager = _eager(strategy)
    latest = plan_prepared(graph, strategy=eager, **asked)
    best, tried = Candidate(strategy, latest, None), [Candidate(strategy, latest, None)]
    running, corrections, costs, runs = prepare(latest), Corrections(), CostModel(profile), _Runs(devices)

    def how(plan: Plan) -> tuple:
        return plan.partitions, plan.counters, plan.band_bytes, plan.early_reuse

    def challenge(name: str, plan: Plan) -> None:
        nonlocal best, running
        if how(plan) == how(best.plan):
            return
        challenger = prepare(plan)
        try:
            if plan.counters and challenger.handshake is None:  # the device has none, and runs as before
                return
            if plan.band_bytes and len(challenger.steps) == len(running.steps):  # nothing lies between its pieces that is too large
                return
            defender_ms, challenger_ms, sound = _compare(runs, running, challenger, feeds)
            if challenger_ms < (1 - MARGIN) * defender_ms and plan.devices < best.plan.devices:
                time.sleep(LATER_S)
                defender_ms, challenger_ms, again = _compare(runs, running, challenger, feeds)
                sound = sound and again
            tried.append(Candidate(name, plan, challenger_ms, doubtful=not sound))
            if challenger_ms < (1 - MARGIN) * defender_ms:
                running, challenger = challenger, running
                best = tried[-1]
            else:
                best = replace(best, latency_ms=defender_ms)
        finally:
            runs.retire(challenger)

    counted = None  # between pieces, by counters; traces show it by events

    try:
        for turn in range(ROUNDS):
            if "gpu" not in latest.devices:
                break
            corrections, in_step = _observe(runs, graph, latest, prepare, feeds, costs, corrections, is_first=turn == 0)
            if turn == 0:
                counted = in_step
            shown = replace(corrections, between=counted) if latest.counters and counted is not None else corrections
            again = plan_prepared(graph, strategy=eager, corrections=shown, **asked)
            if again.partitions == latest.partitions:
                break
            tell(turn + 1, steps, f"{strategy}, corrected")
            latest = again
            challenge(f"{strategy}, corrected {turn + 1}x", again)
        for turn, alone in enumerate(("cpu", "gpu") if "gpu" in devices else ()):
            tell(ROUNDS + turn, steps, alone)
            with suppress(UsageError):  # a device alone that breaks a wish is no candidate
                challenge(alone, plan_prepared(graph, strategy=alone, **asked))
        if {"cpu", "gpu"} <= latest.devices:
            tell(steps - 1, steps, "in step by counters")
            if counted is not None and not latest.counters:
                again = plan_prepared(graph, strategy=eager, corrections=replace(corrections, between=counted), **asked)
                challenge(f"{strategy}, corrected, in step by counters", replace(again, counters="gpu" in again.devices))
            if "gpu" in best.plan.devices and (best.plan.counters or counted is not None):
                other = not best.plan.counters
                challenge(f"{best.name}, in step by {'counters' if other else 'events'}", replace(best.plan, counters=other))
        cache = int(profile.cpu.facts.get("l2_bytes", 0))
        if cache and HOST in best.plan.devices:
            tell(steps - 1, steps, "band by band")
            challenge(f"{best.name}, band by band", replace(best.plan, band_bytes=cache))
        if best.latency_ms is None:
            best = replace(best, latency_ms=_time(runs, running, feeds))
    finally:
        runs.retire(running)
        runs.close()
    tell(steps, steps, "")
    return replace(best.plan, strategy=strategy, predicted_ms=best.plan.predicted_ms, measured_ms=best.latency_ms), tried


def _eager(strategy: str) -> str:
    """The strategy that uses both units even where little is to be gained: measurement will say."""
    partitioner = parse_strategy(strategy)
    return replace(partitioner, least_gain=0.0).spec if isinstance(partitioner, Coexec) else strategy


class _Runs:
    """Runs of candidates, watched as a session's are: what that costs is measured with them, and a device that hangs is found out."""

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self._watch, self._limit_s = Watch(), settings.get("timeout")
        self._company, self._patience_s = company(devices), PATIENT_S

    def have_cores(self) -> bool:
        """Measures whether the CPU and an emulated GPU have a core each at the moment; True also where nobody can tell."""
        return self._company is None or self._company.is_there()

    def wait(self, lost_s: float) -> bool:
        """After a comparison that was in vain and took so long: a pause, and whether there is patience for another."""
        if self._patience_s <= 0:
            return False
        time.sleep(PAUSE_S)
        self._patience_s -= lost_s + PAUSE_S
        return True

    def run(self, prepared: PreparedRun, feeds: Mapping[str, Any]) -> None:
        """One run, as a session's. Raises DeviceHang."""
        if not self._limit_s or not prepared.is_far:
            prepared.run(feeds)
        else:
            with self._in_time(prepared):
                watched(self._watch, prepared, feeds, self._limit_s)

    def do(self, prepared: PreparedRun, work: Callable[[], Any]) -> None:
        """Other work of it. Raises DeviceHang."""
        if not self._limit_s or not prepared.is_far:
            work()
        else:
            with self._in_time(prepared):
                self._watch.call(work, timeout_s(prepared, self._limit_s), prepared.places)

    @contextmanager
    def _in_time(self, prepared: PreparedRun) -> Iterator[None]:
        limit_s = timeout_s(prepared, self._limit_s)
        try:
            yield
        except TimedOut:
            raise DeviceHang("the device did not answer in time", found=f"no answer after {limit_s:g} s",
                             hint="COEXEC_TIMEOUT sets how long to wait") from None

    def retire(self, prepared: PreparedRun) -> None:
        """Closes it, or keeps it for ever where what it began may still be at work."""
        retire(prepared, hung=self._watch.lost)

    def close(self) -> None:
        self._watch.close()
        if self._company is not None:
            self._company.close()


def _observe(runs: _Runs, graph: Graph, plan: Plan, prepare: Callable[..., PreparedRun], feeds: Mapping[str, Any], costs: CostModel,
             known: Corrections, is_first: bool) -> tuple[Corrections, Between | None]:
    """What traced runs of the plan add to the corrections, in which what is lost between pieces is by events; and, of the first plan, by counters."""
    trace, counted = Trace(), None
    prepared = prepare(replace(plan, counters=True) if is_first else plan, trace)
    try:
        runs.run(prepared, feeds)
        for _ in range(TRACED):
            runs.do(prepared, lambda: run_traced(prepared, feeds, trace, by_events=True))
        if is_first and prepared.in_step is not None:
            in_step = Trace()
            for _ in range(TRACED):
                runs.do(prepared, lambda: run_traced(prepared, feeds, in_step))
            counted = by_counters(in_step, between(trace))
    finally:
        runs.retire(prepared)
    return known.seen(ratios_seen(graph, prepared.plan, trace, costs), between(trace)), counted


def _compare(runs: _Runs, first: PreparedRun, second: PreparedRun, feeds: Mapping[str, Any]) -> tuple[float, float, bool]:
    """Milliseconds of both, run in turns: lower quartiles; and whether both cores were there meanwhile."""
    once = _time(runs, first, feeds, 1) + _time(runs, second, feeds, 1)
    turns = max(LEAST_TURNS, min(TURNS, int(COMPARE_S * 1e3 / max(once, 1e-3))))
    while True:
        begun, sound = time.perf_counter(), runs.have_cores()
        times = interleave({"first": lambda: runs.run(first, feeds), "second": lambda: runs.run(second, feeds)}, 2, turns)
        sound = sound and runs.have_cores()
        if sound or not runs.wait(time.perf_counter() - begun):
            return quiet(times["first"]), quiet(times["second"]), sound


def _time(runs: _Runs, run: PreparedRun, feeds: Mapping[str, Any], rounds: int = LEAST_TURNS) -> float:
    return quiet(interleave({"it": lambda: runs.run(run, feeds)}, 1, rounds)["it"])


# What is remembered


def remember(plan: Plan, graph: Graph, profile: DeviceProfile, devices: Mapping[str, Device], threads: int) -> Path | None:
    """Keeps a refined plan for later sessions with the same wishes; where, or None where the cache cannot be written."""
    path = _path(graph, profile, devices, threads, plan.wishes)
    content = json.dumps({"format": FORMAT, "plan": plan.to_dict()}, indent=1)
    try:
        files.keep(path, content)
    except OSError as error:
        log.warning("[%s] the refined plan cannot be kept: %s; set COEXEC_CACHE_DIR to a writable folder", path.parent, error.strerror or error)
        return None
    return path


def remembered(graph: Graph, profile: DeviceProfile, devices: Mapping[str, Device], threads: int, wishes: Wishes = NONE) -> Plan | None:
    """The refined plan for that graph on these devices under these wishes, if there is a sound one."""
    path = _path(graph, profile, devices, threads, wishes)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            return None
        found = Plan.from_dict(data.get("plan"), where=str(path))
        found.check(graph)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, CoexecError) as error:
        log.info("the refined plan in %s is ignored: %s", path, error)
        return None
    return found


def _path(graph: Graph, profile: DeviceProfile, devices: Mapping[str, Device], threads: int, wishes: Wishes) -> Path:
    told = [f"format {FORMAT}", __version__, graph.digest, profile.name, repr(profile.machine), f"threads {threads or settings.get('threads')}",
            np.__version__,
            *(str(settings.get(name)) for name in ("sharing", "handshake", "wait", "storage")), json.dumps(wishes.to_dict(), sort_keys=True)]
    told += [f"{name}|{d.facts.name}|{d.facts.driver}|{d.facts.compute_units}" for name, d in sorted(devices.items())]
    digest = hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()[:32]
    return settings.get("cache_dir") / "plans" / f"{digest}.json"
