"""Every plan of a small graph, one after another: what the search of `coexec` is held against. Shares nothing with it but the cost model.

Clocks are played as `cost.compose.Run` documents them, by compiled loops; which piece needs which comes from the operators' regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from coexec.cost.compose import CostModel
from coexec.graph.ir import Graph, Node
from coexec.ops import op_for
from coexec.partition.plan import Partition, pieces
from coexec.regions import Region, subtract


class Tables(NamedTuple):
    """A graph's plans as numbers. `ways` per node; us of the pieces by (node, way), NaN where there is none; for each node up to some
    inputs that nodes made: which node (-1: none), and by (way of that node, way of this one) whether the host has to have waited, and by
    how many us the GPU's and the CPU's piece take longer for reading what the other side wrote.
    """

    count: np.ndarray
    gpu_us: np.ndarray
    cpu_us: np.ndarray
    made_by: np.ndarray
    needs: np.ndarray
    longer_gpu: np.ndarray
    longer_cpu: np.ndarray
    fixed: np.ndarray  # launch, sync, ready, copies


def tables(graph: Graph, cost: CostModel, ways: Sequence[Sequence[Partition]]) -> Tables:
    """Only for boards with one memory, and graphs without views and Concats."""
    n, most = len(graph.nodes), max(map(len, ways))
    degree = max(1, max(len(node.inputs) for node in graph.nodes))
    found = Tables(np.array([len(w) for w in ways]), np.full((n, most), np.nan), np.full((n, most), np.nan), np.full((n, degree), -1),
                   np.zeros((n, degree, most, most), bool), np.zeros((n, degree, most, most)), np.zeros((n, degree, most, most)), _fixed(graph, cost))
    number = {node: i for i, node in enumerate(graph.nodes)}
    parts = [[dict(pieces(node, p)) for p in mine] for node, mine in zip(graph.nodes, ways)]
    for i, node in enumerate(graph.nodes):
        for o, there in enumerate(parts[i]):
            for unit, us in (("gpu", found.gpu_us), ("cpu", found.cpu_us)):
                if unit in there:
                    us[i, o] = cost.kernel(node, there[unit], unit).us * (cost.busy(node, there[unit], unit) if len(there) > 1 else 1.0)
            if "gpu" in there:
                found.gpu_us[i, o] += sum(cost.crossing_us("gpu", r.size * v.dtype.itemsize) for v, r in _reads(node, there["gpu"])
                                          if v not in graph.producers)
        for at, value in enumerate(node.inputs):
            if value is None or value.is_constant or value not in graph.producers:
                continue
            p = found.made_by[i, at] = number[graph.producers[value]]
            for q, made in enumerate(parts[p]):
                for o, there in enumerate(parts[i]):
                    of_gpu, of_cpu = (_across(node, at, there.get(mine), made.get(mine), made.get(other)) for mine, other in
                                      (("cpu", "gpu"), ("gpu", "cpu")))
                    found.needs[i, at, q, o] = of_gpu > 0
                    found.longer_cpu[i, at, q, o] = cost.crossing_us("cpu", of_gpu * value.dtype.itemsize)
                    found.longer_gpu[i, at, q, o] = cost.crossing_us("gpu", of_cpu * value.dtype.itemsize)
    return found


def _fixed(graph: Graph, cost: CostModel) -> np.ndarray:
    gpu = cost.profile.gpu
    copied = sum(v.type.nbytes for v in (*graph.inputs, *graph.outputs))
    return np.array([gpu.launch_us, gpu.sync_us, gpu.sync_us if gpu.ready_us is None else gpu.ready_us,
                     2 * copied / (cost.profile.cpu.bandwidth_gbs * 1e3)])


def _reads(node: Node, region: Region) -> list[tuple]:
    return [(v, r) for v, r in zip(node.inputs, op_for(node).regions_read(node, region)) if v is not None and r is not None and not v.is_constant]


def _across(node: Node, at: int, region: Region | None, own: Region | None, other: Region | None) -> int:
    """Elements that a piece reads of its input `at` which the other side alone wrote."""
    if region is None or other is None:
        return 0
    read = op_for(node).regions_read(node, region)[at]
    return sum(r.size for r in subtract([read & other], [own] if own is not None else []))


def best(t: Tables, prune: bool) -> tuple[float, list[int], int]:
    """The least microseconds of all plans, the ways of that plan, and how many beginnings were looked at.

    prune: a beginning is left where its clocks, and what is left to do on both together, say that it cannot become the best.
    """
    both = np.nan_to_num(t.gpu_us) + np.nan_to_num(t.cpu_us) + t.fixed[0] * ~np.isnan(t.gpu_us)
    least = np.array([row[:count].min() for row, count in zip(both, t.count)])
    rest = np.append(least[::-1].cumsum()[::-1], 0.0)
    us, ways, looked = _best(*t, rest, prune)
    return us, ways.tolist(), looked


@numba.njit(cache=False)
def _best(count, gpu_us, cpu_us, made_by, needs, longer_gpu, longer_cpu, fixed, rest, prune):  # pragma: no cover - compiled
    n = len(count)
    launch, sync, ready, copies = fixed
    way = np.full(n, -1)
    host, gpu, done = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n)
    waited, last = np.full(n + 1, -1), np.full(n + 1, -1)
    least, chosen, looked = np.inf, np.full(n, -1), 0
    i = 0
    while i >= 0:
        way[i] += 1
        if way[i] == count[i]:
            way[i] = -1
            i -= 1
            continue
        looked += 1
        o = way[i]
        h, g, w, l = host[i], gpu[i], waited[i], last[i]
        need, more_gpu, more_cpu = -1, 0.0, 0.0
        for d in range(made_by.shape[1]):
            p = made_by[i, d]
            if p >= 0:
                if needs[i, d, way[p], o] and p > w:
                    need = max(need, p)
                more_gpu += longer_gpu[i, d, way[p], o]
                more_cpu += longer_cpu[i, d, way[p], o]
        if not np.isnan(gpu_us[i, o]):
            h += launch
            g = max(g, h) + gpu_us[i, o] + more_gpu
            done[i], l = g, i
        if need >= 0:
            h, w = max(h + ready, done[need] + sync), need
        if not np.isnan(cpu_us[i, o]):
            h += cpu_us[i, o] + more_cpu
        if prune and (h >= least or g >= least or (h + g + rest[i + 1]) / 2 >= least):
            continue
        host[i + 1], gpu[i + 1], waited[i + 1], last[i + 1] = h, g, w, l
        if i + 1 < n:
            i += 1
            continue
        end = max(h + ready, g + sync) if l > w else h
        if end < least:
            least = end
            chosen[:] = way
    return least + copies, chosen, looked
