"""coexec: the default. The best plan of all those that kernels like, by dynamic programming where the graph lets it, else by a bounded search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ..plan import Partition, on_one_device
from .base import Partitioner, Situation, register
from .fixed import check_axis
from .frontier import Found, Search
from .offers import Limits, Offers

#: So many beginnings of plans are followed in the first search, and so many times more in each that follows; the plan of each is what the
#: next has to beat. The last is one after which nothing is left to prove.
FIRST, WIDER = 8, 8
#: No search is begun that may look at more beginnings than this, unless the graph has few nodes: 60,000 take about 50 ms on a server's core.
EFFORT, SMALL, EFFORT_OF_SMALL = 60_000, 12, 6_000_000


@register
@dataclass(frozen=True)
class Coexec(Partitioner):
    """For every node the CPU whole, the GPU whole, or a cut of an axis, whatever makes the whole run end first, launches, waits and what
    both read of one another included (`frontier`). Where the CPU or the GPU alone is predicted to be faster, that is the plan.

    width: beginnings of plans followed at once; 0: as many as planning may take time for. steps: cut at n/steps of an axis only.
    The others leave something out, to see what it is good for: axis: cut this one only, where a node has it; chains=false: every operator
    by itself, no cuts that suit their neighbours', nothing computed twice; branches=false: as if no branch ran beside another;
    contention=false: as if no unit slowed the other down.
    """

    name = "coexec"
    needs_profile = True
    width: int = 0
    steps: int = 0
    axis: str = ""
    chains: bool = True
    branches: bool = True
    contention: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.width <= 1_000_000:
            raise UsageError("option 'width' of strategy 'coexec' is wrong", found=self.width, expected="a whole number from 0 to 1000000")
        if not (self.steps == 0 or 2 <= self.steps <= 1000):
            raise UsageError("option 'steps' of strategy 'coexec' is wrong", found=self.steps, expected="0, or a whole number from 2 to 1000")
        check_axis(self.axis, self.name)

    def arrange(self, situation: Situation) -> list[Partition]:
        graph = situation.graph
        settled = [situation.settled(n) for n in graph.nodes]
        plans = [[s or on_one_device(n, "cpu") for n, s in zip(graph.nodes, settled)]]
        if not all(settled):
            plans.append([s or on_one_device(n, "gpu") for n, s in zip(graph.nodes, settled)])
            found = self.search(situation, settled)
            plans.append([w.partition for w in found.ways])
        return min(plans, key=situation.total_us)

    def search(self, situation: Situation, settled: Sequence[Partition | None]) -> Found:
        """The best plan that uses the GPU beside the CPU, and how good any such plan could be."""
        graph = situation.graph
        cost = situation.cost if self.contention else situation.without_contention
        offers = Offers(cost, graph, settled, Limits(self.steps, self.axis, self.chains))
        best = self._best(Search(cost, graph, offers.ways, self.branches), len(graph.nodes))
        if self.contention:
            offers.keep(best.ways)
        return best

    def _best(self, search: Search, nodes: int) -> Found:
        if self.width:
            return search.run(self.width)
        effort = EFFORT_OF_SMALL if nodes <= SMALL else EFFORT
        width, best = FIRST, search.run(FIRST)
        looked = best.beginnings
        while best.bound_us < best.us and looked * WIDER <= effort:
            width *= WIDER
            found, bound_us, looked = search.improve(width, best)
            best = found._replace(bound_us=bound_us)
        return best
