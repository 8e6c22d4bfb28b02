"""Looks at runs of small made-up networks: what each plan's runs lost between and around their pieces, and what the pieces took.

In a process of its own, where one can be had: a process that has timed kernels for minutes has its memory all over, and starting a piece takes longer
there than in an application that has just begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..cost.corrections import Between
from ..devices.base import Device
from ..devices.registry import find_devices, threads_alone
from ..graph.ir import Activation, Graph, Node, TensorType, Value, constant
from ..partition.plan import Plan, on_one_device
from ..partition.strategies.base import preferred_axis, share
from ..profiling.child import Child, answering, running, say
from ..profiling.rounds import own_bytes
from ..runtime.edges import Edges, run_at_edges
from ..runtime.executor import PreparedRun
from ..runtime.trace import Trace
from ..runtime.traced import run_traced
from .observation import between, by_counters, inner_us, taken_us, usual, waking_us

#: Runs of each plan that do not count, then traced ones and as many, in turns, that look at the clock at their edges alone, of a look. The plans take
#: turns run by run, as an application does other things between runs: each finds the caches as the others left them. Of kernels, too, those count
#: whose weights come from memory (`profiling.rounds`). What is lost between pieces is told by as many traced runs in a row: in
#: turns, tracing itself finds the caches cold and makes starting a piece look dearer than it is in a plain run.
WARM, RUNS = 2, 8
#: How many blocks of each size the made-up networks have; the sizes of its maps and channels, as networks get smaller. With so many weights that
#: the caches hold neither the interpreter's nor the driver's data when the next piece is started, as in real ones.
DEPTHS = (1, 2)
STAGES = ((56, 64), (28, 128), (14, 256), (14, 384), (7, 512))
#: Channels of the last convolution, which has a map of one pixel: 17 MB of weights.
FAR_CHANNELS = 8192
#: Seconds that a look in another process may take: the first one compiles.
LOOK_S = 120.0


@dataclass(frozen=True)
class Seen:
    """What one look saw of a plan.

    taken_us: by (node, unit), what its piece took in traced runs (`observation.taken_us`). The others are of plain runs, for a trace lengthens what
    lies around the steps. around_us: before the first step and after the last, but for copying; and until the other threads are awake that share the
    first. beside_gpu_us: of runs whose pieces are all the GPU's, what they take beside them and copying; not less than around their steps. feed_us:
    copying inputs.
    """

    taken_us: Mapping[tuple[str, str], float]
    around_us: float
    beside_gpu_us: float
    feed_us: float

    @classmethod
    def of(cls, trace: Trace, plain: Sequence[Edges]) -> Seen:
        """By runs traced and plain."""
        around = usual([p.around_us for p in plain])
        inner = inner_us(trace, "gpu")
        beside = max(around, usual([p.steps_us for p in plain]) + around - usual(inner)) if inner else around
        return cls(taken_us(trace), around + usual(waking_us(trace)), beside, usual([p.feed_us for p in plain]))


@dataclass(frozen=True)
class Look:
    """What was seen at one moment: of each plan, and of the cut one what its runs lost between pieces, waiting by events and in step by counters;
    None where there is no such plan, or where counters lose more.
    """

    plans: Mapping[str, Seen]
    by_events: Between | None = None
    in_step: Between | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        plans = {name: {**vars(seen), "taken_us": [[*key, us] for key, us in seen.taken_us.items()]} for name, seen in self.plans.items()}
        return {"plans": plans, **{k: None if (b := getattr(self, k)) is None else vars(b) for k in ("by_events", "in_step")}}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Look:
        """What `to_dict` made."""
        plans = {name: Seen(**{**one, "taken_us": {(node, unit): us for node, unit, us in one["taken_us"]}}) for name, one in told["plans"].items()}
        return cls(plans, *(None if told[k] is None else Between(**told[k]) for k in ("by_events", "in_step")))


#: A network, a plan for it, and the threads of the CPU that its runs have.
Asked = tuple[Graph, Plan, int]


def asked_of(devices: Mapping[str, Device], threads: int) -> dict[str, Asked]:
    """What is run on these devices, by name: `cpu`, the CPU alone with all that it may have; with a GPU that can be waited for `cut`, and, where
    that has a kernel for every node, either unit by itself as it is beside the other.
    """
    graph = made_up()
    found: dict[str, Asked] = {"cpu": (graph, plan_on(graph, "cpu"), threads_alone(devices, threads))}
    gpu = devices.get("gpu")
    if gpu is not None and gpu.asynchronous:
        found["cut"] = graph, replace(cut_somehow(graph, gpu), counters=True), threads
        if all(gpu.declines(node) is None for node in graph.nodes):
            found["cpu beside"] = graph, plan_on(graph, "cpu"), threads
            found |= {f"gpu {deep}": (longer := made_up(deep), plan_on(longer, "gpu"), threads) for deep in DEPTHS}
    return found


class Looker:
    """Looks at runs on these devices; they stay prepared from one look to the next."""

    def __init__(self, devices: Mapping[str, Device], threads: int):
        self._devices, self._asked = devices, asked_of(devices, threads)
        self._prepared: dict[str, PreparedRun] = {}
        self._other = np.ones(2 * own_bytes() // 4, np.float32)
        self._feeds = {v.name: np.ones(v.shape, np.float32) for v in self._asked["cpu"][0].inputs}

    def look(self) -> Look:
        """Runs of the made-up networks under each plan, traced and plain, after some that do not count.

        As after the end of a real one, nothing of a network's inputs is in a core's own cache when it begins.
        """
        for name, (graph, plan, threads) in self._asked.items():
            if name not in self._prepared:
                self._prepared[name] = PreparedRun(graph, plan, self._devices, threads, trace=Trace())
        traces: dict[str, Trace] = {name: Trace() for name in self._asked}
        plain: dict[str, list[Edges]] = {name: [] for name in self._asked}
        for number in range(WARM + 2 * RUNS):
            for name, run in self._prepared.items():
                self._other.max()
                if number < WARM:
                    run.run(self._feeds)
                elif number % 2:  # in turns: what one is compared with the other for must not be another moment's
                    run_traced(run, self._feeds, traces[name], by_events=True)
                else:
                    plain[name].append(run_at_edges(run, self._feeds))
        plans = {name: Seen.of(traces[name], plain[name]) for name in self._asked}
        if "cut" not in self._asked:
            return Look(plans)
        run = self._prepared["cut"]
        by_events = between(self._in_a_row(run, by_events=True))
        return Look(plans, by_events, None if run.in_step is None else by_counters(self._in_a_row(run, by_events=False), by_events))

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

    def close(self) -> None:
        """Frees what is prepared."""
        while self._prepared:
            self._prepared.popitem()[1].close()


class LooksElsewhere(Child):
    """Looks in a process of its own, at this machine's devices. opencl: the GPU, if not the one that settings name; threads: of the CPU beside it."""

    def __init__(self, threads: int, opencl: str = ""):
        super().__init__([*running(__name__), str(threads)], "looks at runs", opencl)

    def look(self) -> Look:
        """As `Looker.look`. Raises ChildLost where the process is lost, DeviceError where none can be had."""
        self.start()
        try:
            self.tell({"look": True})
            return Look.from_dict(self.hear(LOOK_S))
        except KeyboardInterrupt:  # what it is about to answer is of a moment that nobody wants
            self.close()
            raise


def main(arguments: Sequence[str]) -> None:
    """The process's side of `LooksElsewhere`."""
    threads, *pipes = arguments
    with answering(pipes) as (lines, answers):
        devices = find_devices()
        say(answers, {"ready": sorted(devices)})
        with closing(Looker(devices, int(threads))) as looker:
            for _ in lines:
                say(answers, looker.look().to_dict())


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
