"""How well a profile predicts operators of whole models that took no part in fitting it, beside how well they repeat themselves."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ..cost.compose import CostModel
from ..devices.base import Device
from ..errors import DeviceError
from ..graph.ir import Graph, Node
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..profiles import DeviceProfile
from ..profiling.baselines import BASELINES, predictions
from ..profiling.drift import slowness
from ..profiling.fit import steadied
from ..profiling.from_table import one_device
from ..profiling.judging import accuracy
from ..profiling.fixed import fixed_costs
from ..profiling.measure import Bench, copies_for
from ..profiling.references import named
from ..profiling.rounds import COMPANY, NoClock, Round
from ..profiling.table import Measurement, describe, tail_text
from ..regions import Region


@dataclass(frozen=True)
class Sample:
    """One operator on one unit: predicted, and measured twice, in microseconds. What was measured is told as it would have been in the profile's
    usual moments, by the reference kernels timed beside it; `slowness`: by what each timing was longer than that.
    """

    model: str
    node: str
    op_type: str
    unit: str
    predicted_us: float
    measured_us: float
    again_us: float
    estimated: bool
    #: The kernel that ran, and which part of the output it made: "" for the whole.
    implementation: str = ""
    cut: str = ""
    #: The size columns of the table of measurements.
    shape: Mapping[str, int | None] = field(default_factory=dict)
    region: Region = field(default_factory=lambda: Region([]))
    slowness: tuple[float, float] = (1.0, 1.0)

    @property
    def truth_us(self) -> float:
        """The mean of both timings."""
        return (self.measured_us + self.again_us) / 2

    @property
    def as_clocked(self) -> Sample:
        """The same with what the clock said."""
        return replace(self, measured_us=self.measured_us * self.slowness[0], again_us=self.again_us * self.slowness[1], slowness=(1.0, 1.0))

    @property
    def error(self) -> float:
        """Relative to the mean of both timings; positive where the prediction is too long."""
        return self.predicted_us / self.truth_us - 1


def candidates(graph: Graph) -> Iterable[Node]:
    """Operators that a kernel computes, each shape once: a network repeats its blocks."""
    seen = set()
    for node in graph.nodes:
        if not node.is_static or node.output is None or is_fallback(op_for(node)) or op_for(node).is_view or not node.output.type.size:
            continue
        key = (
            node.op_type,
            str(dict(node.attributes)),
            node.residual,
            str(node.activation),
            tuple(None if v is None else v.type for v in node.inputs),
        )
        if key not in seen:
            seen.add(key)
            yield node


def cut_pieces(node: Node, rng: np.random.Generator) -> list[tuple[str, Region]]:
    """The whole output, and the two pieces of a cut at a random place of a random one of the first two axes."""
    whole = Region.whole(node.output.shape)
    axes = [a for a in op_for(node).split_axes(node)[:2] if a.extent > a.multiple]
    if not axes:
        return [("", whole)]
    axis = axes[int(rng.integers(len(axes)))]
    at = int(rng.integers(1, -(-axis.extent // axis.multiple))) * axis.multiple
    if axis.multiple == 1 and axis.extent >= 64:
        at = max(8, at // 8 * 8)
    spans = (0, at), (at, axis.extent)
    return [("", whole), *((f"{axis.name} {a}:{b}", whole.replace(axis.dim, (a, b))) for a, b in spans)]


#: What `timed` found: by unit, of each pass over all pieces, every piece's timing.
Passes = dict[str, list[list["Took | None"]]]


def measure_operators(
    name: str,
    graph: Graph,
    profile: Any,
    devices: Mapping[str, Device],
    threads: int,
    progress: Callable[[float, float, str], None] | None = None,
    pieces: bool = True,
) -> list[Sample]:
    """Every distinct operator of a model, whole and (with `pieces`) cut, on each unit of the profile that is here and has a kernel.

    Everything is timed twice, each time in PASSES over everything, which take turns with those of the other time and begin elsewhere.
    """
    passes = timed(name, graph, profile, devices, threads, 2 * PASSES, progress, pieces)
    first, again = ({unit: each[turn::2] for unit, each in passes.items()} for turn in (0, 1))
    return samples_of(name, graph, profile, first, again, pieces)


def timed(name: str, graph: Graph, profile: Any, devices: Mapping[str, Device], threads: int, passes: int,
          progress: Callable[[float, float, str], None] | None = None, pieces: bool = True) -> Passes:
    """So many timings of each distinct operator, whole and (with `pieces`) cut, for `samples_of`.

    The CPU runs with as many threads as the profile was made with; `threads` where it does not say. Neighbours take turns, as in
    profiling, and are those that they have in the network: what the caches hold of the memory that they share depends on how large those are.
    """
    costs, wanted, rng = CostModel(profile), _wanted(graph, pieces), np.random.default_rng()
    units = {u: d for u, d in devices.items() if u in costs.units}
    told = _Told(progress, len(wanted) * len(units), f"{name}: compiling kernels, once per machine")
    for unit, device in units.items():
        compile_pieces(device, wanted, costs.units[unit].threads or threads, told)
    told = _Told(progress, passes * len(wanted) * len(units), f"{name}: timing kernels")
    found: Passes = {unit: [] for unit in units}
    for _ in range(passes):
        for unit, device in units.items():
            order = np.roll(range(len(wanted)), rng.integers(len(wanted) + 1)).tolist()
            found[unit].append(time_pieces(device, wanted, costs.units[unit].threads or threads, order, told))
    return found


def samples_of(name: str, graph: Graph, profile: Any, first: Passes, again: Passes, pieces: bool = True) -> list[Sample]:
    """What two `timed` of a graph say of a profile; pieces that a pass could not time are left out."""
    costs, wanted, found = CostModel(profile), _wanted(graph, pieces), []
    for unit in first:
        for (node, cut, region), *each in zip(wanted, *first[unit], *again[unit], strict=True):
            took = [one for one in each if one is not None]
            if len(took) == len(each):
                predicted, kernel = costs.kernel(node, region, unit), costs.kernel_name(node, region, unit)
                slow = [slowness(costs.units[unit], kernel, named(one.reference_ns)) for one in took]
                (us, longer), (again_us, again_longer) = (
                    (median(one.us / by for one, by in zip(took[mine], slow[mine])), median(slow[mine]))
                    for mine in (slice(len(first[unit])), slice(len(first[unit]), None))
                )
                found.append(Sample(name, node.name, node.op_type, unit, predicted.us, us, again_us, predicted.estimated,
                                    took[0].implementation + tail_text(node), cut, describe(node, region), region, (longer, again_longer)))
    return found


def _wanted(graph: Graph, pieces: bool) -> list[tuple[Node, str, Region]]:
    """First all operators whole, in the network's order, then one piece of each: pieces of the same node use the same weights."""
    nodes, rng = list(candidates(graph)), np.random.default_rng(0)
    of_each = [cut_pieces(node, rng) if pieces else [("", Region.whole(node.output.shape))] for node in nodes]
    return [(node, *piece) for turn in zip_longest(*of_each) for node, piece in zip(nodes, turn) if piece is not None]


