"""Plans that follow the machine: a session that sees its times drift away from the predicted ones plans again, and swaps the plan between runs.

Another load or a device that throttles makes one unit slower than its profile says. Where the median of the last runs leaves the expected
time by more than DRIFT, the next few runs are traced: they tell by how much each piece takes longer than predicted. With these ratios the
strategy plans again, in a thread beside the runs; a plan that is better by more than noise is prepared there, tried once, and put in the
old one's place before the next run. A unit that is left to itself, or given less, shows nothing of getting better: so every PROBE_EVERY runs
one operator is timed on it alone, and once that is quicker again the ratios are lowered and it is planned anew. What a probe cannot show, such as
a driver's thread that wakes late, is forgotten after PATIENCE runs, each time twice as many: then a unit that was given up is tried again.

Nothing here runs in a session that does not ask for it.
"""

from __future__ import annotations

import logging
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..cost.compose import ALONE, CostModel
from ..cost.corrections import Between, Corrections
from ..graph.ir import Graph, Node
from ..ops import is_native, op_for
from ..partition.plan import Plan, on_one_device
from ..profiles import DeviceProfile
from ..regions import Region
from ..runtime.executor import PreparedRun
from ..runtime.trace import Trace
from .models import random_feeds
from .observation import between, held_up, ratios_seen

log = logging.getLogger("coexec")

#: Runs whose median is compared with what is expected, after so many that warm up.
WINDOW, WARM_UP = 8, 2
#: The median may be longer, or shorter, by this factor: less is noise.
DRIFT = 1.25
#: Traced runs after that.
LOOKS = 4
#: Runs between two probes of a unit that was seen to be slow, the share of a run that one may take at the speed of the profile, and how
#: often the operator runs in it.
PROBE_EVERY, PROBE_SHARE, PROBE_TIMES = 32, 0.05, 3
#: Runs after which a unit that was given up is tried again, whatever its probe shows.
PATIENCE = 4 * PROBE_EVERY
#: A probe must be quicker than expected by this factor.
RECOVERED = 1.4
#: A plan must be better by this share, as predicted with the ratios, before it takes another's place.
GAIN = 0.03
#: Seconds for which a thread may keep Python's lock while it plans, so that the runs beside it need not wait for it at every kernel.
TURN_S = 1e-4


@dataclass(frozen=True)
class Replan:
    """A plan that took another's place. run: the first run with it. ratios: by how much each unit took longer than the profile says, in the
    middle of its pieces. nodes: how many are placed differently. before_ms, after_ms: both plans, as predicted with these ratios.
    """

    run: int
    ratios: Mapping[str, float]
    nodes: int
    before_ms: float
    after_ms: float

    def __str__(self) -> str:
        times = ", ".join(f"{unit} {ratio:.2f}x its profile's time" for unit, ratio in sorted(self.ratios.items()))
        return f"from run {self.run} on: {times}; {self.nodes} node(s) moved, {self.before_ms:.2f} ms became {self.after_ms:.2f} ms (predicted)"


@dataclass(frozen=True)
class Prepared:
    """A plan that may take over."""

    run: PreparedRun
    change: Replan
    expected_ms: float


