"""coexec: the default. A beam search over the whole graph, every candidate played on the two clocks of the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...cost.compose import CostModel, Run
from ...errors import UsageError
from ...graph.ir import Node, Value
from ...ops import op_for
from ...ops.base import SplitAxis
from ...regions import Region
from ..plan import Partition, cut, on_one_device, pieces
from .base import Partitioner, Situation, register

#: Cuts of a long channel axis lie at such multiples: kernels compute blocks of channels, and a part of a block costs a whole one.
BLOCK = 8
Parts = Sequence[tuple[str, Region]]


@register
@dataclass(frozen=True)
class Coexec(Partitioner):
    """For every node the CPU whole, the GPU whole, or a balanced cut of any axis, launches, waits and transfers included.

    Nodes are placed in order; the `beam` best beginnings are kept at every node, so that a choice is judged by what follows from it.
    Where the CPU or the GPU alone is predicted to be faster, that is the plan.
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
        cost = situation.cost
        states = [_State(Run(cost), None)]
        for node, only in zip(situation.graph.nodes, settled):
            offers = [(only, pieces(node, only))] if only else candidates(node, cost)
            grown: list[_State] = []
            for state in states:
                more = [] if only else aligned(node, state)
                for partition, parts in [*offers, *((p, pieces(node, p)) for p in more)]:
                    run = state.run.copy()
                    run.step(node, parts)
                    grown.append(_State(run, state, partition, node))
            states = survivors(grown, self.beam)
        return min(states, key=lambda s: s.run.end(situation.graph)).partitions()


class _State:
    """A beginning of a plan: its clocks, and its last partition with a link to the one before."""

    __slots__ = ("run", "before", "partition", "bounds")

    def __init__(self, run: Run, before: _State | None, partition: Partition | None = None, node: Node | None = None):
        self.run, self.before, self.partition = run, before, partition
        #: value -> how it was made, for cuts that follow those of the inputs. One dictionary a state would be copied in vain: a chain.
        self.bounds: tuple[Value, Partition] | None = (node.output, partition) if node is not None and partition.axis else None

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
            if state.bounds is not None and state.bounds[0] is value:
                return state.bounds[1]
            state, reach = state.before, reach - 1
        return None


def survivors(states: list[_State], beam: int) -> list[_State]:
    """The `beam` that would finish first, and the best of each way to place the last node: what pays off later may look dear now."""
    states.sort(key=lambda s: (s.run.finish, s.run.host))
    kept, ways = states[:beam], set()
    ways.update(_way(s.partition) for s in kept)
    for state in states[beam:]:
        if _way(state.partition) not in ways:
            ways.add(_way(state.partition))
            kept.append(state)
    return kept


def _way(partition: Partition) -> tuple[str | None, tuple[str, ...]]:
    return (partition.axis if len(partition.devices) > 1 else None, partition.devices)


def candidates(node: Node, cost: CostModel) -> list[tuple[Partition, Parts]]:
    """The CPU whole, the GPU whole, and for each axis a few cuts around the point where both take equally long."""
    found = [on_one_device(node, "cpu"), on_one_device(node, "gpu")]
    for axis in op_for(node).split_axes(node):
        if axis.extent > axis.multiple:
            found += [cut(node, axis, (0, at, axis.extent), ("gpu", "cpu")) for at in balanced_cuts(node, axis, cost)]
    return [(p, pieces(node, p)) for p in found]


def grain(axis: SplitAxis) -> int:
    """Where cuts of an axis are worth trying: every legal multiple, or every BLOCK channels of a long axis."""
    if axis.name in ("channel", "columns") and axis.multiple < BLOCK and axis.extent >= 4 * BLOCK:
        return -(-BLOCK // axis.multiple) * axis.multiple
    return axis.multiple


def balanced_cuts(node: Node, axis: SplitAxis, cost: CostModel) -> list[int]:
    """Up to three cuts: the one where both pieces are predicted to end together, and its neighbours."""
    step, launch = grain(axis), cost.profile.gpu.launch_us
    whole = Region.whole(node.output.shape)
    steps = -(-axis.extent // step)

    def gap(n: int) -> float:
        """How much longer the GPU takes than the CPU if it gets the first n steps. Rises with n."""
        at = min(n * step, axis.extent)
        gpu, cpu = whole.replace(axis.dim, (0, at)), whole.replace(axis.dim, (at, axis.extent))
        return launch + cost.kernel(node, gpu, "gpu").us - cost.kernel(node, cpu, "cpu").us

    low, high = 1, steps - 1
    if high < 1:
        return []
    low_gap, high_gap = gap(low), gap(high)
    if low_gap >= 0 or high_gap <= 0:  # one device is faster even with the largest piece of it
        return [low * step if low_gap >= 0 else high * step]
    while high - low > 1:
        # Costs are nearly straight lines, so interpolation lands beside the root; the clamp makes every round shrink the bracket.
        middle = min(high - 1, max(low + 1, round(low + (high - low) * low_gap / (low_gap - high_gap))))
        found = gap(middle)
        if found < 0:
            low, low_gap = middle, found
        else:
            high, high_gap = middle, found
        if abs(found) < 0.02 * cost.kernel(node, whole, "cpu").us:
            low, high = max(1, middle - 1), min(steps - 1, middle + 1)
            return sorted({low * step, middle * step, high * step})
    return sorted({low * step, high * step})


def aligned(node: Node, state: _State) -> list[Partition]:
    """Cuts at the same place as the inputs were cut: each side then reads mostly what it wrote itself, and nobody waits."""
    found: dict[tuple[str, int], Partition] = {}
    axes = op_for(node).split_axes(node)
    for value in node.inputs:
        made = state.made(value) if value is not None and not value.is_constant else None
        if made is None or len(made.devices) != 2:
            continue
        for axis in axes:
            if axis.name == made.axis and axis.extent > axis.multiple:
                at = round(made.bounds[1] / made.bounds[-1] * axis.extent / axis.multiple) * axis.multiple
                if 0 < at < axis.extent:
                    found[axis.name, at] = cut(node, axis, (0, at, axis.extent), ("gpu", "cpu"))
    return list(found.values())
