"""coexec: the default. A beam search over the whole graph, every candidate played on the two clocks of the cost model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...cost.compose import HOST, CostModel, Option, Run
from ...errors import UsageError
from ...graph.ir import Node, Value
from ...ops.base import SplitAxis
from ...regions import Region
from ..plan import Partition, cut, on_one_device, pieces
from .base import Partitioner, Situation, register

#: At most so many cuts of an axis are priced, and so many of them offered to the search.
PRICED, OFFERED = 28, 2
#: Axes that are tried: of the many of a large tensor, the first are those that kernels like.
AXES = 2


@register
@dataclass(frozen=True)
class Coexec(Partitioner):
    """For every node the CPU whole, the GPU whole, or a cut of an axis where both end together, launches and waits included.

    Nodes are placed in order; the `beam` best beginnings are kept at every node, so that a choice is judged by what follows from it.
    Cuts lie where kernels like them, where those of the inputs lie, and where the CPU reads only what it made itself, so that it need
    not wait. Where the CPU or the GPU alone is predicted to be faster, that is the plan.
    """

    name = "coexec"
    needs_profile = True
    beam: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= 64:
            raise UsageError("option 'beam' of strategy 'coexec' is wrong", found=self.beam, expected="a whole number from 1 to 64")

    def arrange(self, situation: Situation) -> list[Partition]:
        graph, cost = situation.graph, situation.cost
        settled = [situation.settled(n) for n in graph.nodes]
        plans = [[s or on_one_device(n, "cpu") for n, s in zip(graph.nodes, settled)]]
        if not all(settled):
            plans.append([s or on_one_device(n, "gpu") for n, s in zip(graph.nodes, settled)])
            plans.append(self._search(situation, settled))
        return min(plans, key=lambda p: cost.total_us(graph, p))

    def _search(self, situation: Situation, settled: Sequence[Partition | None]) -> list[Partition]:
        offers = Offers(situation.cost, [(n, s) for n, s in zip(situation.graph.nodes, settled)])
        states = [_State(Run(situation.cost), None)]
        for node, only in zip(situation.graph.nodes, settled):
            grown = []
            for state in states:
                for option in offers.of(node, only, state):
                    finish, host = state.run.preview(option)
                    # Between equals, fewer waits and fewer launches: what was not predicted tends to make them dearer.
                    grown.append((finish, host, len(option.parts), len(grown), state, option))
            states = [_grow(state, option, node) for *_, state, option in survivors(grown, self.beam)]
        return min(states, key=lambda s: s.run.end(situation.graph)).partitions()


class _State:
    """A beginning of a plan: its clocks, and its last partition with a link to the one before."""

    __slots__ = ("run", "before", "partition", "made_last")

    def __init__(self, run: Run, before: _State | None, partition: Partition | None = None, node: Node | None = None):
        self.run, self.before, self.partition = run, before, partition
        self.made_last: tuple[Value, Partition] | None = (node.output, partition) if node is not None and partition.axis else None

    def partitions(self) -> list[Partition]:
        found, state = [], self
        while state.before is not None:
            found.append(state.partition)
            state = state.before
        return found[::-1]

    def made(self, value: Value, reach: int = 8) -> Partition | None:
        """The partition of the node that made that value, if it is among the last few."""
        state: _State | None = self
        while state is not None and reach:
            if state.made_last is not None and state.made_last[0] is value:
                return state.made_last[1]
            state, reach = state.before, reach - 1
        return None


def _grow(state: _State, option: Option, node: Node) -> _State:
    run = state.run.copy()
    run.step(node, option.parts, (option.gpu_us, option.cpu_us))
    return _State(run, state, option.partition, node)


def survivors(grown: list[tuple], beam: int) -> list[tuple]:
    """The `beam` that would finish first, and the best of each way to place the last node: what pays off later may look dear now.

    Each is (finish, host, pieces, number, state, option).
    """
    grown.sort(key=lambda g: g[:4])
    kept, ways = [], set()
    for entry in grown:
        partition = entry[5].partition
        way = (partition.axis if len(partition.devices) > 1 else None, partition.devices)
        if len(kept) < beam or way not in ways:
            kept.append(entry)
            ways.add(way)
    return kept


@dataclass
class _Grid:
    """The priced cuts of an axis: places, and what the GPU's and the CPU's piece take there: microseconds, slow-down, estimated or not."""

    axis: SplitAxis
    at: np.ndarray
    gpu: np.ndarray
    cpu: np.ndarray

    @cached_property
    def beside(self) -> tuple[np.ndarray, np.ndarray]:
        """Microseconds of both pieces, each slowed down by the other."""
        return self.gpu[0] * self.gpu[1], self.cpu[0] * self.cpu[1]

    def between(self, at: int) -> tuple[float, float]:
        """Microseconds of the pieces of a cut, between priced ones interpolated."""
        gpu, cpu = self.beside
        return float(np.interp(at, self.at, gpu)), float(np.interp(at, self.at, cpu))


@dataclass
class Offers:
    """What may be done with each node, priced. All pieces of a graph are priced in one go; nodes that are alike share the prices."""

    cost: CostModel
    nodes: Sequence[tuple[Node, Partition | None]]
    _grids: dict[int, list[_Grid]] = field(default_factory=dict)
    _always: dict[Node, list[Option]] = field(default_factory=dict)
    _cuts: dict[tuple[int, str, int], tuple] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted, asks, grids = [], [], []  # type: ignore[var-annotated]
        for node, only in self.nodes:
            if only is not None:
                wanted += [(node, d, [r]) for d, r in pieces(node, only)]
                continue
            like = self.cost.like(node)
            if like in self._grids:
                continue
            axes = [a for a in self.cost.op(node).split_axes(node)[:AXES] if a.extent > a.multiple]
            found = self._grids[like] = [(a, np.array(cuts)) for a in axes if (cuts := places(a))]  # type: ignore[assignment]
            whole = np.zeros((1, len(node.output.shape)), np.int64), np.array([node.output.shape], np.int64)
            parts = [two_sides(node, axis, cuts) for axis, cuts in found]
            asks += [(node, "gpu", [whole, *(first for first, _ in parts)]), (node, HOST, [whole, *(second for _, second in parts)])]
            grids.append((node, like, found))
        self.cost.prepare(wanted)
        prices = [np.stack(answer).astype(float) for answer in self.cost.price(asks)]
        for number, (node, like, found) in enumerate(grids):
            ends = np.cumsum([1, *(len(cuts) for _, cuts in found)])[:-1]
            whole = Region.whole(node.output.shape)
            sides = []
            for unit, answer in zip(("gpu", HOST), prices[2 * number:2 * number + 2]):
                first, *rest = np.split(answer, ends, axis=1)
                self.cost.keep(node, unit, whole, *first[:, 0].tolist())
                sides.append(rest)
            self._grids[like] = [_Grid(axis, cuts, gpu, cpu) for (axis, cuts), gpu, cpu in zip(found, *sides)]

    def of(self, node: Node, only: Partition | None, state: _State) -> Iterator[Option]:
        """The options of a node after that beginning."""
        always = self._always.get(node)
        if always is None:
            always = self._always[node] = [self._only(node, only)] if only is not None else list(self._usual(node))
        yield from always
        if only is None:
            taken = {(o.partition.axis, o.partition.bounds) for o in always}
            for grid, at in self._following(node, state):
                if (grid.axis.name, (0, at, grid.axis.extent)) not in taken:
                    taken.add((grid.axis.name, (0, at, grid.axis.extent)))
                    yield self._cut(node, grid, at)

    def _only(self, node: Node, only: Partition) -> Option:
        parts = pieces(node, only)
        view = node.is_static and self.cost.op(node).is_view and node.output is not None
        us = {d: self.cost.kernel(node, r, d).us for d, r in parts}
        if view:
            return Option(only, tuple(parts), None, None, (), True)
        return Option(only, tuple(parts), us.get("gpu"), us.get(HOST), self._read(node, parts))

    def _usual(self, node: Node) -> Iterator[Option]:
        whole = Region.whole(node.output.shape)
        for unit in (HOST, "gpu"):
            us = self.cost.kernel(node, whole, unit).us
            parts = ((unit, whole),)
            yield Option(on_one_device(node, unit), parts, us if unit == "gpu" else None, us if unit == HOST else None,
                         self._read(node, parts))
        launch = self.cost.profile.gpu.launch_us
        for grid in self._grids[self.cost.like(node)]:
            for index in np.argsort(launch + np.maximum(*grid.beside), kind="stable")[:OFFERED]:
                yield self._cut(node, grid, int(grid.at[index]))

    def _cut(self, node: Node, grid: _Grid, at: int) -> Option:
        partition = cut(node, grid.axis, (0, at, grid.axis.extent), ("gpu", HOST))
        kind = self.cost.like(node), grid.axis.name, at
        told = self._cuts.get(kind)
        if told is None:
            told = self._cuts[kind] = self._priced(node, grid, at)
        parts, gpu_us, cpu_us = told
        return Option(partition, parts, gpu_us, cpu_us, self._read(node, parts))

    def _priced(self, node: Node, grid: _Grid, at: int) -> tuple[tuple[tuple[str, Region], ...], float, float]:
        """The pieces of a cut and what they take, the same for all nodes that are alike."""
        whole = Region.whole(node.output.shape)
        parts = (("gpu", whole.replace(grid.axis.dim, (0, at))), (HOST, whole.replace(grid.axis.dim, (at, grid.axis.extent))))
        found = int(np.searchsorted(grid.at, at))
        if found < len(grid.at) and grid.at[found] == at:
            gpu_us, cpu_us = (float(side[found]) for side in grid.beside)
            for (unit, region), side in zip(parts, (grid.gpu, grid.cpu)):
                self.cost.keep(node, unit, region, *side[:, found].tolist())
        else:
            gpu_us, cpu_us = grid.between(at)
        return parts, gpu_us, cpu_us

    def _read(self, node: Node, parts: Sequence[tuple[str, Region]]) -> tuple[tuple[Value, Region], ...]:
        """What the CPU's piece reads."""
        for device, region in parts:
            if device == HOST:
                return self.cost.access(node, region).reads
        return ()

    def _following(self, node: Node, state: _State) -> Iterator[tuple[_Grid, int]]:
        """Cuts that suit those of the inputs: at the same share, and where the CPU's piece reads only what the CPU made."""
        for value in node.inputs:
            made = state.made(value) if value is not None and not value.is_constant else None
            if made is None or len(made.devices) != 2:
                continue
            for grid in self._grids[self.cost.like(node)]:
                axis = grid.axis
                if axis.name != made.axis:
                    continue
                same = round(made.bounds[1] / made.bounds[-1] * axis.extent / axis.multiple) * axis.multiple
                pads, strides = node.attr("pads"), node.attr("strides")
                halo = 0
                if pads and axis.dim >= 2 and axis.dim - 2 < len(pads) // 2:
                    stride = strides[axis.dim - 2] if strides else 1
                    halo = -(-(made.bounds[1] + pads[axis.dim - 2]) // stride) - same
                for at in dict.fromkeys((same, same + halo)):
                    if 0 < at < axis.extent and at % axis.multiple == 0:
                        yield grid, at


def two_sides(node: Node, axis: SplitAxis, cuts: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(starts, stops) of what lies before each cut, and of what lies behind it."""
    zero = np.zeros((len(cuts), len(node.output.shape)), np.int64)
    whole = zero + np.array(node.output.shape)
    before, behind = whole.copy(), zero.copy()
    before[:, axis.dim] = behind[:, axis.dim] = cuts
    return (zero, before), (behind, whole)


def places(axis: SplitAxis) -> list[int]:
    """Cuts of an axis that are worth pricing: legal ones, of channels such that blocks of channels stay whole, not too many."""
    step = axis.multiple
    if axis.name in ("channel", "columns"):
        for block in (8, 16, 32):
            if axis.multiple < block and axis.extent >= 8 * block:
                step = -(-block // axis.multiple) * axis.multiple
    count = -(-axis.extent // step) - 1
    if count <= PRICED:
        return [n * step for n in range(1, count + 1)]
    return sorted({max(1, round(n * (count + 1) / (PRICED + 1))) * step for n in range(1, PRICED + 1)})
