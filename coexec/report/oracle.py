"""Each operator by itself: on one device, cut as a strategy chooses, and in every sensible cut. How close the choice comes to the best.

As a run has it: an operator is repeated in one run, each time when both units are done with the time before, so that an idle GPU is woken once a
run, as for a network, not for every operator; and both are kept in step in the way that runs are.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import numpy as np

from ..devices.base import Device
from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..partition.plan import Partition, Plan, cut
from ..profiles import DeviceProfile
from ..runtime.executor import PreparedRun
from .evaluation import candidates
from .timing import orders

#: Shares of the output tried on the GPU, besides all and nothing.
SHARES = tuple(i / 10 for i in range(1, 10))
#: How often each is run, whatever it takes, and at most.
LEAST_TURNS, MOST_TURNS = 5, 200
#: A run repeats an operator for so long, about, and at least and at most so often: long beside what a run takes at its edges.
RUN_US, LEAST_REPEATS, MOST_REPEATS = 2000.0, 3, 40


def oracle(
    graph: Graph,
    choose: Callable[[Graph], Plan],
    devices: Mapping[str, Device],
    threads: Mapping[str, int],
    seconds_each: float = 0.01,
    progress: Callable[[float, float, str], None] | None = None,
) -> dict[str, Any]:
    """`ops`, `oracle_speedup_geomean` and `chosen_speedup_geomean`, over operators that both devices run and that can be cut.

    choose: the plan of a graph of one operator, on a board such as `inside_runs` makes. What is timed is an operator by itself, so what it is
    compared with is chosen for that, too: in the plan of a whole network an operator may be on its slower device, for a branch beside it has the
    faster one.
    threads: of the CPU by itself (`cpu`) and beside the GPU (`gpu`). Times include starting, sharing and waiting. Which cut is the best is
    found by measuring all of them; what is told of it, of the chosen one and of each device alone is measured once more, in turns: the least
    of many noisy times is too good to be true.
    """
    nodes = [n for n in candidates(graph) if op_for(n).split_axes(n) and devices["gpu"].declines(n) is None]
    rows = []
    for done, node in enumerate(nodes):
        rows.append(_row(node, choose(by_itself(node))[node.name], devices, threads, seconds_each))
        if progress is not None:
            progress(done + 1, len(nodes), node.op_type)
    best = [min(r["cpu_us"], r["gpu_us"]) for r in rows]
    return {
        "ops": rows,
        "oracle_speedup_geomean": geomean([b / r["oracle_us"] for b, r in zip(best, rows)]),
        "chosen_speedup_geomean": geomean([b / r["chosen_us"] for b, r in zip(best, rows)]),
    }


def inside_runs(profile: DeviceProfile) -> DeviceProfile:
    """That profile without what runs take at their edges: an operator is timed between those."""
    sections = {unit: replace(section, run_us=0.0, run_piece_us=0.0)
                for unit in ("cpu", "gpu", "cpu_alone") if (section := getattr(profile, unit)) is not None}
    return replace(profile, **sections)


def by_itself(node: Node) -> Graph:
    """A graph of that operator alone; what it reads of others is an input."""
    inputs = tuple(dict.fromkeys(v for v in node.inputs if v is not None and not v.is_constant))
    return Graph(node.name, inputs, tuple(v for v in node.outputs if v is not None), (node,))


def in_a_row(node: Node, partition: Partition, count: int) -> tuple[Graph, Plan]:
    """A graph of that operator so many times, all with the same inputs, and the plan that runs each under the partition."""
    nodes = []
    for number in range(count):
        outputs = tuple(None if v is None else Value(f"{v.name} {number}", v.type) for v in node.outputs)
        nodes.append(replace(node, name=f"{node.name} {number}", outputs=outputs))
    graph = replace(by_itself(node), outputs=tuple(v for v in nodes[-1].outputs if v is not None), nodes=tuple(nodes))
    return graph, Plan(graph.name, graph.digest, "oracle", tuple(replace(partition, name=n.name) for n in nodes))


def geomean(values: Sequence[float]) -> float | None:
    """The geometric mean; None of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _row(node: Node, chosen: Partition, devices: Mapping[str, Device], threads: Mapping[str, int], seconds: float) -> dict[str, Any]:
    axis = op_for(node).split_axes(node)[0]
    alone = [cut(node, axis, (0, axis.extent), (unit,)) for unit in ("cpu", "gpu")]
    ways = {_key(p): p for p in (*alone, *_cuts(node), chosen)}
    screened = {key: _time(node, [p], devices, threads, seconds)[0] for key, p in ways.items()}
    best = ways[min(screened, key=screened.__getitem__)]
    finalists = {_key(p): p for p in (*alone, best, chosen)}
    us = dict(zip(finalists, _time(node, list(finalists.values()), devices, threads, seconds)))
    return {
        "name": node.name,
        "op_type": node.op_type,
        "cpu_us": us[_key(alone[0])],
        "gpu_us": us[_key(alone[1])],
        "oracle_us": min(us.values()),
        "chosen_us": us[_key(chosen)],
        "predicted_us": chosen.predicted_us,
        "oracle": str(min(finalists.values(), key=lambda p: us[_key(p)])),
        "chosen": str(chosen),
    }


