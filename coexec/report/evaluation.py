"""How well a profile predicts operators of whole models that took no part in fitting it, beside how well they repeat themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..cost.compose import CostModel
from ..devices.base import Device
from ..errors import DeviceError
from ..graph.ir import Graph, Node
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..profiling.fit import accuracy
from ..profiling.measure import Bench
from ..profiling.run import fixed_costs
from ..regions import Region


@dataclass(frozen=True)
class Sample:
    """One operator on one unit: predicted, and measured twice, in microseconds."""

    model: str
    node: str
    op_type: str
    unit: str
    predicted_us: float
    measured_us: float
    again_us: float
    estimated: bool

    @property
    def error(self) -> float:
        """Relative; positive where the prediction is too long."""
        return self.predicted_us / self.measured_us - 1


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


def measure_operators(
    name: str,
    graph: Graph,
    profile: Any,
    devices: Mapping[str, Device],
    threads: int,
    seconds_each: float = 0.02,
    progress: Callable[[float, float, str], None] | None = None,
) -> list[Sample]:
    """Every distinct operator of a model, whole, on each unit of the profile that is here and has a kernel."""
    costs, nodes, found = CostModel(profile), list(candidates(graph)), []
    units = {u: d for u, d in devices.items() if u in costs.units}
    waits = {unit: fixed_costs(device, threads)["wait_us"] for unit, device in units.items()}
    for done, node in enumerate(nodes):
        whole = Region.whole(node.output.shape)
        for unit, device in units.items():
            if device.declines(node) is not None:
                continue
            predicted = costs.kernel(node, whole, unit)
            try:
                with Bench(device, node, whole, threads) as bench:
                    first, again = (bench.time(waits[unit], seconds_each).median_us for _ in range(2))
            except DeviceError:  # a driver that cannot run it: nothing to compare
                continue
            found.append(Sample(name, node.name, node.op_type, unit, predicted.us, first, again, predicted.estimated))
        if progress is not None:
            progress(done + 1, len(nodes), f"{name}: {node.op_type}")
    return found


def judge(samples: Iterable[Sample]) -> dict[str, Any]:
    """Per unit: shares of predictions within 5, 10 and 15 %, mean error, and the share of re-measurements within 10 % of their own mean."""
    samples, report = list(samples), {}
    for unit in ("cpu", "gpu"):
        mine = [s for s in samples if s.unit == unit]
        if mine:
            near = [abs(s.again_us - s.measured_us) <= 0.1 * (s.again_us + s.measured_us) for s in mine]
            report[unit] = accuracy([s.error for s in mine], round(sum(near) / len(near), 4))
    return report


def query_us(profile: Any, graph: Graph) -> float:
    """What one prediction takes, in microseconds, with nothing kept from earlier ones."""
    nodes = list(candidates(graph))
    if not nodes:
        return 0.0
    costs = CostModel(profile)
    started = time.perf_counter()
    for node in nodes:
        costs.kernel(node, Region.whole(node.output.shape), "cpu")
    return (time.perf_counter() - started) / len(nodes) * 1e6