@dataclass
class Follower:
    """Watches the runs of one prepared graph. The session asks `successor` before a run, and tells with `ran` or `looked` how it went; where
    `ran` says so, it lets it `probe`.

    planned: a plan under corrections. prepared: a plan bound to the devices; with a number of threads, else as many as it deserves.
    """

    graph: Graph
    plan: Plan
    profile: DeviceProfile
    planned: Callable[[Corrections], Plan]
    prepared: Callable[..., PreparedRun]
    cpu_threads: int
    corrections: Corrections = field(default_factory=Corrections)
    changes: list[Replan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.costs = CostModel(self.profile)
        self.expected_ms = self.plan.measured_ms or self.plan.predicted_ms
        self.runs = 0
        self.stopped = False
        self._times: deque[float] = deque(maxlen=WINDOW)
        self._skip = WARM_UP
        self._level_ms = 0.0
        self._trace: Trace | None = None
        self._looks = 0
        self._task: threading.Thread | None = None
        self._ready: Prepared | None = None
        self._probes: dict[str, Probe] = {}
        self._bias: dict[frozenset[str], float] = {}  # of plans that use those units: measured over predicted time, with the ratios
        self._patience, self._changed_at = PATIENCE, 0

    # Told by the session, under its lock

    def successor(self) -> PreparedRun | None:
        """The run that takes over now, if there is one; what is told from now on is of that."""
        ready, self._ready = self._ready, None
        if ready is None:
            return None
        self.plan, self.expected_ms = ready.run.plan, ready.expected_ms
        self.changes.append(replace(ready.change, run=self.runs + 1))
        self._changed_at = self.runs
        log.info("the plan follows the machine: %s", self.changes[-1])
        self._begin_anew(WARM_UP)
        return ready.run

    @property
    def trace(self) -> Trace | None:
        """Where the next run is to be traced; None where it is not."""
        return self._trace

    def ran(self, milliseconds: float, feeds: Mapping[str, Any]) -> bool:
        """A run took that long. Returns True where it is time for `probe`."""
        self.runs += 1
        if self._task is not None:
            if self._task.is_alive():  # it disturbs what it would judge
                return False
            self._task = None
            self._begin_anew(WARM_UP)
        if self.stopped or self._ready is not None:
            return False
        if self._skip:
            self._skip -= 1
            return False
        if (self._probes or self._given_up) and self.runs % PROBE_EVERY == 0:
            return True
        self._times.append(milliseconds)
        if len(self._times) == WINDOW:
            self._level_ms = statistics.median(self._times)
            if not self.expected_ms / DRIFT <= self._level_ms <= self.expected_ms * DRIFT:
                self._trace, self._looks = Trace(), 0
        return False

    def probe(self, feeds: Mapping[str, Any]) -> None:
        """Looks whether a slow unit is quicker again."""
        recovered = self._recovered()
        if not recovered and self._given_up and self.runs - self._changed_at >= self._patience:
            self.corrections, self._patience, recovered = replace(self.corrections, ratios={}, usual={}, between=Between()), 2 * self._patience, True
        if recovered:
            self._bias = {}
            self._start(feeds, statistics.median(self._times) if self._times else self.expected_ms)

    def looked(self, feeds: Mapping[str, Any]) -> None:
        """A run was traced."""
        self.runs += 1
        self._looks += 1
        if self._looks < LOOKS:
            return
        trace, self._trace = self._trace, None
        self._learn(trace)
        self._start(feeds, self._level_ms)

    def stop(self) -> None:
        """Follows no longer: a device failed, and what is left to plan for is another machine."""
        self.stopped, self._trace = True, None

    @property
    def _given_up(self) -> bool:
        """Whether a unit that was in use is left out of the plan."""
        return bool(self.changes) and len(self.plan.devices) == 1

    def settle(self) -> None:
        """Waits until nothing is planned."""
        if self._task is not None:
            self._task.join()

    def close(self) -> None:
        """Waits for the thread, and frees what was prepared and never ran."""
        self.stop()
        self.settle()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.run.close()
        for probe in self._probes.values():
            probe.close()
        self._probes = {}

    def _begin_anew(self, skip: int) -> None:
        self._times.clear()
        self._skip = skip

    # What it makes of that

    def _learn(self, trace: Trace) -> None:
        """The ratios that these runs show."""
        late, known = held_up(trace), self.corrections
        ratios = {key: ratio * late.get(key[1], 1.0) for key, ratio in ratios_seen(self.graph, self.plan, trace, self.costs).items()}
        if "gpu" not in self.plan.devices and self.costs.host_unit(True) == ALONE:
            if ratios:
                self.corrections = replace(known, alone=statistics.median(ratios.values()))
            return
        found = known.replaced(ratios, between(trace, statistics.fmean))
        self.corrections = replace(found, alone=self._alone(found))

    def _alone(self, corrections: Corrections) -> float:
        """What slows the CPU down slows it down in plans without a GPU too; so does what holds up an emulated GPU, whose cores it then takes."""
        units = ["cpu", *(["gpu"] if self.profile.gpu is not None and self.profile.gpu.emulated else [])]
        return max(1.0, *(corrections.usual.get(unit, 1.0) for unit in units))

    def _recovered(self) -> bool:
        """Whether a unit that was slow is quicker again; then its ratios are lowered."""
        found = False
        for unit, probe in self._probes.items():
            known = self.corrections.of(probe.node.name, unit)
            now = probe.ratio()
            if now * RECOVERED < known:
                self.corrections = self.corrections.scaled(unit, now / known)
                found = True
        if found:
            self.corrections = replace(self.corrections, alone=min(self.corrections.alone, self._alone(self.corrections)))
        return found

    def _start(self, feeds: Mapping[str, Any], level_ms: float) -> None:
        """Plans again, beside the runs."""
        copied = {name: np.array(value) for name, value in feeds.items()}
        self._task = threading.Thread(target=self._work, args=(copied, level_ms), name="coexec-plan", daemon=True)
        self._task.start()

    def _work(self, feeds: Mapping[str, Any], level_ms: float) -> None:
        try:
            with short_turns():
                self._ready = self._better(feeds, level_ms)
                self._watch_slow_units()
        except Exception as error:  # nobody waits for this thread: the runs go on with the plan they have
            log.warning("the plan stays as it is: %s", " ".join(f"{type(error).__name__}: {error}".split()))
            self.stopped = True

    def _better(self, feeds: Mapping[str, Any], level_ms: float) -> Prepared | None:
        """The best plan as things are, tried once; None where the one that runs is as good."""
        made, costs = self.planned(self.corrections), CostModel(self.profile, self.corrections)
        now_ms, then_ms = (costs.total_us(self.graph, plan.partitions) / 1e3 for plan in (self.plan, made))
        self._bias[self.plan.devices] = level_ms / now_ms
        hoped_ms = then_ms * self._bias.get(made.devices, level_ms / now_ms)
        moved, better = len(self.plan.diff(made)), hoped_ms < (1 - GAIN) * level_ms
        if made.objective == "energy":
            better = costs.energy_uj(self.graph, made.partitions) < (1 - GAIN) * costs.energy_uj(self.graph, self.plan.partitions)
        if not moved or not better:
            self.expected_ms = level_ms
            return None
        run = self.prepared(made)
        try:
            run.run(feeds)  # drivers compile what is left to compile when it first runs
        except BaseException:
            run.close()
            raise
        change = Replan(0, dict(self.corrections.usual), moved, now_ms, then_ms)
        return Prepared(run, change, hoped_ms)

    def _watch_slow_units(self) -> None:
        """A probe for each unit that is slower than its profile says."""
        for unit, ratio in self.corrections.usual.items():
            if ratio <= RECOVERED:
                if unit in self._probes:
                    self._probes.pop(unit).close()
            elif unit not in self._probes:
                node = probed(self.graph, self.plan, unit, self.costs)
                if node is not None:
                    self._probes[unit] = Probe(node, unit, self.costs, self.prepared, self.cpu_threads)


def probed(graph: Graph, plan: Plan, unit: str, costs: CostModel) -> Node | None:
    """The operator whose time on that unit is nearest to the share of a run that a probe may take; None where there is none to run there."""
    sizes = {}
    for node in graph.nodes:
        fixed = plan[node.name].note.startswith(("fallback", "view", "joined", "empty", "gpu:"))
        if not fixed and node.is_static and is_native(node) and not op_for(node).is_view and all(
                v is None or v.is_constant or v.type.is_static and v.dtype.kind == "f" for v in node.inputs):
            sizes[node] = costs.kernel(node, Region.whole(node.output.shape), unit).us
    wanted = PROBE_SHARE * costs.total_us(graph, plan.partitions)
    return min(sizes, key=lambda n: abs(sizes[n] - wanted), default=None)


class Probe:
    """One operator, whole, on one unit, by itself."""

    def __init__(self, node: Node, unit: str, costs: CostModel, prepared: Callable[..., PreparedRun], cpu_threads: int):
        self.node, self.unit = node, unit
        gpu = costs.profile.gpu
        self.predicted_us = costs.kernel(node, Region.whole(node.output.shape), unit).us
        self.besides_us = gpu.launch_us + gpu.sync_us if unit == "gpu" else 0.0
        inputs = tuple(dict.fromkeys(v for v in node.inputs if v is not None and not v.is_constant))
        graph = Graph(node.name, inputs, tuple(v for v in node.outputs if v is not None), (node,))
        plan = Plan(node.name, graph.digest, "probe", (on_one_device(node, unit),))
        self.run = prepared(plan, graph=graph, threads=cpu_threads)
        self.run.run(random_feeds(graph))

    def ratio(self) -> float:
        """Measured over predicted time, the least of a few."""
        queues, times = tuple(self.run.queues.values()), []
        for queue in queues:
            queue.begin_run()
        try:
            for _ in range(PROBE_TIMES):
                began = time.perf_counter()
                for action in self.run.hot:
                    action()
                times.append((time.perf_counter() - began) * 1e6)
        finally:
            for queue in queues:
                queue.end_run()
        return max(min(times) - self.besides_us, 0.05 * min(times)) / self.predicted_us

    def close(self) -> None:
        self.run.close()


@contextmanager
def short_turns() -> Iterable[None]:
    """Python's lock changes hands more often meanwhile."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, TURN_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
