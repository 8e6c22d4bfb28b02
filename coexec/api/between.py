"""What runs lose between pieces: starting a GPU piece, until an idle GPU begins, hearing that it has ended.

Bare loops make these look cheap (2 us for a start, on an x86-64 server with PoCL, 2026-11): in a run the interpreter and the driver find
their code and data driven out of the caches, and it takes several times as long. So a small made-up network is run, cut in two, and its
trace is asked. Plans of real ones are predicted with what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..cost.corrections import Between
from ..devices.base import Device
from ..graph.ir import Activation, Graph, Node, TensorType, Value, constant
from ..partition.plan import Plan, on_one_device
from ..partition.strategies.base import preferred_axis, share
from ..profiles import DeviceProfile
from ..runtime.executor import PreparedRun
from ..runtime.trace import Trace
from ..runtime.traced import run_traced

#: Traced runs of the made-up network; its blocks, and the sizes of its maps and channels, as networks get smaller.
RUNS, STAGES = 24, ((56, 24), (28, 48), (28, 64), (14, 96), (14, 128), (7, 192))


def with_run_costs(profile: DeviceProfile, devices: Mapping[str, Device], threads: int) -> DeviceProfile:
    """The profile with what runs on these devices lose between pieces, where it has a GPU that works beside the host."""
    if profile.gpu is None or not devices["gpu"].asynchronous:
        return profile
    seen = {k: float(f"{v:.4g}") for k, v in vars(measure_between(devices, threads)).items() if v is not None}
    return replace(profile, gpu=replace(profile.gpu, **seen))


def measure_between(devices: Mapping[str, Device], threads: int) -> Between:
    """Traced runs of the made-up network: convolutions cut in two, on one unit, and small operators between them."""
    graph = made_up()
    plan = cut_somehow(graph, devices["gpu"])
    trace = Trace()
    prepared = PreparedRun(graph, plan, devices, threads, trace=trace)
    try:
        feeds = {v.name: np.ones(v.shape, np.float32) for v in graph.inputs}
        prepared.run(feeds)
        for _ in range(RUNS):
            run_traced(prepared, feeds, trace)
    finally:
        prepared.close()
    return between(trace)


def between(trace: Trace, typical: Callable[[Sequence[float]], float] | None = None) -> Between:
    """What was lost between the pieces of traced runs; `typical` of many such times, by default those that nothing else disturbed."""
    free: dict[int, float] = {}  # when each piece could have begun, but for its own enqueueing
    for before, piece in pairwise(sorted(trace.of("piece"), key=lambda s: (s.track, s.start_us))):
        if before.track == piece.track:
            free[id(piece)] = before.stop_us
    lost: dict[str, list[float]] = {"launch_us": [], "begin_us": [], "sync_us": [], "ready_us": []}
    for arrow in trace.arrows:
        source, target = arrow.source, arrow.target
        if arrow.name == "enqueue" and target.category == "piece":
            lost["launch_us"].append(source.duration_us)
            if free.get(id(target), 0.0) < source.start_us:
                lost["begin_us"].append(target.start_us - source.stop_us)
        elif arrow.name == "join":
            late = target.stop_us - source.stop_us
            lost["ready_us" if source.stop_us < target.start_us else "sync_us"].append(min(late, target.duration_us))
    return Between(**{k: max(0.0, (typical or quiet)(v)) for k, v in lost.items() if v})


def quiet(times: Sequence[float]) -> float:
    """The lower quartile: what is slower was mostly disturbed by something else."""
    return float(np.percentile(times, 25))


def made_up() -> Graph:
    """A network of nobody: in every block a 1x1 and a 3x3 convolution, a pooling where the map gets smaller, and what is elementwise."""
    rng, nodes = np.random.default_rng(0), []
    size, channels = 56, 16
    first = last = Value("x", TensorType(np.dtype(np.float32), (1, channels, size, size)))

    def add(op_type: str, shape: tuple[int, ...], *more: Value, **attributes: object) -> None:
        nonlocal last
        made = Value(f"v{len(nodes)}", TensorType(np.dtype(np.float32), shape))
        activation = Activation("Relu") if op_type == "Conv" else None
        nodes.append(Node(op_type, (last, *more), (made,), attributes, name=f"n{len(nodes)}", activation=activation))
        last = made

    for smaller, wider in STAGES:
        if smaller < size:
            add("MaxPool", (1, channels, smaller, smaller), kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
        size = smaller
        for kernel in (1, 3):
            weights = (rng.standard_normal((wider, channels, kernel, kernel)) / (channels * kernel)).astype(np.float32)
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
