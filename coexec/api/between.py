"""What runs lose between pieces: starting a GPU piece, until an idle GPU begins, hearing that it has ended.

Bare loops make these look cheap: in a run the interpreter and the driver find
their code and data driven out of the caches, and it takes several times as long. So a small made-up network is run, cut in two, and its
trace is asked; and whole on either unit, for what a run takes around its pieces, and for what company costs where both work on one
operator. Plans of real ones are predicted with what these say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..cost.compose import CostModel
from ..cost.corrections import Between
from ..cost.kernels import BOUNDS
from ..devices.base import Device
from ..devices.registry import threads_alone
from ..graph.ir import Activation, Graph, Node, TensorType, Value, constant
from ..partition.plan import Plan, on_one_device
from ..partition.strategies.base import preferred_axis, share
from ..profiles import DeviceProfile, UnitProfile, rounded
from ..profiling.rounds import own_bytes
from ..runtime.edges import Edges, run_at_edges
from ..runtime.executor import PreparedRun
from ..runtime.trace import Trace
from ..runtime.traced import run_traced
from .counting import by_counters
from .observation import between, inner_us, ratios_seen, usual, waking_us

#: Runs of each plan that do not count, then traced ones and as many, in turns, that look at the clock at their edges alone, of a look. The plans take
#: turns run by run, as an application does other things between runs: each finds the caches as the others left them. Of kernels, too, those count
#: whose weights come from memory (`profiling.rounds`). What is lost between pieces is told by as many traced runs in a row: in
#: turns, tracing itself finds the caches cold and makes starting a piece look dearer than it is in a plain run.
WARM, RUNS = 2, 8
#: The name of those.
IN_A_ROW = "cut, in a row"
#: Fewer looks are added to.
LEAST_LOOKS = 3
#: What a section has from runs.
OF_RUNS = ("launch_us", "begin_us", "sync_us", "ready_us", "run_us", "run_piece_us", "copy_gbs")
#: How many blocks of each size the made-up networks have; the sizes of its maps and channels, as networks get smaller. With so many weights that
#: the caches hold neither the interpreter's nor the driver's data when the next piece is started, as in real ones.
DEPTHS = (1, 2)
STAGES = ((56, 64), (28, 128), (14, 256), (14, 384), (7, 512))
#: A unit's pieces are not taken to be slowed down by the other's company by more than this.
MOST_COMPANY = 2.0


class Looked(NamedTuple):
    """What one look saw of a plan: traced runs, and plain ones, for a trace lengthens what lies around the steps."""

    trace: Trace
    plain: list[Edges]

    @property
    def around_us(self) -> float:
        """Before the first step and after the last, but for copying; and until the other threads are awake that share the first."""
        return usual([p.around_us for p in self.plain]) + usual(waking_us(self.trace))

    @property
    def beside_gpu_us(self) -> float:
        """Of a run whose pieces are all the GPU's, what it takes beside them and copying; not less than around its steps."""
        around = usual([p.around_us for p in self.plain])
        return max(around, usual([p.steps_us for p in self.plain]) + around - usual(inner_us(self.trace, "gpu")))


