"""Each operator by itself: on one device, cut as the plan says, and in every sensible cut. How close a plan comes to the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..devices.base import Device
from ..graph.ir import Graph, Node
from ..ops import op_for
from ..partition.plan import Partition, Plan, cut
from ..profiling.measure import measure
from ..runtime.executor import PreparedRun
from .evaluation import candidates

#: Shares of the output tried on the GPU, besides all and nothing.
SHARES = tuple(i / 10 for i in range(1, 10))


def oracle(
    graph: Graph,
    plan: Plan,
    devices: Mapping[str, Device],
    threads: Mapping[str, int],
    seconds_each: float = 0.01,
    progress: Callable[[float, float, str], None] | None = None,
) -> dict[str, Any]:
    """`ops`, `oracle_speedup_geomean` and `chosen_speedup_geomean`, over operators that both devices run and that can be cut.

    threads: of the CPU by itself (`cpu`) and beside the GPU (`gpu`). Times include starting, sharing and waiting. Operators of the same
    shape are measured once.
    """
    nodes = [n for n in candidates(graph) if op_for(n).split_axes(n) and devices["gpu"].declines(n) is None]
    rows = []
    for done, node in enumerate(nodes):
        rows.append(_row(node, plan[node.name], devices, threads, seconds_each))
        if progress is not None:
            progress(done + 1, len(nodes), node.op_type)
    best = [min(r["cpu_us"], r["gpu_us"]) for r in rows]
    return {
        "ops": rows,
        "oracle_speedup_geomean": geomean([b / r["oracle_us"] for b, r in zip(best, rows)]),
        "chosen_speedup_geomean": geomean([b / r["chosen_us"] for b, r in zip(best, rows)]),
    }


def geomean(values: Sequence[float]) -> float | None:
    """The geometric mean; None of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _row(node: Node, chosen: Partition, devices: Mapping[str, Device], threads: Mapping[str, int], seconds: float) -> dict[str, Any]:
    found: dict[tuple, float] = {}

    def time(partition: Partition) -> float:
        # A single piece covers the output along whichever axis it is named after.
        key = partition.devices if len(set(partition.devices)) == 1 else (partition.axis, partition.bounds, partition.devices)
        if key not in found:
            found[key] = _time(node, partition, devices, threads, seconds)
        return found[key]

    axis = op_for(node).split_axes(node)[0]
    alone = {unit: time(cut(node, axis, (0, axis.extent), (unit,))) for unit in ("cpu", "gpu")}
    chosen_us = time(chosen)
    tried = [(time(p), p) for p in _cuts(node)]
    best = min([*tried, *((us, unit) for unit, us in alone.items()), (chosen_us, chosen)], key=lambda t: t[0])
    return {
        "name": node.name,
        "op_type": node.op_type,
        "cpu_us": alone["cpu"],
        "gpu_us": alone["gpu"],
        "oracle_us": best[0],
        "chosen_us": chosen_us,
        "predicted_us": chosen.predicted_us,
        "oracle": str(best[1]),
        "chosen": str(chosen),
    }


def _cuts(node: Node) -> Iterator[Partition]:
    """Cuts in two, the GPU's piece first, at every tenth of each axis that is a legal place."""
    for axis in op_for(node).split_axes(node):
        bounds = {round(axis.extent * share / axis.multiple) * axis.multiple for share in SHARES}
        for bound in sorted(b for b in bounds if 0 < b < axis.extent):
            yield cut(node, axis, (0, bound, axis.extent), ("gpu", "cpu"))


def _time(node: Node, partition: Partition, devices: Mapping[str, Device], threads: Mapping[str, int], seconds: float) -> float:
    """Microseconds of a run of that operator alone, without copying feeds in and results out."""
    inputs = tuple(dict.fromkeys(v for v in node.inputs if v is not None and not v.is_constant))
    graph = Graph(node.name, inputs, tuple(v for v in node.outputs if v is not None), (node,))
    plan = Plan(node.name, graph.digest, "oracle", (partition,))
    prepared = PreparedRun(graph, plan, devices, threads["gpu" if "gpu" in partition.devices else "cpu"])
    try:
        prepared.run({v.name: _feed(v) for v in inputs})
        queues = tuple(prepared.queues.values())

        def once() -> None:
            for action in prepared.hot:
                action()

        for queue in queues:
            queue.begin_run()
        try:
            return measure(once, min_seconds=seconds).median_us
        finally:
            for queue in queues:
                queue.end_run()
    finally:
        prepared.close()


def _feed(value: Any) -> np.ndarray:
    # Zeros are legal indices; floats away from zero make no denormals.
    if value.dtype.kind != "f":
        return np.zeros(value.shape, value.dtype)
    return (np.random.default_rng(0).random(value.shape, np.float32) + np.float32(0.01)).astype(value.dtype)
