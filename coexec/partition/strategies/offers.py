"""What may be done with each node, priced: the whole on one side, cuts where kernels like them and where neighbours are cut, halos."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...cost.compose import HOST, CostModel
from ...graph.ir import Graph, Node, Value
from ...ops.base import SplitAxis, axes_of
from ...regions import Region
from ..plan import Partition, on_one_device, pieces

#: At most so many cuts of an axis are priced, and so many of them offered for being the best by themselves.
PRICED, OFFERED = 32, 2
#: Channels that kernels make at once, on one device or another: cuts lie between such blocks, the smallest of which there are not too many.
BLOCKS = (4, 8, 16, 32)
#: At most so many cuts of an axis in all: beyond the best ones those that suit the inputs' cuts.
CUTS = 5
#: Axes that are tried: of the many of a large tensor, the first are those that kernels like.
AXES = 2
#: Halos offered for each of the best cuts, so many, every halo a longer chain; an operator that computes more than this share of its output twice
#: gains nothing.
HALOS, HALOED, MOST_TWICE = 2, 3, 0.25


@dataclass(frozen=True)
class Way:
    """A way to place a node: its pieces, and microseconds of the GPU's and the CPU's piece as they run in that company (None: no piece)."""

    partition: Partition
    parts: tuple[tuple[str, Region], ...]
    gpu_us: float | None
    cpu_us: float | None


@dataclass(frozen=True)
class Limits:
    """What may be offered. steps: cut at n/steps of an axis only; 0: where kernels like it. axis: cut that one only, where a node has it.

    chains: also cuts that suit the inputs' cuts, and halos. most_gpu: the largest share of an output that the GPU may compute.
    """

    steps: int = 0
    axis: str = ""
    chains: bool = True
    most_gpu: float = 1.0


@dataclass
class _Grid:
    """The priced cuts of an axis: places, and what the GPU's and the CPU's piece take there: microseconds, slow-down, estimated or not."""

    axis: SplitAxis
    at: np.ndarray
    gpu: np.ndarray
    cpu: np.ndarray
    #: By place and halo: pieces and what they take. Nodes that are alike share them.
    made: dict[tuple[int, tuple[int, int]], tuple] = field(default_factory=dict)

    @cached_property
    def beside(self) -> tuple[np.ndarray, np.ndarray]:
        """Microseconds of both pieces, each slowed down by the other."""
        return self.gpu[0] * self.gpu[1], self.cpu[0] * self.cpu[1]

    @cached_property
    def longer(self) -> np.ndarray:
        """The longer of both."""
        return np.maximum(*self.beside)

    @cached_property
    def best(self) -> list[int]:
        """Where both end first, by themselves."""
        return self.at[np.argsort(self.longer, kind="stable")[:OFFERED]].tolist()

    @cached_property
    def _places(self) -> list[int]:
        return self.at.tolist()

    @cached_property
    def _between(self) -> tuple[dict[int, float], ...]:
        return {}, {}

    @cached_property
    def _us(self) -> tuple[dict[int, float], ...]:
        return tuple(dict(zip(self.at.tolist(), side.tolist())) for side in self.beside)

    def us(self, side: int, at: int) -> float:
        """What the GPU's (0) or the CPU's (1) piece of a cut takes, between priced ones interpolated."""
        found = self._us[side].get(at)
        if found is None and (found := self._between[side].get(at)) is None:
            places, known = self._places, self._us[side]
            after = bisect(places, at)
            if 0 < after < len(places):
                low, high = places[after - 1], places[after]
                found = known[low] + (known[high] - known[low]) * (at - low) / (high - low)
            else:  # beyond the first or the last that was priced
                found = known[places[0 if not after else -1]]
            self._between[side][at] = found
        return found


class Offers:
    """The ways of every node of a graph. All pieces are priced in one go; nodes that are alike share the prices.

    `settled` holds the only partition that a node can have, or None. After that `ways[i]` are those of the graph's i-th node.
    """

    def __init__(self, cost: CostModel, graph: Graph, settled: Sequence[Partition | None], limits: Limits = Limits()):
        self.cost, self.graph, self.limits = cost, graph, limits
        self._grids: dict[int, list[_Grid]] = {}
        self._wholes: dict[tuple[int, str], tuple[tuple[tuple[str, Region], ...], float]] = {}
        self._price(settled)
        self._halos = _halos(graph, cost, settled) if limits.chains and not limits.steps else {}
        made: dict[Value, list[Partition]] = {}
        self.ways: list[list[Way]] = []
        for node, only in zip(graph.nodes, settled):
            ways = [self._only(node, only)] if only is not None else self._usual(node, made)
            self.ways.append(ways)
            if node.output is not None:
                made[node.output] = [w.partition for w in ways if len(w.partition.devices) == 2 and not any(w.partition.halo)]

    def _price(self, settled: Sequence[Partition | None]) -> None:
        wanted, asks, grids = [], [], []  # type: ignore[var-annotated]
        for node, only in zip(self.graph.nodes, settled):
            if only is not None:
                wanted += [(node, d, [r]) for d, r in pieces(node, only)]
                continue
            like = self.cost.like(node)
            if like in self._grids:
                continue
            found = self._grids[like] = [(a, np.array(cuts)) for a in self._axes(node) if (cuts := self._places(a))]  # type: ignore[misc]
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

    def keep(self, ways: Sequence[Way]) -> None:
        """Makes the prices of a plan's cuts known to the cost model, which need not work them out again."""
        for node, way in zip(self.graph.nodes, ways):
            partition = way.partition
            grid = next((g for g in self._grids.get(self.cost.like(node), ()) if g.axis.name == partition.axis), None)
            if grid is None or len(way.parts) < 2 or any(partition.halo):
                continue
            index = int(np.searchsorted(grid.at, partition.bounds[1]))
            if index < len(grid.at) and grid.at[index] == partition.bounds[1]:
                for (unit, region), side in zip(way.parts, (grid.gpu, grid.cpu)):
                    self.cost.keep(node, unit, region, *side[:, index].tolist())

    def _axes(self, node: Node) -> list[SplitAxis]:
        axes = [a for a in axes_of(node) if a.extent > a.multiple]
        wanted = [a for a in axes if a.name == self.limits.axis]
        return wanted or axes[:AXES] if not self.limits.axis else wanted or axes[:1]

    def _places(self, axis: SplitAxis) -> list[int]:
        found = places(axis) if not self.limits.steps else sorted(
            {int(n / self.limits.steps * axis.extent / axis.multiple + 0.5) * axis.multiple for n in range(1, self.limits.steps)})
        return [at for at in found if 0 < at < axis.extent and at <= self.limits.most_gpu * axis.extent]

    def _only(self, node: Node, only: Partition) -> Way:
        parts = pieces(node, only)
        us: dict[str, float] = {}
        for device, region in parts:
            us[device] = us.get(device, 0.0) + self.cost.kernel(node, region, device).us
        return Way(only, tuple(parts), us.get("gpu"), us.get(HOST))

    def _usual(self, node: Node, made: dict[Value, list[Partition]]) -> list[Way]:
        ways, like = [], self.cost.like(node)
        for unit in (HOST, "gpu") if self.limits.most_gpu >= 1 else (HOST,):
            if (like, unit) not in self._wholes:
                whole = Region.whole(node.output.shape)
                self._wholes[like, unit] = ((unit, whole),), self.cost.kernel(node, whole, unit).us
            parts, us = self._wholes[like, unit]
            ways.append(Way(on_one_device(node, unit), parts, us if unit == "gpu" else None, us if unit == HOST else None))
        for grid in self._grids[like]:
            cuts = self._cuts_of(node, grid, made)
            ways += [self._cut(node, grid, at) for at in cuts]
            for halo in self._halos.get((node, grid.axis.name), ()):
                ways += [self._cut(node, grid, at, halo) for at in cuts[:HALOED] if sum(halo) <= MOST_TWICE * grid.axis.extent]
        return ways

    def _cuts_of(self, node: Node, grid: _Grid, made: dict[Value, list[Partition]]) -> list[int]:
        """Where to cut that axis: at its own best places, and where the inputs are cut."""
        if self.limits.steps:
            return grid.at.tolist()
        cuts = dict.fromkeys(grid.best)
        if self.limits.chains:
            follow = {at for value in node.inputs if value is not None for other in made.get(value, ()) for at in _following(node, grid.axis, other)}
            legal = [at for at in follow - cuts.keys() if 0 < at <= self.limits.most_gpu * grid.axis.extent and at < grid.axis.extent]
            room = CUTS - len(cuts)
            if len(legal) > room:
                legal = sorted(legal, key=lambda at: (max(grid.us(0, at), grid.us(1, at)), at))[:room]
            cuts |= dict.fromkeys(sorted(legal))
        return list(cuts)

    def _cut(self, node: Node, grid: _Grid, at: int, halo: tuple[int, int] = (0, 0)) -> Way:
        axis = grid.axis
        if (at, halo) not in grid.made:
            whole = Region.whole(node.output.shape)
            above, below = min(axis.extent, at + halo[1]), max(0, at - halo[0])
            parts = (("gpu", whole.replace(axis.dim, (0, above))), (HOST, whole.replace(axis.dim, (below, axis.extent))))
            grid.made[at, halo] = parts, grid.us(0, above), grid.us(1, below)
        partition = Partition(node.name, node.op_type, axis.name, (0, at, axis.extent), ("gpu", HOST), halo=halo)
        return Way(partition, *grid.made[at, halo])