#: A timing of a piece is the median of so many, apart in time: a moment does more to a kernel than its references tell.
PASSES = 3


class Took(NamedTuple):
    """A piece's timing, its kernel, and what the reference kernels took beside it (nothing: none were timed)."""

    us: float
    implementation: str
    reference_ns: tuple[float, ...] = ()


class _Told:
    """Counts what is done of something, and passes it on."""

    def __init__(self, progress: Callable[[float, float, str], None] | None, total: int, what: str):
        self.progress, self.done, self.total, self.what = progress or (lambda done, total, what: None), 0, total, what
        self.progress(0, total, what)

    def __call__(self, count: int) -> None:
        self.done += count
        self.progress(self.done, self.total, self.what)


def compile_pieces(device: Device, wanted: Sequence[tuple[Node, str, Region]], threads: int, tell: Callable[[int], None]) -> None:
    """Compiles every piece, so that timing them afterwards goes at an even pace. One that a driver cannot build is told of when it is timed."""
    for at in range(0, len(wanted), COMPANY):
        with suppress(NoClock, DeviceError):
            Round(device, [(node, region) for node, _, region in wanted[at:at + COMPANY]], threads).close()
        tell(len(wanted[at:at + COMPANY]))


def time_pieces(device: Device, wanted: Sequence[tuple[Node, str, Region]], threads: int, order: Sequence[int],
                tell: Callable[[int], None] = lambda count: None) -> list[Took | None]:
    """Every piece, timed in that order; None where the device has no kernel for it or cannot run it. `tell` hears of how many more are done."""
    found: list[Took | None] = [None] * len(wanted)
    for at in range(0, len(order), COMPANY):
        these = order[at:at + COMPANY]
        try:
            with Round(device, [(wanted[i][0], wanted[i][2]) for i in these], threads) as company:
                for i, timing, entry in zip(these, company.time(), company.turns):
                    if timing is not None:
                        found[i] = Took(timing.median_us, entry.kernel.implementation, timing.reference_ns)
        except NoClock:
            wait_us = fixed_costs(device, threads)["wait_us"]
            for i in these:
                found[i] = _alone(device, wanted[i][0], wanted[i][2], threads, wait_us)
        tell(len(these))
    return found


