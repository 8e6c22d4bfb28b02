"""The search of `coexec`: all beginnings of plans that may still become the best, played at once as arrays of clocks.

A beginning is known by its two clocks and by what later nodes can notice of it: how each value that is still to be read was cut, and
which GPU pieces the host has not waited for. Of two beginnings that agree in the latter, one that is behind in every clock can never win
(`cost.compose.Run` ends no earlier for beginning later): it is given up, and so is one whose lower bound is no better than a plan that is
known already. As long as nothing else has to be given up, the best plan of all those that were offered is found. Where more than `width`
beginnings are left, the most promising stay, and the smallest lower bound of the others says how far from the best the plan may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...cost.compose import HOST, CostModel
from ...graph.ir import Graph, Node, Value
from ...ops.fallback import is_fallback
from ...regions import Region
from ..joins import joined, places
from .offers import Way

#: How the two clocks are weighed in lower bounds: a plan ends no earlier than any mean of what both have to do.
WEIGHTS = np.array([0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0])
#: Of beginnings that agree in what can be noticed of them, each is compared with so many that are less far on the host's clock.
NEIGHBOURS = 12
#: Two times this close (of the longer one) are one: sums of the same numbers in another order differ by less.
SAME = 1e-9
#: The clock of a beginning that cannot be.
NEVER = 1e30

Boxes = np.ndarray  # int64 (ways, rank, 2): starts and stops; empty boxes where a way has no such piece


class Read(NamedTuple):
    """What the ways of a node read of one value that a node made: boxes of the GPU's and of the CPU's pieces."""

    value: Value
    gpu: Boxes
    cpu: Boxes


@dataclass
class Stage:
    """A node as the search sees it: what each of its ways takes, reads and writes."""

    node: Node
    ways: Sequence[Way]
    view: bool = False
    joined: bool = False
    gpu_us: np.ndarray = field(default_factory=lambda: np.zeros(1))
    cpu_us: np.ndarray = field(default_factory=lambda: np.zeros(1))
    has_gpu: np.ndarray = field(default_factory=lambda: np.zeros(1, bool))
    #: Bytes that the GPU's pieces read of the graph's inputs.
    given: np.ndarray = field(default_factory=lambda: np.zeros(1))
    reads: list[Read] = field(default_factory=list)
    #: Of each output: boxes of the GPU's and of the CPU's pieces.
    writes: list[tuple[Value, Boxes, Boxes]] = field(default_factory=list)
    #: What the objective counts for each way itself.
    own: np.ndarray = field(default_factory=lambda: np.zeros(1))
    #: Another branch runs beside this node: it neither reads what this one makes, nor makes what this one reads.
    beside: bool = False


class Found(NamedTuple):
    """The best plan that was met, its value (what the objective counts), a lower bound on the value of every plan of those offered, and how
    many beginnings were looked at.
    """

    ways: list[Way] | None
    value: float
    bound: float
    beginnings: int


class Objective(NamedTuple):
    """What a plan's value is: microseconds until the end, and microseconds that the CPU and the GPU work, each times a weight; so much for
    every wait; and for every way of every node something of its own (None: nothing).
    """

    end: float = 1.0
    cpu: float = 0.0
    gpu: float = 0.0
    wait: float = 0.0
    own: Callable[[Node, Way], float] | None = None


class Search:
    """Best plans of a graph from the ways that are offered. `branches` False: judged as if no branch ran beside another."""

    def __init__(self, cost: CostModel, graph: Graph, ways: Sequence[Sequence[Way]], branches: bool = True, objective: Objective = Objective()):
        self.cost, self.graph, self.branches, self.objective = cost, graph, branches, objective
        gpu = cost.profile.gpu
        self.launch_us, self.sync_us = gpu.launch_us, gpu.sync_us
        self.ready_us = gpu.sync_us if gpu.ready_us is None else gpu.ready_us
        self.around_us = cost.around_us(graph, HOST)
        self._placed: dict[Value, list[tuple[Value, Region]]] = {}  # of a joined Concat's output: inputs and their places
        self._rows: dict[Any, tuple] = {}
        self._known_boxes: dict[tuple[int, ...], tuple[list, list]] = {}  # the ways, which live as long, hold what is told apart by identity
        self._spends = objective[1:] != Objective()[1:]
        self.stages = self._stages(graph, ways)
        self.last_use = self._last_uses()
        self.rest, self.rest_own = self._rest()
        self._tables: dict[tuple[int, ...], tuple] = {}

    # What the graph is like

    def _stages(self, graph: Graph, ways: Sequence[Sequence[Way]]) -> list[Stage]:
        free, stages, made = joined(graph), [], set()
        beside = set() if self.branches else _beside(graph)
        for node, mine in zip(graph.nodes, ways):
            stage = Stage(node, mine, beside=node in beside)
            op = self.cost.op(node)
            if node in free:
                stage.joined = True
                self._placed[node.output] = [(v, place) for v, place in places(node).items()]
            elif node.is_static and op.is_view:
                stage.view = True
            else:
                stage.gpu_us = np.array([w.gpu_us or 0.0 for w in mine])
                stage.cpu_us = np.array([w.cpu_us or 0.0 for w in mine])
                stage.has_gpu = np.array([w.gpu_us is not None for w in mine])
                self._touched(stage, made)
            made.update(v for v in node.outputs if v is not None)
            stages.append(stage)
        return stages

    def _touched(self, stage: Stage, made: set[Value]) -> None:
        node = stage.node
        read, written = self._boxes(stage)
        stage.given = np.zeros(len(stage.ways))
        for at, value in enumerate(node.inputs):
            if value is None or value.is_constant or not value.type.is_static:
                continue
            for source, a, b in self._sources(value, *read[at]):
                if source in made:
                    stage.reads.append(Read(source, a, b))
                else:
                    stage.given = stage.given + _volume(a) * source.dtype.itemsize
        for at, value in enumerate(node.outputs):
            if value is not None and value.type.is_static:
                stage.writes.append((value, *written[at]))
        if self.cost.shared:
            stage.gpu_us = stage.gpu_us + self.cost.crossing_us("gpu", stage.given)

    def _boxes(self, stage: Stage) -> tuple[list, list]:
        """Of each input and of each output the boxes of the GPU's and of the CPU's pieces, way by way. Nodes that are alike share them."""
        node = stage.node
        key = self.cost.like(node), *(id(w.parts) for w in stage.ways)
        found = self._known_boxes.get(key)
        if found is None:
            nowhere = self._row(node, None)
            rows = [(self._row(node, there["gpu"]) if "gpu" in there else nowhere, self._row(node, there[HOST]) if HOST in there else nowhere)
                    for there in (dict(w.parts) for w in stage.ways)]
            found = self._known_boxes[key] = tuple(  # type: ignore[assignment]
                [None if rows[0][0][kind][at] is None else tuple(np.array([row[side][kind][at] for row in rows]) for side in (0, 1))
                 for at in range(len(values))] for kind, values in enumerate((node.inputs, node.outputs)))
        return found

    def _row(self, node: Node, region: Region | None) -> tuple[list, list]:
        """Boxes that a piece reads of each input that is no constant, and writes of each output; None: no piece. Kept for nodes that are alike."""
        key = self.cost.like(node), region
        found = self._rows.get(key)
        if found is None:
            op = self.cost.op(node)
            if region is None:
                read, written = [None] * len(node.inputs), [None] * len(node.outputs)
            elif is_fallback(op):
                read, written = ([None if v is None or not v.type.is_static else Region.whole(v.shape) for v in values]
                                 for values in (node.inputs, node.outputs))
            else:
                read, written = op.regions_read(node, region), op.output_regions(node, region)
            moving = [None if v is None or v.is_constant else v for v in node.inputs]
            found = self._rows[key] = [v and _box(v, r) for v, r in zip(moving, read)], [_box(*v) for v in zip(node.outputs, written)]
        return found

    def _sources(self, value: Value, gpu: Boxes, cpu: Boxes) -> list[tuple[Value, Boxes, Boxes]]:
        """Where what is read of a value really lies: the inputs of a joined Concat lie in its output."""
        if value not in self._placed:
            return [(value, gpu, cpu)]
        found = []
        for source, place in self._placed[value]:
            box = np.array(place, np.int64).reshape(1, -1, 2)
            inside = [_clip(boxes, box) - box[..., :1] for boxes in (gpu, cpu)]
            found += self._sources(source, *inside)
        return found

    def _roots(self, value: Value) -> list[Value]:
        return [value] if value not in self._placed else [r for v, _ in self._placed[value] for r in self._roots(v)]

    def _last_uses(self) -> dict[Value, int]:
        last: dict[Value, int] = {}
        for position, stage in enumerate(self.stages):
            read = [r.value for r in stage.reads]
            if stage.view and not stage.node.inputs[0].is_constant:
                read = self._roots(stage.node.inputs[0])
            last.update(dict.fromkeys(read, position))
        if not self.cost.shared:
            last.update(dict.fromkeys((r for v in self.graph.outputs for r in self._roots(v)), len(self.stages)))
        return last

    def _rest(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 (weights, stages + 1): what the stages from there on add at least to each weighted mean of the clocks; and (stages + 1) what
        they add at least besides.
        """
        each, own, goal = np.zeros((len(WEIGHTS), len(self.stages) + 1)), np.zeros(len(self.stages) + 1), self.objective
        for at, stage in enumerate(self.stages):
            host = stage.cpu_us + self.launch_us * stage.has_gpu
            each[:, at] = (WEIGHTS[:, None] * host + (1 - WEIGHTS[:, None]) * stage.gpu_us).min(axis=1)
            stage.own = np.array([goal.own(stage.node, w) for w in stage.ways]) if goal.own is not None else np.zeros(len(stage.ways))
            own[at] = (stage.own + goal.cpu * host + goal.gpu * stage.gpu_us).min()
        return each[:, ::-1].cumsum(axis=1)[:, ::-1], own[::-1].cumsum()[::-1]

    # The search

    def improve(self, width: int, known: Found) -> tuple[Found, float, int]:
        """The best plan that is known after another search, the better of both lower bounds, and how many beginnings that search looked at."""
        found = self.run(width, known.value)
        best = known if found.ways is None else found
        return best, max(known.bound, min(best.value, found.bound)), found.beginnings

    def run(self, width: int, known: float = np.inf) -> Found:
        """The best plan of less than that value; `ways` are None where there is none among those that were looked at."""
        zero = np.zeros(1)
        host, gpu = zero, zero.copy()
        waited, last, spent = np.full(1, -1), np.full(1, -1), np.zeros(1)
        columns: dict[Value, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # choice, which stage's GPU piece wrote it, when that ends
        writes: dict[Value, tuple[Boxes, Boxes]] = {}
        steps: list[tuple[np.ndarray, np.ndarray]] = []
        lost, looked, goal = np.inf, 0, self.objective
        limit = min(known - goal.end * self.around_us, NEVER / 8)
        for position, stage in enumerate(self.stages):
            if stage.joined:
                steps.append((np.arange(len(host)), np.zeros(len(host), int)))
                continue
            if stage.view:
                host, known_to, moved = self._view(stage, position, host, waited, columns, writes)
                spent = spent + goal.cpu * moved + goal.wait * (known_to > waited)
                waited = known_to
                steps.append((np.arange(len(host)), np.zeros(len(host), int)))
                continue
            if stage.beside:
                host = gpu = np.maximum(host, gpu)
            grown = self._grow(stage, position, host, gpu, waited, last, spent, columns, writes)
            new_host, new_gpu, new_waited, new_last, new_spent = (a.ravel() for a in grown)
            count, ways = len(host), len(stage.ways)
            looked += count * ways
            bound = (WEIGHTS[:, None] * new_host + (1 - WEIGHTS[:, None]) * new_gpu + self.rest[:, position + 1][:, None]).max(axis=0)
            bound = goal.end * bound + new_spent + self.rest_own[position + 1]
            kept = np.flatnonzero(bound < limit * (1 - SAME))
            if not len(kept):
                return Found(None, known, min(known, lost + goal.end * self.around_us), looked)
            live = {v: c for v, c in columns.items() if self.last_use.get(v, -1) > position}
            born = {v: w for v, *w in stage.writes if self.last_use.get(v, -1) > position}
            parent, way = kept // ways, kept % ways
            kept, left = self._select(width, kept, parent, way, stage, bound, (new_host, new_gpu, new_waited, new_last, new_spent), live, born)
            lost = min(lost, left)
            parent, way = kept // ways, kept % ways
            host, gpu, waited, last, spent = new_host[kept], new_gpu[kept], new_waited[kept], new_last[kept], new_spent[kept]
            columns = {v: tuple(a[parent] for a in c) for v, c in live.items()}  # type: ignore[misc]
            writes = {v: w for v, w in writes.items() if v in columns}
            for value, boxes in born.items():
                columns[value] = way, np.where(stage.has_gpu[way], position, -1), gpu
                writes[value] = tuple(boxes)  # type: ignore[assignment]
            steps.append((parent, way))
        values = goal.end * self._ends(host, gpu, waited, last, columns, writes) + spent
        best = int(np.argmin(values))
        lost += goal.end * self.around_us
        if not values[best] < known:
            return Found(None, known, min(known, lost), looked)
        chosen, at = [], best
        for stage, (parent, way) in zip(reversed(self.stages), reversed(steps)):
            chosen.append(stage.ways[way[at]])
            at = parent[at]
        return Found(chosen[::-1], float(values[best]), min(float(values[best]), lost), looked)

    def _grow(self, stage: Stage, position: int, host: np.ndarray, gpu: np.ndarray, waited: np.ndarray, last: np.ndarray, spent: np.ndarray,
              columns: dict, writes: dict) -> tuple[np.ndarray, ...]:
        """(beginnings, ways): both clocks after each way, which piece was waited for last, which was started last, and what was spent besides
        time. Impossible: NEVER.
        """
        cost, shape = self.cost, (len(host), len(stage.ways))
        need = np.full(shape, -1)
        done = np.full(shape, -np.inf)
        crossed_gpu, crossed_cpu = np.zeros(shape), np.zeros(shape)
        impossible = np.zeros(shape, bool)
        for read in stage.reads:
            choice, start, ended = columns[read.value]
            boxes = *writes[read.value], read.gpu, read.cpu
            key = tuple(map(id, boxes))  # nodes that are alike share them
            if key not in self._tables:
                self._tables[key] = boxes, _meeting(*boxes)  # what is told apart by identity must live as long
            needs, to_gpu, to_cpu, cannot = self._tables[key][1]
            pending = needs[choice] & (start > waited)[:, None]
            need = np.where(pending, np.maximum(need, start[:, None]), need)
            done = np.where(pending, np.maximum(done, ended[:, None]), done)
            size = read.value.dtype.itemsize
            crossed_gpu += to_gpu[choice] * size
            crossed_cpu += to_cpu[choice] * size
            if cannot is not None:
                impossible |= cannot[choice]
        launch_us = stage.has_gpu * self.launch_us
        if cost.shared:
            gpu_us = stage.gpu_us + cost.crossing_us("gpu", crossed_gpu)
            after = cost.crossing_us(HOST, crossed_cpu) + stage.cpu_us
        else:
            launch_us = launch_us + self._moved_us(crossed_gpu + stage.given)
            gpu_us, after = stage.gpu_us, self._moved_us(crossed_cpu) + stage.cpu_us
        host = host[:, None] + launch_us
        gpu = np.where(stage.has_gpu, np.maximum(gpu[:, None], host + cost.begin_us) + gpu_us, gpu[:, None])
        host = np.where(need >= 0, np.maximum(host + self.ready_us, done + self.sync_us), host) + after
        host = np.where(impossible, NEVER, host)
        spent = np.broadcast_to(spent[:, None] + stage.own, shape)
        if self.objective.wait:
            spent = spent + self.objective.wait * (need >= 0)
        if self.objective.cpu or self.objective.gpu:
            spent = spent + self.objective.cpu * (launch_us + after) + self.objective.gpu * np.where(stage.has_gpu, gpu_us, 0.0)
        return host, gpu, np.maximum(waited[:, None], need), np.where(stage.has_gpu, position, last[:, None]), spent

    def _moved_us(self, nbytes: np.ndarray) -> np.ndarray:
        gpu = self.cost.profile.gpu
        return np.where(nbytes > 0, gpu.map_us + nbytes / ((gpu.transfer_gbs or 1.0) * 1e3), 0.0)

    def _view(self, stage: Stage, position: int, host: np.ndarray, waited: np.ndarray, columns: dict,
              writes: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A view passes on what is known where one side wrote it all; else the host is made to know it. Adds the output's column.

        The host's clock, what it waited for last, and how long it copied.
        """
        source, target = stage.node.inputs[0], stage.node.output
        any_gpu, all_gpu = np.zeros(len(host), bool), np.ones(len(host), bool)
        start, done, moved = np.full(len(host), -1), np.full(len(host), -np.inf), np.zeros(len(host))
        roots = [] if source.is_constant else [r for r in self._roots(source) if r in columns]
        for root in roots:
            choice, began, ended = columns[root]
            gpu_boxes, cpu_boxes = writes[root]
            by_gpu, by_cpu = _volume(gpu_boxes)[choice], _volume(cpu_boxes)[choice]
            wrote = by_gpu > 0
            any_gpu, all_gpu = any_gpu | wrote, all_gpu & wrote & (by_cpu == 0)
            start = np.where(wrote, np.maximum(start, began), start)
            done = np.where(wrote, np.maximum(done, ended), done)
            moved += by_gpu * root.dtype.itemsize
        all_gpu &= bool(roots)
        waits = any_gpu & ~all_gpu & (start > waited)
        host = np.where(waits, np.maximum(host + self.ready_us, done + self.sync_us), host)
        copied = np.zeros(len(host)) if self.cost.shared else np.where(any_gpu & ~all_gpu, self._moved_us(moved), 0.0)
        waited = np.where(waits, np.maximum(waited, start), waited)
        for value in [v for v in columns if self.last_use.get(v, -1) <= position]:
            del columns[value], writes[value]
        if self.last_use.get(target, -1) > position:
            columns[target] = all_gpu.astype(int), np.where(all_gpu, start, -1), done
            whole, none = _box(target, Region.whole(target.shape)), _box(target, None)
            writes[target] = np.array([none, whole]), np.array([whole, none])
        return host + copied, waited, copied

    def _select(self, width: int, kept: np.ndarray, parent: np.ndarray, way: np.ndarray, stage: Stage, bound: np.ndarray,
                clocks: tuple[np.ndarray, ...], live: dict, born: dict) -> tuple[np.ndarray, float]:
        """Which of the candidates `kept` go on, and the smallest lower bound among those given up for want of room."""
        host, gpu, waited, last, spent = (a[kept] for a in clocks)
        pending_end = last > waited
        key = pending_end.astype(np.int64)
        most = 2
        clock = [host, gpu, *([spent] if self._spends else [])]
        for value, (choice, start, done) in live.items():
            pending = start[parent] > waited
            key, most = _joined_key(key, most, choice[parent] * 2 + pending, 2 * (int(choice.max()) + 1))
            if pending.any():
                clock.append(np.where(pending, done[parent], 0.0))
        if born:
            key, most = _joined_key(key, most, way, len(stage.ways))
        order = np.lexsort((gpu, host, key))
        order = order[_undominated(key[order], [c[order] for c in clock])]
        if len(order) <= width:
            return kept[order], np.inf
        # The most promising, and the best of each way: what pays off later may look dear now.
        ends = np.where(pending_end[order], np.maximum(host[order] + self.ready_us, gpu[order] + self.sync_us), host[order])
        now = self.objective.end * (ends + np.maximum(host[order], gpu[order])) + 2 * spent[order]
        rank = np.argsort(now + bound[kept[order]], kind="stable")
        order = order[rank]
        first = np.zeros(len(order), bool)
        first[np.unique(way[order], return_index=True)[1]] = True
        first[:max(1, width - len(stage.ways) // 2)] = True
        chosen = np.flatnonzero(first)[:max(width, 1)]
        left = np.ones(len(order), bool)
        left[chosen] = False
        return kept[order[chosen]], float(bound[kept[order[left]]].min(initial=np.inf))

    def _ends(self, host: np.ndarray, gpu: np.ndarray, waited: np.ndarray, last: np.ndarray, columns: dict, writes: dict) -> np.ndarray:
        ends = np.where(last > waited, np.maximum(host + self.ready_us, gpu + self.sync_us), host)
        if not self.cost.shared:
            fetched = np.zeros(len(host))
            for value in {r for v in self.graph.outputs for r in self._roots(v)} & columns.keys():
                fetched += _volume(writes[value][0])[columns[value][0]] * value.dtype.itemsize
            ends = ends + self._moved_us(fetched)
        return ends + self.around_us


def _joined_key(key: np.ndarray, most: int, more: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """One number for both; counted anew before it would be too large."""
    if most * count > 1 << 60:
        key = np.unique(key, return_inverse=True)[1]
        most = len(key)
    return key * count + more, most * count


def _undominated(key: np.ndarray, clocks: list[np.ndarray]) -> np.ndarray:
    """Which rows, in order of key and first clock, are behind no near row of the same key in every clock. Of equal rows the first stays."""
    keep = np.ones(len(key), bool)
    for back in range(1, min(NEIGHBOURS, len(key) - 1) + 1):
        worse = key[back:] == key[:-back]
        if not worse.any():
            break
        for clock in clocks:
            worse = worse & (clock[:-back] <= clock[back:] * (1 + SAME))
        keep[back:] &= ~worse
    return np.flatnonzero(keep)


def _box(value: Value | None, region: Region | None) -> Sequence[tuple[int, int]]:
    """The intervals of a region, of one more axis where a tensor has none; empty ones for no region."""
    rank = len(value.shape) if value is not None and value.type.is_static else 0
    if region is None or not region.size:
        return ((0, 0),) * max(1, rank)
    return region if rank else ((0, 1),)


def _clip(boxes: Boxes, other: Boxes) -> Boxes:
    return np.stack([np.maximum(boxes[..., 0], other[..., 0]), np.minimum(boxes[..., 1], other[..., 1])], axis=-1)


def _volume(boxes: Boxes) -> np.ndarray:
    return np.maximum(boxes[..., 1] - boxes[..., 0], 0).prod(axis=-1)


def _meeting(gpu: Boxes, cpu: Boxes, gpu_reads: Boxes, cpu_reads: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """For each way to make a value (P) and each way to read it (O), arrays (P, O): whether the CPU's piece needs what the GPU wrote; elements
    that the GPU's piece reads of the CPU's, and the CPU's of the GPU's; where both computed a part of it, whether that way cannot follow.
    """
    of_gpu, of_cpu = _clip(cpu_reads[None], gpu[:, None]), _clip(gpu_reads[None], cpu[:, None])
    to_cpu, to_gpu = _volume(of_gpu), _volume(of_cpu)
    twice = _volume(_clip(gpu, cpu)) > 0
    if not twice.any():
        return to_cpu > 0, to_gpu, to_cpu, None
    to_cpu = to_cpu - np.minimum(_volume(_clip(of_gpu, cpu[:, None])), to_cpu)
    to_gpu = to_gpu - np.minimum(_volume(_clip(of_cpu, gpu[:, None])), to_gpu)
    return to_cpu > 0, to_gpu, to_cpu, twice[:, None] & ((to_cpu > 0) | (to_gpu > 0))


def _beside(graph: Graph) -> set[Node]:
    """The nodes that have a branch beside them: a node that neither leads to them nor follows from them."""
    before: dict[Node, int] = {}  # bits: which nodes lead here
    for number, node in enumerate(graph.nodes):
        mask = 1 << number
        for value in node.inputs:
            if value is not None and value in graph.producers:
                mask |= before[graph.producers[value]]
        before[node] = mask
    after = dict.fromkeys(graph.nodes, 0)
    for number, node in reversed(list(enumerate(graph.nodes))):
        after[node] |= 1 << number
        for value in node.inputs:
            if value is not None and value in graph.producers:
                after[graph.producers[value]] |= after[node]
    everything = (1 << len(graph.nodes)) - 1
    return {n for n in graph.nodes if before[n] | after[n] != everything}
