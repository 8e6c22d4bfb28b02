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
from ..cost.contention import busy_of
from ..cost.corrections import Between
from ..devices.base import Device
from ..devices.registry import threads_alone
from ..graph.ir import Activation, Graph, Node, TensorType, Value, constant
from ..partition.plan import Plan, on_one_device, pieces
from ..partition.strategies.base import preferred_axis, share
from ..profiles import DeviceProfile, UnitProfile, rounded
from ..profiling.rounds import own_bytes
from ..runtime.edges import Edges, run_at_edges
from ..runtime.executor import PreparedRun
from ..runtime.trace import Trace
from ..runtime.traced import run_traced
from .observation import between, by_counters, inner_us, ratios_seen, usual, waking_us

#: Runs of each plan that do not count, then traced ones and as many, in turns, that look at the clock at their edges alone, of a look. The plans take
#: turns run by run, as an application does other things between runs: each finds the caches as the others left them. Of kernels, too, those count
#: whose weights come from memory (`profiling.rounds`). What is lost between pieces is told by as many traced runs in a row: in
#: turns, tracing itself finds the caches cold and makes starting a piece look dearer than it is in a plain run.
WARM, RUNS = 2, 8
#: The names of those that wait by events, and of those that keep in step by counters.
IN_A_ROW, IN_STEP = "cut, in a row", "cut, in step"
#: Fewer looks are added to.
LEAST_LOOKS = 3
#: What a section has from runs.
OF_RUNS = ("launch_us", "begin_us", "sync_us", "ready_us", "run_us", "run_piece_us", "copy_gbs")
#: How many blocks of each size the made-up networks have; the sizes of its maps and channels, as networks get smaller. With so many weights that
#: the caches hold neither the interpreter's nor the driver's data when the next piece is started, as in real ones.
DEPTHS = (1, 2)
STAGES = ((56, 64), (28, 128), (14, 256), (14, 384), (7, 512))
#: Channels of the last convolution, which has a map of one pixel: 17 MB of weights.
FAR_CHANNELS = 8192
#: A unit's pieces are not taken to be slowed down by the other's company by more than this.
MOST_COMPANY = 3.0


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
        self._seen: list[dict[str, Looked]] = []
        self._other = np.ones(2 * own_bytes() // 4, np.float32)
        self._asked: dict[str, tuple[Graph, Plan, int]] = {}
        self._prepared: dict[str, PreparedRun] = {}
        graph = made_up()
        self._asked["cpu"] = graph, plan_on(graph, "cpu"), threads_alone(devices, threads)
        if "gpu" in devices and devices["gpu"].asynchronous:
            self._asked["cut"] = graph, replace(cut_somehow(graph, devices["gpu"]), counters=True), threads
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
        if "cut" in seen:
            run = self._prepared["cut"]
            seen[IN_A_ROW] = Looked(self._in_a_row(run, by_events=True), [])
            if run.in_step is not None:
                seen[IN_STEP] = Looked(self._in_a_row(run, by_events=False), [])
        self._seen.append(seen)

    def _in_a_row(self, run: PreparedRun, by_events: bool) -> Trace:
        """Its runs one after the other."""
        trace = Trace()
        for number in range(WARM + RUNS):
            self._other.max()
            if number < WARM:
                run.run(self._feeds)
            else:
                run_traced(run, self._feeds, trace, by_events=by_events)
        return trace

    def told(self, profile: DeviceProfile) -> DeviceProfile:
        """The profile with what the looks showed, the middle of each number, in the way that its runs will be kept in step; where there were too
        few looks, more are made now.
        """
        while self.looks < LEAST_LOOKS:
            self.look()
        made = [self._by(profile, seen) for seen in self._seen]
        sections = {unit: replace(section, **{k: _middle([getattr(getattr(one, unit), k) for one in made]) for k in (*OF_RUNS, "busy")})
                    for unit in ("cpu", "gpu", "cpu_alone") if (section := getattr(profile, unit)) is not None}
        counted = [one for seen in self._seen if (one := _counted(seen)) is not None]
        if profile.in_step and 2 * len(counted) > self.looks:
            told = {k: _middle([getattr(one, k) for one in counted]) for k in vars(counted[0])}
            sections["gpu"] = replace(sections["gpu"], **{k: v for k, v in told.items() if v is not None})
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
            gpu = replace(gpu, busy=self._busy(profile, looked, "gpu"))
            profile = replace(profile, cpu=replace(profile.cpu, busy=self._busy(profile, looked, "cpu")))
        return replace(profile, cpu=replace(profile.cpu, **_run(graph, looked["cut"])), gpu=gpu,
                       cpu_alone=None if profile.cpu_alone is None else replace(profile.cpu_alone, **alone))

    def _busy(self, profile: DeviceProfile, looked: Mapping[str, Looked], unit: str) -> Mapping[str, float]:
        """What company costs a unit's pieces, as runs say: those of cut operators beside whole ones in runs of that unit alone. Pairs of kernels
        repeated by themselves, of which the profile knows, say less or more: both find there what they left in the caches, and never rest.
        """
        costs = CostModel(replace(profile, cpu_alone=None))  # of a CPU with the threads that it has beside a GPU, whatever the plan
        alone = "cpu beside" if unit == "cpu" else f"gpu {DEPTHS[0]}"
        seen, by_itself = (ratios_seen(*self._asked[name][:2], looked[name].trace, costs) for name in ("cut", alone))
        graph, plan, _ = self._asked["cut"]
        found = company(graph, plan, seen, by_itself, costs, unit)
        return rounded(found) if found else getattr(profile, unit).busy

    def close(self) -> None:
        """Frees what is prepared; what was seen stays."""
        while self._prepared:
            self._prepared.popitem()[1].close()


def _counted(looked: Mapping[str, Looked]) -> Between | None:
    """What one look showed of runs kept in step by counters; None where there were none, or where they lost more than by events."""
    return by_counters(looked[IN_STEP].trace, between(looked[IN_A_ROW].trace)) if IN_STEP in looked else None


def _middle(values: Sequence[Any]) -> Any:
    """The median of numbers, or of each number of dictionaries that have the same keys; None, where nothing was seen, does not count."""
    if isinstance(values[0], dict):
        return {k: _middle([v[k] for v in values]) for k in values[0]}
    known = [v for v in values if v is not None]
    return rounded({"": float(np.median(known))})[""] if known else None


def company(graph: Graph, plan: Plan, together: Mapping[tuple[str, str], float], by_itself: Mapping[tuple[str, str], float], costs: CostModel,
            unit: str) -> dict[str, float]:
    """`busy` of a unit by what pieces of cut operators took, and whole operators in runs of that unit alone, each by what is predicted
    (`ratios_seen`); empty where no run shows it.
    """
    waiting, ratios = [], []
    for node in graph.nodes:
        parts = dict(pieces(node, plan[node.name]))
        if len(parts) > 1 and (node.name, unit) in together and (node.name, unit) in by_itself:
            waiting.append(costs.waiting(node, parts[unit], unit))
            ratios.append(together[node.name, unit] / by_itself[node.name, unit])
    return busy_of(waiting, ratios, MOST_COMPANY)


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
    """A network of nobody: in every block a 1x1 and a 3x3 convolution, a pooling where the map gets smaller, and what is elementwise. At its end
    one whose time is all reading weights from memory.

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

    def convolution(wider: int, kernel: int) -> None:
        weights = (rng.random((wider, channels, kernel, kernel), np.float32) - np.float32(0.5)) / np.float32(channels * kernel)
        add("Conv", (1, wider, *last.shape[2:]), constant(f"w{len(nodes)}", weights), constant(f"b{len(nodes)}", np.zeros(wider, np.float32)),
            kernel_shape=[kernel, kernel], strides=[1, 1], pads=[kernel // 2] * 4, dilations=[1, 1], group=1)

    for smaller, wider in (stage for stage in STAGES for _ in range(deep)):
        if smaller < size:
            add("MaxPool", (1, channels, smaller, smaller), kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
        size = smaller
        for kernel in (1, 3):
            convolution(wider, kernel)
            channels = wider
        add("Sigmoid", (1, channels, size, size))
    add("GlobalAveragePool", (1, channels, 1, 1))
    convolution(FAR_CHANNELS, 1)
    return Graph("made up", (first,), (last,), tuple(nodes))


def cut_somehow(graph: Graph, gpu: Device) -> Plan:
    """Most convolutions cut in the middle, the last too, some on the GPU alone; what the GPU has no kernel for, and every third other, on the CPU."""
    partitions = []
    for number, node in enumerate(graph.nodes):
        axis = preferred_axis(node, "channel") if node.op_type == "Conv" else None
        if gpu.declines(node) is not None or axis is None and number % 3 == 0:
            partitions.append(on_one_device(node, "cpu"))
        elif axis is None or number % 7 == 5 and node is not graph.nodes[-1]:
            partitions.append(on_one_device(node, "gpu"))
        else:
            partitions.append(share(node, axis, 0.5))
    return Plan(graph.name, graph.digest, "made up", tuple(partitions))
