"""What runs lose between pieces: starting a GPU piece, until an idle GPU begins, hearing that it has ended.

Bare loops make these look cheap: in a run the interpreter and the driver find
their code and data driven out of the caches, and it takes several times as long. So a small made-up network is run, cut in two, and its
trace is asked; and whole on either unit, for what a run takes around its pieces, and for what company costs where both work on one
operator (`api.looks`). Plans of real ones are predicted with what these say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..cost.compose import CostModel
from ..cost.contention import busy_of
from ..devices.base import Device
from ..errors import DeviceError
from ..graph.ir import Graph
from ..partition.plan import Plan, pieces
from ..profiles import DeviceProfile, UnitProfile, rounded
from ..profiling.child import ChildLost
from ..runtime.schedule import HOST
from .looks import DEPTHS, Look, Looker, LooksElsewhere, Seen, asked_of
from .observation import ratios

log = logging.getLogger("coexec")

#: Fewer looks are added to.
LEAST_LOOKS = 3
#: What a section has from runs.
OF_RUNS = ("launch_us", "begin_us", "sync_us", "ready_us", "run_us", "run_piece_us", "copy_gbs")
#: A unit's pieces are not taken to be slowed down by the other's company by more than this.
MOST_COMPANY = 3.0


class RunCosts:
    """What runs on these devices lose between and around their pieces, as several looks show it, each at another moment.

    A moment says little where a machine is shared: starting a piece takes several times as long in one as in another. So a profile looks again and
    again while it measures kernels. elsewhere: looks in another process; without, or where none can be had, they are made here. Where it is lost, so
    would be this one: from then on nothing is run on the GPU, and what such runs showed before does not count.
    """

    def __init__(self, devices: Mapping[str, Device], threads: int, elsewhere: LooksElsewhere | None = None):
        self._devices, self._threads, self._elsewhere = devices, threads, elsewhere
        self._asked = asked_of(devices, threads)
        self._here: Looker | None = None
        self.seen: list[Look] = []

    @property
    def looks(self) -> int:
        """How many looks there were; one that was interrupted is none."""
        return len(self.seen)

    def look(self) -> None:
        """Looks once more."""
        if self._elsewhere is not None:
            try:
                self.seen.append(self._elsewhere.look())
                return
            except ChildLost as error:
                log.warning("%s; what runs on both units lose is told by bare loops", error)
                self._elsewhere, self._devices = None, {HOST: self._devices[HOST]}
                self.seen.clear()
            except DeviceError as error:
                log.info("runs are looked at in this process: %s", error)
                self._elsewhere = None
        if self._here is None:
            self._here = Looker(self._devices, self._threads)
        self.seen.append(self._here.look())

    def told(self, profile: DeviceProfile) -> DeviceProfile:
        """The profile with what the looks showed, the middle of each number, in the way that its runs will be kept in step; where there were too
        few looks, more are made now.
        """
        while self.looks < LEAST_LOOKS:
            self.look()
        made = [self._by(profile, look) for look in self.seen]
        sections = {unit: replace(section, **{k: _middle([getattr(getattr(one, unit), k) for one in made]) for k in (*OF_RUNS, "busy")})
                    for unit in ("cpu", "gpu", "cpu_alone") if (section := getattr(profile, unit)) is not None}
        counted = [look.in_step for look in self.seen if look.in_step is not None]
        if profile.in_step and 2 * len(counted) > self.looks:
            told = {k: _middle([getattr(one, k) for one in counted]) for k in vars(counted[0])}
            sections["gpu"] = replace(sections["gpu"], **{k: v for k, v in told.items() if v is not None})
        return replace(profile, **sections)

    def _by(self, profile: DeviceProfile, look: Look) -> DeviceProfile:
        """The profile with what one look showed."""
        graph, gpu, plans = self._asked["cpu"][0], profile.gpu, look.plans
        alone = _run(graph, plans["cpu"])
        if gpu is None or look.by_events is None:
            return replace(profile, cpu=replace(profile.cpu, **alone))
        gpu = replace(gpu, **rounded({k: v for k, v in vars(look.by_events).items() if v is not None}))
        if f"gpu {DEPTHS[0]}" in plans:
            gpu = replace(gpu, **_away(gpu, {len(self._asked[k][0].nodes): plans[k].beside_gpu_us for k in (f"gpu {deep}" for deep in DEPTHS)}))
            gpu = replace(gpu, busy=self._busy(profile, plans, "gpu"))
            profile = replace(profile, cpu=replace(profile.cpu, busy=self._busy(profile, plans, "cpu")))
        return replace(profile, cpu=replace(profile.cpu, **_run(graph, plans["cut"])), gpu=gpu,
                       cpu_alone=None if profile.cpu_alone is None else replace(profile.cpu_alone, **alone))

    def _busy(self, profile: DeviceProfile, plans: Mapping[str, Seen], unit: str) -> Mapping[str, float]:
        """What company costs a unit's pieces, as runs say: those of cut operators beside whole ones in runs of that unit alone. Pairs of kernels
        repeated by themselves, of which the profile knows, say less or more: both find there what they left in the caches, and never rest.
        """
        costs = CostModel(replace(profile, cpu_alone=None))  # of a CPU with the threads that it has beside a GPU, whatever the plan
        alone = "cpu beside" if unit == "cpu" else f"gpu {DEPTHS[0]}"
        seen, by_itself = (ratios(*self._asked[name][:2], plans[name].taken_us, costs) for name in ("cut", alone))
        graph, plan, _ = self._asked["cut"]
        found = company(graph, plan, seen, by_itself, costs, unit)
        return rounded(found) if found else getattr(profile, unit).busy

    def close(self) -> None:
        """Ends the other process, and frees what is prepared; what was seen stays."""
        if self._elsewhere is not None:
            self._elsewhere.close()
        if self._here is not None:
            self._here.close()
            self._here = None


def _middle(values: Sequence[Any]) -> Any:
    """The median of numbers, or of each number of dictionaries that have the same keys; None, where nothing was seen, does not count."""
    if isinstance(values[0], dict):
        return {k: _middle([v[k] for v in values]) for k in values[0]}
    known = [v for v in values if v is not None]
    return rounded({"": float(np.median(known))})[""] if known else None


def company(graph: Graph, plan: Plan, together: Mapping[tuple[str, str], float], by_itself: Mapping[tuple[str, str], float], costs: CostModel,
            unit: str) -> dict[str, float]:
    """`busy` of a unit by what pieces of cut operators took, and whole operators in runs of that unit alone, each by what is predicted
    (`ratios_seen`); empty where no run shows it.
    """
    waiting, longer = [], []
    for node in graph.nodes:
        parts = dict(pieces(node, plan[node.name]))
        if len(parts) > 1 and (node.name, unit) in together and (node.name, unit) in by_itself:
            waiting.append(costs.waiting(node, parts[unit], unit))
            longer.append(together[node.name, unit] / by_itself[node.name, unit])
    return busy_of(waiting, longer, MOST_COMPANY)


def _run(graph: Graph, seen: Seen) -> dict[str, float]:
    """run_us and copy_gbs of a host's section, by runs of a plan that gives the host some work."""
    copied = sum(v.type.nbytes for v in graph.inputs)
    return rounded({"run_us": seen.around_us, "copy_gbs": 2 * copied / 1e3 / max(seen.feed_us, 1e-3)})


def _away(gpu: UnitProfile, told: Mapping[int, float]) -> dict[str, float]:
    """run_us and run_piece_us of a GPU's section: what runs lose around its pieces where all are its own, by microseconds of two numbers of pieces.

    The host sleeps meanwhile: it wakes late, with cold caches, and first tidies up what the driver kept for each piece. What a plan is charged
    anyway for starting, beginning and waiting is left out.
    """
    (few, least), (many, most) = sorted(told.items())
    each = min(max(0.0, (most - least) / (many - few)), least / few)
    return rounded({"run_us": max(0.0, least - few * each - gpu.launch_us - gpu.begin_us - gpu.sync_us), "run_piece_us": each})
