"""coexec: the default. The best plan of all those that kernels like, by dynamic programming where the graph lets it, else by a bounded search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ..plan import Partition, Plan, on_one_device
from .base import Partitioner, Situation, finish, register
from .fixed import check_axis
from .frontier import Found, Objective, Search
from .offers import Limits, Offers

#: So many beginnings of plans are followed in the first search, and up to so many times more in each that follows; the plan of each is what the
#: next has to beat. The last is one after which nothing is left to prove, or that could not be followed by one at least LEAST_WIDER times as wide.
FIRST, WIDER, LEAST_WIDER = 8, 8, 2
#: No search is begun that may look at more beginnings than this, unless the graph has few nodes: what takes about 50 ms. Twice as many make plans
#: of networks of many branches 1 % better at most.
EFFORT, SMALL, EFFORT_OF_SMALL = 150_000, 12, 6_000_000
#: A plan with a wait less is preferred where it is predicted to take no longer than by this share of an average operator: both sides are a
#: little uneven from run to run, and at each wait the later one counts. What so much costs, and how many waits it saves: docs/planner.md.
FEWER_WAITS = 0.03
#: By what share a plan on the CPU and a GPU emulated on one of its cores must be predicted to be faster than one of them alone. Both are one
#: processor, so there is little to gain, and of many plans the one that is taken is mostly one of which too much is expected: on two cores with
#: PoCL, plans that were predicted to gain less than this gained nothing when they were run.
LEAST_GAIN = 0.15
#: Prices of memory that are tried, and beginnings followed in each of those searches.
PRICES, LEAN = 12, 32


@register
@dataclass(frozen=True)
class Coexec(Partitioner):
    """For every node the CPU whole, the GPU whole, or a cut of an axis, whatever makes the whole run end first, launches, waits and what
    both read of one another included (`frontier`). Where the CPU or the GPU alone is predicted to be faster, that is the plan.

    width: beginnings of plans followed at once; 0: as many as planning may take time for. steps: cut at n/steps of an axis only.
    fewer_waits: a wait less may cost this share of an average operator, as the better single device takes it. least_gain: an emulated GPU
    that takes a core of the CPU's is used beside it where that is predicted to be faster by this share than the better one alone; counts where
    latency is the objective, without a limit.
    The others leave something out, to see what it is good for: axis: cut this one only, where a node has it; chains=false: every operator
    by itself, no cuts that suit their neighbours', nothing computed twice; branches=false: as if no branch ran beside another;
    contention=false: as if no unit slowed the other down.
    """

    name = "coexec"
    needs_profile = True
    width: int = 0
    steps: int = 0
    fewer_waits: float = FEWER_WAITS
    least_gain: float = LEAST_GAIN
    axis: str = ""
    chains: bool = True
    branches: bool = True
    contention: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.width <= 1_000_000:
            raise UsageError("option 'width' of strategy 'coexec' is wrong", found=self.width, expected="a whole number from 0 to 1000000")
        if not (self.steps == 0 or 2 <= self.steps <= 1000):
            raise UsageError("option 'steps' of strategy 'coexec' is wrong", found=self.steps, expected="0, or a whole number from 2 to 1000")
        if not 0 <= self.fewer_waits <= 1:
            raise UsageError("option 'fewer_waits' of strategy 'coexec' is wrong", found=self.fewer_waits,
                             expected="a share of an operator's time, from 0 to 1")
        if not 0 <= self.least_gain < 1:
            raise UsageError("option 'least_gain' of strategy 'coexec' is wrong", found=self.least_gain,
                             expected="a share of a run's time, from 0 to 1")
        check_axis(self.axis, self.name)

    def arrange(self, situation: Situation) -> list[Partition]:
        return self.bounded(situation)[0]

    def judged(self, situation: Situation, made: Plan) -> Plan:
        """That plan, or a single device's where the very steps of their runs, not only the search's two clocks, say that this is faster."""
        made, wishes = super().judged(situation, made), situation.wishes
        if situation.judge is None or wishes.objective != "latency" or wishes.memory_bytes is not None:
            return made
        us, weight = None, self._weight(situation) if len(made.devices) > 1 else 1.0
        for alone in _single(situation, situation.all_settled):
            if same(alone, made.partitions):
                continue
            us = situation.judge(made) if us is None else us
            if weight * situation.least_us(alone) < us:
                other = super().judged(situation, finish(situation, alone, self.spec))
                if weight * situation.judge(other) < us:
                    made, us, weight = other, situation.judge(other), 1.0
        return made

    def _weight(self, situation: Situation) -> float:
        """By what a single device's time is multiplied before it is compared with that of both."""
        profile = situation.profile
        # An emulated GPU on a core that the CPU leaves alone anyway is a unit of its own.
        takes_a_core = profile is not None and profile.gpu is not None and profile.gpu.emulated and profile.cpu_alone is not None
        return 1 - self.least_gain if takes_a_core else 1.0

    def bounded(self, situation: Situation) -> tuple[list[Partition], float | None]:
        graph, wishes = situation.graph, situation.wishes
        settled = situation.all_settled
        plans = _single(situation, settled)
        counts = wishes.objective == "latency" and wishes.memory_bytes is None
        weight, mine, bound = self._weight(situation) if counts else 1.0, None, None  # type: ignore[var-annotated]
        if not all(settled):
            offers = self.offers(situation, settled)  # first: what nodes take whole is priced along with their cuts
            least_us = [situation.least_us(p) for p in plans]
            wait_us = self.fewer_waits * min(least_us) / max(1, len(graph.nodes))
            found = self.search(situation, settled, wait_us, offers)
            mine = [w.partition for w in found.ways]
            bound = max(0.0, found.bound - wait_us * len(graph.nodes))  # no plan has more waits than nodes
            if counts:  # else each does, however long it takes
                mine_us = situation.total_us(mine)
                plans = [p for p, us in zip(plans, least_us) if weight * us < mine_us]
            plans.append(mine)
        if wishes.memory_bytes is not None:
            plans = _that_fit(situation, plans)
        best = min(plans, key=lambda plan: situation.value(plan) * (1.0 if plan is mine else weight))
        # Copies between two memories are kept track of more exactly than the search does, and without contention it counts something else.
        provable = bound is not None and situation.cost.shared and self.contention and self.branches and wishes.memory_bytes is None
        return best, min(bound, situation.value(best)) if provable else None

    def offers(self, situation: Situation, settled: Sequence[Partition | None]) -> Offers:
        """The ways of every node that the search chooses from."""
        cost = situation.cost if self.contention else situation.without_contention
        return Offers(cost, situation.graph, settled, Limits(self.steps, self.axis, self.chains, situation.wishes.max_gpu_share))

    def search(self, situation: Situation, settled: Sequence[Partition | None], wait_us: float = 0.0, offers: Offers | None = None) -> Found:
        """The best plan that may use the GPU beside the CPU, and how good any such plan could be.

        wait_us: what a wait counts beside what it takes. offers: `offers` of the same, where they are made.
        """
        graph, wishes = situation.graph, situation.wishes
        offers = self.offers(situation, settled) if offers is None else offers
        cost = offers.cost
        objective = Objective(wait=wait_us)
        if wishes.objective == "energy":
            power = cost.power
            objective = Objective(power.idle_w, power.cpu_w, power.gpu_w, wait_us * power.idle_w)
        best = self._best(Search(cost, graph, offers.ways, self.branches, objective), len(graph.nodes))
        if wishes.memory_bytes is not None:
            best = self._within(situation, offers, objective, best)
        if self.contention:
            offers.keep(best.ways)
        return best

    def _best(self, search: Search, nodes: int) -> Found:
        if self.width:
            return search.run(self.width)
        effort = EFFORT_OF_SMALL if nodes <= SMALL else EFFORT
        width, best = FIRST, search.run(FIRST)
        looked = best.beginnings
        while best.bound < best.value and (wider := min(WIDER, effort / looked)) >= LEAST_WIDER:
            width = int(width * wider)
            found, bound, looked = search.improve(width, best)
            best = found._replace(bound=bound)
        return best

    def _within(self, situation: Situation, offers: Offers, objective: Objective, best: Found) -> Found:
        """The best plan that was found within the memory limit: bytes get a price, and the least price that suffices is sought by halving."""
        graph, cost, limit = situation.graph, offers.cost, situation.wishes.memory_bytes

        def fits(found: Found) -> bool:
            return cost.memory_bytes(graph, [w.partition for w in found.ways]) <= limit

        if fits(best):
            return best
        low, high, price, kept = 0.0, None, best.value / limit, None
        for _ in range(PRICES):
            priced = objective._replace(own=lambda node, way, price=price: price * cost.packed_bytes(node, way.parts))
            found = Search(cost, graph, offers.ways, self.branches, priced).run(LEAN)
            if fits(found):
                kept, high = found, price
            else:
                low = price
            price = 8 * price if high is None else (low + high) / 2
        return kept or found