def _alone(device: Device, node: Node, region: Region, threads: int, wait_us: float) -> Took | None:
    """Of a device whose kernels cannot be timed in company."""
    if device.declines(node) is not None:
        return None
    try:
        with Bench(device, node, region, threads, copies=copies_for(node, region, 1 << 20)) as bench:
            return Took(bench.time(wait_us).median_us, bench.kernel.implementation)
    except DeviceError:  # a driver that cannot run it: nothing to compare
        return None


def judge(samples: Iterable[Sample]) -> dict[str, Any]:
    """Per unit: shares of predictions within 5, 10 and 15 %, mean error, and the share of re-measurements within 10 % of their own mean."""
    samples, report = list(samples), {}
    for unit in ("cpu", "gpu"):
        mine = [s for s in samples if s.unit == unit]
        if mine:
            near = [abs(s.again_us - s.measured_us) <= 0.1 * (s.again_us + s.measured_us) for s in mine]
            report[unit] = accuracy([s.error for s in mine], round(sum(near) / len(near), 4))
    return report


def baselines(samples: Sequence[Sample], rows: Sequence[Measurement], profile: DeviceProfile) -> dict[str, dict[str, Any]]:
    """By the name of a baseline, `judge`'s figures of the same samples, predicted by it after seeing the profile's own `rows`.

    rows: what the profile was fitted to; of the CPU those with the profile's threads, so that all see equally many. Operators of types
    that it has no row of are spared them.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in BASELINES:
        guessed: list[Sample] = []
        for unit in ("cpu", "gpu"):
            known = {r.op_type for r in rows}
            mine = [s for s in samples if s.unit == unit and s.op_type in known]
            seen = steadied(one_device([r for r in rows if r.unit == unit and not r.busy_other
                                        and (unit == "gpu" or not profile.cpu.threads or r.threads == profile.cpu.threads)])).rows
            if mine and seen:
                asked = [Measurement(seen[0].device, unit, seen[0].threads, s.op_type, s.implementation, seen[0].dtype, **s.shape,
                                     busy_other=0, latency_us=s.measured_us) for s in mine]
                guessed += [replace(s, predicted_us=float(us)) for s, us in zip(mine, predictions(name, seen, asked))]
        found[name] = judge(guessed)
    return found


def worst(samples: Iterable[Sample], count: int = 10) -> list[Sample]:
    """Those predicted worst, by the factor they are off, that repeat themselves within 10 %."""
    steady = [s for s in samples if abs(s.again_us - s.measured_us) <= 0.1 * (s.again_us + s.measured_us)]
    return sorted(steady, key=lambda s: -abs(math.log(s.predicted_us / s.truth_us)))[:count]


def by_kernel(samples: Iterable[Sample]) -> dict[tuple[str, str], dict[str, Any]]:
    """`judge`'s figures for each unit and kernel (tile sizes left out of its name), those with the largest mean error first."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        groups.setdefault((s.unit, re.sub(r"_\d+x\d+(?=_|$)", "", s.implementation.partition("+")[0])), []).append(s)
    judged = {key: judge(mine)[key[0]] for key, mine in groups.items()}
    return dict(sorted(judged.items(), key=lambda kv: -kv[1]["mape"]))


def query_us(profile: Any, graph: Graph, queries: int = 1000) -> float:
    """What one prediction takes, in microseconds, where about so many are asked for at once of every unit, as a planner does: all operators,
    whole and cut in places spread over their axes, with nothing kept from earlier batches.
    """
    nodes = list(candidates(graph))
    if not nodes:
        return 0.0
    costs = CostModel(profile)
    each = max(1, queries // len(nodes))
    wanted = []
    for node in nodes:
        whole = Region.whole(node.output.shape)
        axes = op_for(node).split_axes(node)[:2]
        spans = [(axis, max(1, axis.extent * k // (each // len(axes) + 1))) for axis in axes for k in range(1, each // len(axes) + 1)]
        regions = list(dict.fromkeys([whole, *(whole.replace(axis.dim, (0, -(-at // axis.multiple) * axis.multiple)) for axis, at in spans)]))
        wanted += [(node, unit, regions) for unit in costs.units]
    begun = time.perf_counter()
    costs.prepare(wanted)
    return (time.perf_counter() - begun) / sum(len(regions) for _, _, regions in wanted) * 1e6
