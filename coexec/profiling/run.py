"""profile_devices: measures the devices of this machine and fits their profile."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..cost.compose import ALONE
from ..cost.features import family
from ..cost.kernels import bound_by
from ..devices.base import Device
from ..devices.cores import biggest, usable
from ..devices.registry import threads_alone
from ..errors import DeviceError, UsageError
from ..profiles import DeviceProfile, UnitProfile, rounded
from .choosing import Choosing
from .climate import Climate
from .facts import board_facts, machine, operators
from .fit import KernelFits, facts_of_rows, kernels_of
from .fixed import fixed_costs
from .images import image_costs
from .isolation import Isolated
from .measure import Bench, copies_for
from .neighbours import Neighbours
from .quarantine import Quarantine
from .rounds import COMPANY
from .sampler import SHAPES, Sample, Sampler
from .sections import Asked, sections
from .table import Measurement, append_row, node_of, open_table, read_table, write_table
from .timing import SampleRound, together, with_numbers
from .ways import best_used

log = logging.getLogger("coexec")

#: (seconds since it began, seconds in all as far as can be seen by now or 0 where nothing can be said, what is done)
Progress = Callable[[float, float, str], None]

#: So many rounds' samples are drawn at once, and ranked by size.
RANKS = 5
#: With so many rows there is time for large kernels.
MANY_ROWS = 1500
#: Shares of the budget after which fits are made, so that what is predicted badly is sampled more.
LOOKS = (0.2, 0.4, 0.7)
#: Of how many of a unit's rows, evenly, at most.
MOST_LOOKED = 3000
#: Of so many of a family one is timed: that of which least is known. And of every family's telling shapes so many come first.
CANDIDATES, FIRST = 4, 2
#: Where more than this share of the time went into compiling, kernels that were compiled before are timed at more sizes instead of new ones.
COMPILING_SHARE = 0.4
#: Compiling the telling shapes' kernels may take the first share of the budget; beyond it, up to the second share is granted on top.
MOST_COMPILING, GRANTED = 0.5, 0.25
#: What is kept of the budget for kernels beside a busy other unit: a share of it, and seconds at most, enough for every pair.
BESIDE_SHARE, BESIDE_S = 0.07, 7.0
#: What else is measured aside comes about every so many seconds, but at least and at most so many times within the budget.
ASIDE_S, LEAST_ASIDES, MOST_ASIDES = 30.0, 4, 24
#: What the fit and whole runs take after a quick round's measuring, in seconds: on x86-64, 2026-11. For the remaining time alone.
AFTER_S = 6.0
#: Fewer rows are no profile after an interruption.
LEAST_ROWS = 30


def profile_devices(cpu_device: Device, gpu_device: Device | None = None, *, time_budget_s: float = 45.0, threads: int = 1,
                    progress: Progress | None = None, table: str | os.PathLike[str] | None = None, resume: bool = False,
                    isolated: Isolated | None = None, adaptive: bool = True, seed: int = 0,
                    aside: Callable[[], None] | None = None) -> tuple[DeviceProfile, list[Measurement]]:
    """Measures a CPU with that many threads, and a GPU where there is one: facts, fixed costs, kernels; then the fit.

    Where an emulated GPU takes cores from the CPU, the CPU is also measured with all its cores, for plans that leave the GPU alone.
    `time_budget_s` (seconds) is for everything but the fit at the end. On a machine's first profile compiling kernels takes much of it: then
    those that are compiled are timed at more sizes, instead of others; what takes more than half of it is not counted, up to a quarter. Every row
    is appended to the CSV file `table` as it is measured; with `resume` its rows are kept and added to. An interruption (Ctrl-C) ends the measuring,
    and what is there is fitted. With `isolated`, the GPU's kernels are timed there: those that hang or crash a driver are left out, listed beside the
    table, and the round goes on; an operator with several such has no kernel in the profile. Without `adaptive`, shapes are drawn at random, whatever
    is known already; `seed`: which ones. `aside` is called several times meanwhile, for what else is to be measured in many moments. Returns the
    profile and every measurement. Raises DeviceError where a device fails, UsageError where the table is of another board.
    """
    campaign = Campaign(cpu_device, gpu_device, time_budget_s, threads, progress, isolated if gpu_device is not None else None, adaptive, seed, aside)
    if table is not None:
        campaign.keep(Path(table), resume)
    try:
        campaign.measure()
    except KeyboardInterrupt:
        if len(campaign.rows) < LEAST_ROWS:
            raise
        log.warning("interrupted: fitting the %d timings made so far", len(campaign.rows))
    finally:
        campaign.close()
    return campaign.fit(), campaign.rows


class Campaign:
    """One round of measuring: which units, what was measured so far, and the time left."""

    def __init__(self, cpu: Device, gpu: Device | None, budget: float, threads: int, progress: Progress | None = None,
                 isolated: Isolated | None = None, adaptive: bool = True, seed: int = 0, aside: Callable[[], None] | None = None):
        self.adaptive, self.seed, self.aside = adaptive, seed, aside
        self.begun = time.perf_counter()
        self.budget, self.say = budget, progress or (lambda done, total, what: None)
        self.tell("fixed costs", self.left)
        self.ways: dict[str, Any] = {}
        if gpu is not None:
            gpu, sharing_us, waiting_us = best_used(gpu)
            self.ways = {"waiting": gpu.waiting, "sharing_us": rounded(sharing_us), "waiting_us": rounded(waiting_us)}
            if (found := image_costs(gpu)) is not None:
                self.ways |= {"image_shares": rounded(found.shares), **rounded({"image_us": found.us, "image_gbs": found.gbs})}
            if isolated is not None:
                isolated.sharing = gpu.sharing
        self.devices: dict[str, Device] = {"cpu": cpu, **({"gpu": gpu} if gpu is not None else {})}
        self.threads = {"cpu": threads, "gpu": threads}
        if (alone := threads_alone(self.devices, threads)) > threads:
            self.devices[ALONE], self.threads[ALONE] = cpu, alone
        self.fixed = {unit: fixed_costs(device, self.threads[unit]) for unit, device in self.devices.items()}
        self.facts = {unit: board_facts(device) for unit, device in self.devices.items()}
        self.rows: list[Measurement] = []
        self.nodes: list[tuple[Sample, Measurement, Measurement]] = []
        self.file: Any = None
        self.quarantine = None if gpu is None or isolated is None else Quarantine(gpu, isolated, threads, self.fixed["gpu"]["wait_us"])
        self.compiling_s = self.granted = 0.0
        self.climate, self.neighbours = Climate(), Neighbours()
        self.choosing = Choosing({})

    def tell(self, what: str, left_s: float) -> None:
        """Says what is done now, and how many seconds are left."""
        self.say(self.spent, self.spent + left_s, what)

    @property
    def spent(self) -> float:
        return time.perf_counter() - self.begun

    @property
    def left(self) -> float:
        """Seconds until all is done, as far as can be seen."""
        return max(0.0, self.budget - self.spent) + AFTER_S

    def keep(self, path: Path, resume: bool) -> None:
        """Appends rows to that file from now on. Raises UsageError where its rows are of another board."""
        if resume and path.exists() and len(path.read_bytes().splitlines()) > 1:  # more than a header
            self.rows = read_table(path)
            names = {d.facts.name for d in self.devices.values()}
            strange = {r.device for r in self.rows} - names
            if strange:
                raise UsageError("cannot resume: the table is of another board", where=str(path), found=", ".join(sorted(strange)),
                                 expected=" and ".join(sorted(names)))
            write_table(self.rows, path)  # an older version's table may have fewer columns
        else:
            write_table([], path)
        self.file = open_table(path)
        if self.quarantine is not None:
            self.quarantine.keep(path.with_suffix(".quarantine.json"), resume)

    def add(self, row: Measurement) -> None:
        self.rows.append(row)
        if self.file is not None:
            append_row(self.file, row)

    def measure(self) -> None:
        """Times samples, a dozen at once, until the budget is spent."""
        # Much time, or a table that has grown already, allows larger kernels; whoever resumes draws other shapes.
        large = self.budget >= 120 or len(self.rows) > MANY_ROWS
        sampler = Sampler(len(self.rows) + self.seed, large, first=0 if self.rows else FIRST)
        looks = [share * self.budget for share in LOOKS] if self.adaptive else []
        if self.rows and self.adaptive:
            self.look(sampler)
        stream, company = iter(sampler), min(COMPANY, max(2, int(self.budget / 3)))
        drawn = [sample for _, sample in islice(stream, len(SHAPES) if sampler.first else 0)]
        asides, each = 0, self.budget / min(MOST_ASIDES, max(LEAST_ASIDES, self.budget / ASIDE_S))
        ends, telling = self.budget - min(BESIDE_SHARE * self.budget, BESIDE_S), bool(drawn)
        while not self.rows or self.spent < ends:
            if not drawn and telling:
                self.grant(self.compiling_s - MOST_COMPILING * self.budget)
                telling = False
            if not drawn:  # a network's neighbours are of much the same size, and what a kernel finds in the caches depends on it
                if self.adaptive and not self.choosing.facts:
                    self.look(sampler)
                drawn = sorted(self.draw(sampler, stream, company * RANKS), key=activation_bytes)
            taken, drawn = drawn[:company], drawn[company:]
            self.tell(f"{taken[0].node.op_type} {taken[0].node.inputs[0].shape} and {len(taken) - 1} others", self.left)
            self.together(taken)
            if self.aside is not None and self.spent > (asides + 0.5) * each:
                asides, before = asides + 1, self.spent
                self.tell("whole runs", self.left)
                self.aside()
                if asides == 1:  # most of it went into compiling
                    self.grant(self.spent - before)
            if looks and self.spent > looks[0]:
                looks.pop(0)
                self.look(sampler)
        if "gpu" in self.devices:
            self.beside()
        if self.compiling_s > COMPILING_SHARE * self.spent:
            log.info("%.0f of %.0f s went into compiling kernels, once per machine: another `coexec profile` has that time for measuring",
                     self.compiling_s, self.spent)
        self.tell("fitting", AFTER_S)

    def grant(self, compiling_s: float) -> None:
        """Does not count what compiling took, up to a share of the budget in all: a slow machine needs time to measure, too."""
        more = min(max(0.0, compiling_s), GRANTED * self.budget - self.granted)
        self.granted += more
        self.begun += more

    def together(self, samples: Sequence[Sample]) -> None:
        """Times samples in a round on every unit: all compile at once, each in its process, and then they are timed one after the other."""
        made: dict[str, dict[int, Measurement]] = {}
        with ExitStack() as stack:
            rounds: dict[str, SampleRound | Quarantine] = {}
            begun = time.perf_counter()
            if self.quarantine is not None:
                stack.callback(self.quarantine.drop)
                self.quarantine.begin(samples)
            numbered = [with_numbers(s) for s in samples]
            for unit, device in self.devices.items():
                if unit == "gpu" and self.quarantine is not None:
                    rounds[unit] = self.quarantine
                else:
                    rounds[unit] = stack.enter_context(SampleRound(unit, device, numbered, self.threads[unit], self.fixed[unit]["wait_us"]))
            if self.quarantine is not None:
                self.quarantine.ready()
            self.compiling_s += time.perf_counter() - begun
            for unit, one in rounds.items():
                for sample, row in zip(samples, one.time()):
                    if row is not None:
                        self.add(row)
                        made.setdefault(unit, {})[id(sample)] = row
                if self.spent > self.budget:
                    break
        self.climate.look()
        for sample in samples:
            both = [made.get(unit, {}).get(id(sample)) for unit in ("cpu", "gpu")]
            if None not in both and max(r.latency_us for r in both) < 3000:
                self.nodes.append((sample, *both))

    def draw(self, sampler: Sampler, stream: Iterator[tuple[str, Sample]], count: int) -> list[Sample]:
        """So many samples; after a first look, each is that of several of its family of which least is known.

        While compiling takes most of the time, of those whose kernels are compiled; fewer samples where there are few such.
        """
        drawn = list(islice(stream, count))
        if not self.choosing.facts:
            return [sample for _, sample in drawn]
        self.choosing.learn(self.rows)
        several = [[sample, *(sampler.draw(name) for _ in range(CANDIDATES - 1))] for name, sample in drawn]
        slow = self.compiling_s > COMPILING_SHARE * self.spent
        return self.choosing.best(several, only_compiled=slow) or [sample for _, sample in drawn]

    def look(self, sampler: Sampler) -> None:
        """Tells the sampler by how much quick fits miss each family on the rows themselves (median), and the choice how kernels cut their work."""
        found: dict[str, list[float]] = {}
        for unit in self.devices:
            mine = [r for r in self.of(unit) if not r.busy_other]
            if not mine:
                continue
            known = facts_of_rows(mine, self.facts[unit])
            mine = mine[::-(-len(mine) // MOST_LOOKED)]
            us = KernelFits(mine, known, correct=False).predict(mine)
            for row, guess in zip(mine, us):
                if np.isfinite(guess):
                    found.setdefault(family(node_of(row)), []).append(abs(guess / row.latency_us - 1))
            if unit != ALONE:
                self.choosing.facts[unit] = known
        sampler.error = {name: float(np.median(v)) for name, v in found.items()}

    def beside(self) -> None:
        """Times pairs of kernels at work together, one of each unit: how much they take from one another."""
        by_bound: dict[str, list[tuple[Sample, Measurement, Measurement]]] = {}
        for kernel, (at, _, _) in kernels_of([theirs for _, _, theirs in self.nodes], facts_of_rows(self.of("gpu"), self.facts["gpu"])).items():
            by_bound.setdefault(bound_by(kernel), []).extend(self.nodes[i] for i in at)
        turns = [e for pair in zip_longest(*(sorted(v, key=lambda e: -e[1].latency_us)[:24:2] for v in by_bound.values())) for e in pair if e]
        for number, entry in enumerate(turns):
            if self.spent > self.budget:
                break
            other = turns[(number + len(turns) // 2) % len(turns)] if number % 2 else entry
            self.tell("both units at work", self.left)
            for row in self.pair(entry, other):
                self.add(row)

    def pair(self, ours: tuple[Sample, Measurement, Measurement], theirs: tuple[Sample, Measurement, Measurement]) -> list[Measurement]:
        """One kernel of each unit, repeated until the GPU's are done; empty where a driver cannot run it."""
        cache = int(self.facts["cpu"].get("l2_bytes", 1 << 20))
        node, other = (with_numbers(e[0]).node for e in (ours, theirs))
        try:
            with Bench(self.devices["cpu"], node, ours[0].region, self.threads["cpu"], copies=copies_for(node, ours[0].region, cache)) as cpu, \
                    Bench(self.devices["gpu"], other, theirs[0].region, copies=copies_for(other, theirs[0].region, cache)) as gpu:
                cpu_ratio, gpu_ratio = together(cpu, gpu, theirs[2].latency_us)
        except DeviceError as error:
            log.warning("%s; left out of the profile", error)
            return []
        return [replace(ours[1], busy_other=1, latency_us=round(ours[1].latency_us * cpu_ratio, 3), spread_us=None, count=None),
                replace(theirs[2], busy_other=1, latency_us=round(theirs[2].latency_us * gpu_ratio, 3), spread_us=None, count=None)]

    def of(self, unit: str) -> list[Measurement]:
        """The rows of a unit; those of the CPU with that unit's number of threads."""
        if unit == "gpu":
            return [r for r in self.rows if r.unit == "gpu"]
        return [r for r in self.rows if r.unit == "cpu" and r.threads == self.threads[unit]]

    def fit(self) -> DeviceProfile:
        """The profile of what was measured."""
        fitted = sections({unit: Asked(unit[:3], rows, self.facts[unit]) for unit in self.devices if (rows := self.of(unit))})
        made = {unit: measured(unit, device, fitted.get(unit), self.threads[unit], self.fixed[unit]) for unit, device in self.devices.items()}
        others = self.neighbours.share()
        around = self.climate.facts() | ({} if others is None else {"others_share": round(others, 3)})
        made["cpu"] = replace(made["cpu"], facts={**made["cpu"].facts, **around})
        team = biggest(self.threads["cpu"], usable())
        if len(team) < (os.cpu_count() or 1):
            made["cpu"] = replace(made["cpu"], cores=tuple(sorted(team)))
        if "gpu" in made:
            made["gpu"] = replace(made["gpu"], **self.ways)
        if self.quarantine is not None and (refused := self.quarantine.refused()):
            made["gpu"] = replace(made["gpu"], operators=tuple(o for o in made["gpu"].operators if o not in refused))
        name = " + ".join(self.devices[u].facts.name for u in ("cpu", "gpu") if u in self.devices)
        return DeviceProfile(name, made["cpu"], made.get("gpu"), machine(), made.get(ALONE))

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.quarantine is not None:
            self.quarantine.close()


def activation_bytes(sample: Sample) -> int:
    """What a sample reads and writes, its weights left out."""
    return sum(v.type.nbytes for v in (*sample.node.inputs, *sample.node.outputs) if v is not None and not v.is_constant)


def measured(unit: str, device: Device, fitted: UnitProfile | None, threads: int, fixed: dict[str, float]) -> UnitProfile:
    """A unit's section: what its rows say, where there are any, with the device's own facts and measured fixed costs."""
    facts = device.facts
    base = fitted or UnitProfile(facts.name, 1.0, 1.0)
    short = rounded({k: v for k, v in fixed.items() if k != "wait_us"})
    return replace(
        base, name=facts.name, driver=facts.driver, emulated=facts.emulated, compute_units=facts.compute_units,
        threads=0 if unit == "gpu" else threads,
        dtypes=tuple(sorted(facts.dtypes)), operators=tuple(sorted(operators(device))) if unit == "gpu" else (),
        sharing=device.sharing or next(iter(facts.sharing), ""), provenance="measured" if fitted else "estimated",
        **{"launch_us": 0.0, "sync_us": 0.0, **short},
    )