def _single(situation: Situation, settled: Sequence[Partition | None]) -> list[list[Partition]]:
    """Everything on the CPU that may be there, and everything on the GPU, unless that is not wished."""
    nodes, allowed = situation.graph.nodes, ("cpu",) if situation.wishes.max_gpu_share < 1 or all(settled) else ("cpu", "gpu")
    return [[s or on_one_device(n, device) for n, s in zip(nodes, settled)] for device in allowed]


def same(first: Sequence[Partition], second: Sequence[Partition]) -> bool:
    """Whether both place every node alike."""
    return all((a.bounds, a.devices, a.axis, a.halo) == (b.bounds, b.devices, b.axis, b.halo) for a, b in zip(first, second))


def _that_fit(situation: Situation, plans: list[list[Partition]]) -> list[list[Partition]]:
    """Those within the memory limit. Raises UsageError where there is none."""
    limit = situation.wishes.memory_bytes
    sizes = [situation.cost.memory_bytes(situation.graph, p) for p in plans]
    if min(sizes) > limit:  # type: ignore[operator]
        raise UsageError("no plan needs as little memory as that", where=situation.graph.name, found=f"a limit of {limit} bytes",
                         expected=f"at least {min(sizes)} bytes (weights as packed, and activations; modelled)")
    return [p for p, size in zip(plans, sizes) if size <= limit]  # type: ignore[operator]