class RunCosts:
    """What runs on these devices lose between and around their pieces, as several looks show it, each at another moment.

    A moment says little where a machine is shared: starting a piece takes several times as long in one as in another. So a profile looks again and
    again while it measures kernels.
    """

    def __init__(self, devices: Mapping[str, Device], threads: int):
        self._devices, self._threads = devices, threads
        self._seen: list[tuple[dict[str, Looked], Between | None]] = []
        self._other = np.ones(2 * own_bytes() // 4, np.float32)
        self._asked: dict[str, tuple[Graph, Plan, int]] = {}
        self._prepared: dict[str, PreparedRun] = {}
        graph = made_up()
        self._asked["cpu"] = graph, plan_on(graph, "cpu"), threads_alone(devices, threads)
        if "gpu" in devices and devices["gpu"].asynchronous:
            self._asked["cut"] = graph, cut_somehow(graph, devices["gpu"]), threads
            if all(devices["gpu"].declines(node) is None for node in graph.nodes):
                self._asked["cpu beside"] = graph, plan_on(graph, "cpu"), threads
                self._asked |= {f"gpu {deep}": (longer := made_up(deep), plan_on(longer, "gpu"), threads) for deep in DEPTHS}
        self._feeds = {v.name: np.ones(v.shape, np.float32) for v in graph.inputs}

    @property
    def looks(self) -> int:
        """How many looks there were; one that was interrupted is none."""
        return len(self._seen)

    def look(self) -> None:
        """Runs of the made-up networks under each plan, traced and plain, after some that do not count; they stay prepared for the next look.

        As after the end of a real one, nothing of a network's inputs is in a core's own cache when it begins.
        """
        for name, (graph, plan, threads) in self._asked.items():
            if name not in self._prepared:
                self._prepared[name] = PreparedRun(graph, plan, self._devices, threads, trace=Trace())
        seen = {name: Looked(Trace(), []) for name in self._asked}
        for number in range(WARM + 2 * RUNS):
            for name, run in self._prepared.items():
                self._other.max()
                if number < WARM:
                    run.run(self._feeds)
                elif number % 2:  # in turns: what one is compared with the other for must not be another moment's
                    run_traced(run, self._feeds, seen[name].trace, by_events=True)
                else:
                    seen[name].plain.append(run_at_edges(run, self._feeds))
        counted = None
        if "cut" in seen:
            run, in_a_row = self._prepared["cut"], Trace()
            for number in range(WARM + RUNS):
                self._other.max()
                if number < WARM:
                    run.run(self._feeds)
                else:
                    run_traced(run, self._feeds, in_a_row, by_events=True)
            seen[IN_A_ROW] = Looked(in_a_row, [])
            counted = by_counters(between(in_a_row), self._devices["gpu"], self._threads)
        self._seen.append((seen, counted))

    def told(self, profile: DeviceProfile) -> DeviceProfile:
        """The profile with what the looks showed, the middle of each number, in the way that its runs will be kept in step; where there were too
        few looks, more are made now.
        """
        while self.looks < LEAST_LOOKS:
            self.look()
        made = [self._by(profile, seen) for seen, _ in self._seen]
        sections = {unit: replace(section, **{k: _middle([getattr(getattr(one, unit), k) for one in made]) for k in (*OF_RUNS, "busy")})
                    for unit in ("cpu", "gpu", "cpu_alone") if (section := getattr(profile, unit)) is not None}
        counted = [one for _, one in self._seen if one is not None]
        if profile.in_step and 2 * len(counted) > self.looks:
            sections["gpu"] = replace(sections["gpu"], **{k: _middle([getattr(one, k) for one in counted]) for k in vars(counted[0])})
        return replace(profile, **sections)

    def _by(self, profile: DeviceProfile, looked: Mapping[str, Looked]) -> DeviceProfile:
        """The profile with what one look showed."""
        graph, gpu = self._asked["cpu"][0], profile.gpu
        alone = _run(graph, looked["cpu"])
        if gpu is None or "cut" not in looked:
            return replace(profile, cpu=replace(profile.cpu, **alone))
        gpu = replace(gpu, **rounded({k: v for k, v in vars(between(looked[IN_A_ROW].trace)).items() if v is not None}))
        if f"gpu {DEPTHS[0]}" in looked:
            gpu = replace(gpu, **_away(gpu, {len(self._asked[k][0].nodes): looked[k].beside_gpu_us for k in (f"gpu {deep}" for deep in DEPTHS)}))
            costs = CostModel(replace(profile, cpu_alone=None))  # of a CPU with the threads that it has beside a GPU, whatever the plan
            seen = {name: ratios_seen(*self._asked[name][:2], looked[name].trace, costs) for name in ("cut", "cpu beside", f"gpu {DEPTHS[0]}")}
            gpu = replace(gpu, busy=_busier(gpu.busy, company(seen["cut"], seen[f"gpu {DEPTHS[0]}"], "gpu")))
            profile = replace(profile, cpu=replace(profile.cpu, busy=_busier(profile.cpu.busy, company(seen["cut"], seen["cpu beside"], "cpu"))))
        return replace(profile, cpu=replace(profile.cpu, **_run(graph, looked["cut"])), gpu=gpu,
                       cpu_alone=None if profile.cpu_alone is None else replace(profile.cpu_alone, **alone))

    def close(self) -> None:
        """Frees what is prepared; what was seen stays."""
        while self._prepared:
            self._prepared.popitem()[1].close()


def _middle(values: Sequence[Any]) -> Any:
    """The median of numbers, or of each number of dictionaries that have the same keys; None, where nothing was seen, does not count."""
    if isinstance(values[0], dict):
        return {k: _middle([v[k] for v in values]) for k in values[0]}
    known = [v for v in values if v is not None]
    return rounded({"": float(np.median(known))})[""] if known else None


def company(together: Mapping[tuple[str, str], float], by_itself: Mapping[tuple[str, str], float], unit: str) -> float:
    """By how much a unit's pieces take longer in runs while the other has the other part of the same operator: the median of what they take by
    what is predicted, by the same of whole operators in runs of that unit alone. At least 1, at most MOST_COMPANY.
    """
    both = {name for name, u in together if u == "cpu"} & {name for name, u in together if u == "gpu"}
    here = [together[name, unit] for name in both]
    alone = [by_itself[name, unit] for name in both if (name, unit) in by_itself]
    return float(np.clip(np.median(here) / np.median(alone), 1.0, MOST_COMPANY)) if here and alone else 1.0


def _busier(busy: Mapping[str, float], least: float) -> dict[str, float]:
    """What a busy other unit costs, not less than runs say: pairs of kernels that are repeated by themselves do not show all of it."""
    return {bound: max(float(f"{least:.4g}"), busy.get(bound, 1.0)) for bound in BOUNDS}


def _run(graph: Graph, looked: Looked) -> dict[str, float]:
    """run_us and copy_gbs of a host's section, by runs of a plan that gives the host some work."""
    copied = sum(v.type.nbytes for v in graph.inputs)
    return rounded({"run_us": looked.around_us, "copy_gbs": 2 * copied / 1e3 / max(usual([p.feed_us for p in looked.plain]), 1e-3)})


def _away(gpu: UnitProfile, told: Mapping[int, float]) -> dict[str, float]:
    """run_us and run_piece_us of a GPU's section: what runs lose around its pieces where all are its own, by microseconds of two numbers of pieces.

    The host sleeps meanwhile: it wakes late, with cold caches, and first tidies up what the driver kept for each piece. What a plan is charged
    anyway for starting, beginning and waiting is left out.
    """
    (few, least), (many, most) = sorted(told.items())
    each = min(max(0.0, (most - least) / (many - few)), least / few)
    return rounded({"run_us": max(0.0, least - few * each - gpu.launch_us - gpu.begin_us - gpu.sync_us), "run_piece_us": each})


def plan_on(graph: Graph, unit: str) -> Plan:
    """The whole network on one unit."""
    return Plan(graph.name, graph.digest, "made up", tuple(on_one_device(node, unit) for node in graph.nodes))


def made_up(deep: int = 1) -> Graph:
    """A network of nobody: in every block a 1x1 and a 3x3 convolution, a pooling where the map gets smaller, and what is elementwise.

    deep: so many blocks of each size.
    """
    rng, nodes = np.random.default_rng(0), []
    size, channels = 56, 16
    first = last = Value("x", TensorType(np.dtype(np.float32), (1, channels, size, size)))

    def add(op_type: str, shape: tuple[int, ...], *more: Value, **attributes: object) -> None:
        nonlocal last
        made = Value(f"v{len(nodes)}", TensorType(np.dtype(np.float32), shape))
        activation = Activation("Relu") if op_type == "Conv" else None
        nodes.append(Node(op_type, (last, *more), (made,), attributes, name=f"n{len(nodes)}", activation=activation))
        last = made

    for smaller, wider in (stage for stage in STAGES for _ in range(deep)):
        if smaller < size:
            add("MaxPool", (1, channels, smaller, smaller), kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
        size = smaller
        for kernel in (1, 3):
            weights = (rng.random((wider, channels, kernel, kernel), np.float32) - np.float32(0.5)) / np.float32(channels * kernel)
            add("Conv", (1, wider, size, size), constant(f"w{len(nodes)}", weights), constant(f"b{len(nodes)}", np.zeros(wider, np.float32)),
                kernel_shape=[kernel, kernel], strides=[1, 1], pads=[kernel // 2] * 4, dilations=[1, 1], group=1)
            channels = wider
        add("Sigmoid", (1, channels, size, size))
    return Graph("made up", (first,), (last,), tuple(nodes))


def cut_somehow(graph: Graph, gpu: Device) -> Plan:
    """Most convolutions cut in the middle, some on the GPU alone; what the GPU has no kernel for, and every third other, on the CPU."""
    partitions = []
    for number, node in enumerate(graph.nodes):
        axis = preferred_axis(node, "channel") if node.op_type == "Conv" else None
        if gpu.declines(node) is not None or axis is None and number % 3 == 0:
            partitions.append(on_one_device(node, "cpu"))
        elif axis is None or number % 7 == 5:
            partitions.append(on_one_device(node, "gpu"))
        else:
            partitions.append(share(node, axis, 0.5))
    return Plan(graph.name, graph.digest, "made up", tuple(partitions))