def _key(partition: Partition) -> tuple:
    """The same for partitions that run alike: a single piece covers the output along whichever axis it is named after."""
    return partition.devices if len(set(partition.devices)) == 1 else (partition.axis, partition.bounds, partition.devices, partition.halo)


def _cuts(node: Node) -> Iterator[Partition]:
    """Cuts in two, the GPU's piece first, at every tenth of each axis that is a legal place."""
    for axis in op_for(node).split_axes(node):
        bounds = {round(axis.extent * share / axis.multiple) * axis.multiple for share in SHARES}
        for bound in sorted(b for b in bounds if 0 < b < axis.extent):
            yield cut(node, axis, (0, bound, axis.extent), ("gpu", "cpu"))


def _time(node: Node, partitions: Sequence[Partition], devices: Mapping[str, Device], threads: Mapping[str, int], seconds: float) -> list[float]:
    """Microseconds of that operator under each of the partitions, taken in turns, without copying feeds in and results out."""
    feeds = {v.name: _feed(v) for v in by_itself(node).inputs}

    def prepare(partition: Partition, count: int) -> PreparedRun:
        graph, plan = in_a_row(node, partition, count)
        made = PreparedRun(graph, plan, devices, threads["gpu" if "gpu" in partition.devices else "cpu"], one_by_one=True)
        made.run(feeds)
        return made

    with closing(prepare(partitions[0], 1)) as single:
        once_us = min(_once(single) for _ in range(LEAST_TURNS)) * 1e6
    count = int(min(max(RUN_US / max(once_us, 1.0), LEAST_REPEATS), MOST_REPEATS))
    with ExitStack() as stack:
        runs = [stack.enter_context(closing(prepare(partition, count))) for partition in partitions]
        times: list[list[float]] = [[] for _ in runs]
        turns, begun = orders(len(runs)), time.perf_counter()
        for turn in range(MOST_TURNS):
            for at in turns[turn % len(turns)]:
                times[at].append(_once(runs[at]))
            if turn + 1 >= LEAST_TURNS and time.perf_counter() - begun > seconds * len(runs):
                break
    return [statistics.median(t) * 1e6 / count for t in times]


def _once(prepared: PreparedRun) -> float:
    """Seconds of a run."""
    queues = tuple(prepared.queues.values())
    for queue in queues:
        queue.begin_run()
    try:
        started = time.perf_counter()
        for action in prepared.hot:
            action()
        return time.perf_counter() - started
    finally:
        for queue in queues:
            queue.end_run()


def _feed(value: Any) -> np.ndarray:
    # Zeros are legal indices; floats away from zero make no denormals.
    if value.dtype.kind != "f":
        return np.zeros(value.shape, value.dtype)
    return (np.random.default_rng(0).random(value.shape, np.float32) + np.float32(0.01)).astype(value.dtype)