def _following(node: Node, axis: SplitAxis, made: Partition) -> Iterable[int]:
    """Cuts that suit that of an input: at the same share, and where the CPU's piece reads only what the CPU made."""
    if axis.name != made.axis:
        return ()
    same = round(made.bounds[1] / made.bounds[-1] * axis.extent / axis.multiple) * axis.multiple
    pads, strides = node.attr("pads"), node.attr("strides")
    halo = 0
    if pads and axis.dim >= 2 and axis.dim - 2 < len(pads) // 2:
        stride = strides[axis.dim - 2] if strides else 1
        halo = -(-(made.bounds[1] + pads[axis.dim - 2]) // stride) - same
    return {at for at in (same, same + halo) if at % axis.multiple == 0}


def _halos(graph: Graph, cost: CostModel, settled: Sequence[Partition | None]) -> dict[tuple[Node, str], list[tuple[int, int]]]:
    """For each node and axis, how much it may be worth to compute twice: what chains of one, two ... operators behind it read across a cut.

    Only where everything that reads the node's output is cut likewise: then no side ever needs the other's rows.
    """
    readers: dict[Value, list[Node]] = {}
    free = {n: only is None for n, only in zip(graph.nodes, settled)}
    for node in graph.nodes:
        for value in {v for v in node.inputs if v is not None and not v.is_constant}:
            readers.setdefault(value, []).append(node)
    outputs, found, known = set(graph.outputs), {}, {}  # type: ignore[var-annotated]
    for node in reversed(graph.nodes):
        if not free[node] or any(v is not None and v in outputs for v in node.outputs) or sum(v is not None for v in node.outputs) != 1:
            continue
        behind = readers.get(node.output, [])
        if not behind or not all(free[r] for r in behind):
            continue
        for axis in axes_of(node)[:AXES]:
            levels: list[list[tuple[int, int]]] = []
            for reader in behind:
                match = next((a for a in axes_of(reader)[:AXES] if a.name == axis.name and a.extent > 1), None)
                if match is None:
                    break
                kind = cost.like(reader), reader.inputs.index(node.output), axis, match
                halos = ((0, 0), *found.get((reader, axis.name), ()))
                for halo in halos:
                    if (kind, halo) not in known:
                        known[kind, halo] = _read_beyond(reader, node.output, axis, match, halo, cost)
                levels.append([known[kind, halo] for halo in halos])
            else:
                depth = min(map(len, levels))
                wanted = [tuple(-(-max(row[i][side] for row in levels) // axis.multiple) * axis.multiple for side in (0, 1)) for i in range(depth)]
                kept = [w for w in dict.fromkeys(wanted) if any(w)][:HALOS]
                if kept:
                    found[node, axis.name] = kept
    return found


def _read_beyond(reader: Node, value: Value, axis: SplitAxis, match: SplitAxis, halo: tuple[int, int], cost: CostModel) -> tuple[int, int]:
    """How far pieces of the reader that reach `halo` beyond a cut in the middle read beyond that of its input: before it, and after it."""
    at = max(1, match.extent // 2 // match.multiple) * match.multiple
    mine = round(at / match.extent * axis.extent)
    whole, op = Region.whole(reader.output.shape), cost.op(reader)
    before = after = 0
    for span, low in (((max(0, at - halo[0]), match.extent), True), ((0, min(match.extent, at + halo[1])), False)):
        for read, region in zip(reader.inputs, op.regions_read(reader, whole.replace(match.dim, span))):
            if read is value and region is not None and region.size:
                if low:
                    before = max(before, mine - region[axis.dim].start)
                else:
                    after = max(after, region[axis.dim].stop - mine)
    return before, after


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
        for block in BLOCKS:
            if axis.multiple < block and axis.extent >= 8 * block and axis.extent > (PRICED + 1) * step:
                step = -(-block // axis.multiple) * axis.multiple
    count = -(-axis.extent // step) - 1
    if count <= PRICED:
        return [n * step for n in range(1, count + 1)]
    return sorted({max(1, round(n * (count + 1) / (PRICED + 1))) * step for n in range(1, PRICED + 1)})
