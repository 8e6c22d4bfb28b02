"""profile_devices: measures the devices of this machine and fits their profile."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..cost.compose import ALONE
from ..cost.features import family
from ..cost.kernels import bound_by
from ..devices.base import Device, Event, Handshake, TensorView
from ..devices.cores import biggest, usable
from ..devices.fusing import Await, Doing, Put, fused
from ..errors import DeviceError, UsageError
from ..graph.ir import Node, TensorType, Value
from ..ops import native_ops
from ..profiles import DeviceProfile, Machine, UnitProfile, rounded
from ..regions import Region
from .choosing import Choosing
from .climate import Climate
from .fit import KernelFits, facts_of_rows, fit_profile_from_table, kernels_of, section_from_rows
from .images import image_costs
from .isolation import Isolated, KernelLost
from .measure import Bench, Timing, copies_for, measure, with_constants
from .references import named
from .rounds import COMPANY, NoClock, Round, caches
from .sampler import SHAPES, Sample, Sampler, cut_samples, whole_of
from .table import Measurement, append_row, describe, node_of, open_table, read_table, tail_text, whole_of_piece, write_table
from .ways import best_used

log = logging.getLogger("coexec")

#: (seconds since it began, seconds in all as far as can be seen by now or 0 where nothing can be said, what is done)
Progress = Callable[[float, float, str], None]

__all__ = ["fit_profile_from_table", "profile_devices"]

#: Bytes of the move that tells the bandwidth between two memories.
MOVE_BYTES = 8 << 20
#: So many rounds' samples are drawn at once, and ranked by size.
RANKS = 5
#: With so many rows there is time for large kernels.
MANY_ROWS = 1500
#: Shares of the budget after which fits are made, so that what is predicted badly is sampled more.
LOOKS = (0.2, 0.4, 0.7)
#: Of so many of a family one is timed: that of which least is known. And of every family's telling shapes so many come first.
CANDIDATES, FIRST = 4, 2
#: The share of the budget from which on kernels are timed beside a busy other unit.
BESIDE = 0.85
#: Shapes of each family whose kernels are compiled before anything is timed.
PREPARED = 2
#: What has to be done before measuring, in parts of the whole: trying ways to share and to wait, compiling the CPU's reference kernels, and a
#: family's, and any other's. From empty caches on x86-64, 2026-11, where they were seconds. For the remaining time that is told alone; how long a
#: part takes is seen from the parts before.
FIXED, REFERENCES = 8.3, 5.8
COMPILING = {"conv_1x1": 3.1, "conv_3x3": 3.7, "conv_dense": 1.9, "conv_depthwise": 1.9, "conv_transpose": 2.2, "pool": 1.2}
COMPILING_OTHERS = 0.3
#: What is seen of a machine's pace in less time than this, in seconds, says nothing.
LEAST_SEEN_S = 1.0
#: What the fit and whole runs take after a quick round's measuring, in seconds: on x86-64, 2026-11. For the remaining time alone.
AFTER_S = 6.0
#: With less time than this, in seconds, nothing is compiled in advance.
PREPARING_S = 20.0
#: How often a pair of kernels is timed, apart and together.
PAIR_TURNS = 5
#: An operator of which so many kernels hung or crashed the driver is not run on that GPU.
MOST_LOST = 3
#: Fewer rows are no profile after an interruption.
LEAST_ROWS = 30


def profile_devices(cpu_device: Device, gpu_device: Device | None = None, *, time_budget_s: float = 45.0, threads: int = 1,
                    progress: Progress | None = None, table: str | os.PathLike[str] | None = None, resume: bool = False,
                    isolated: Isolated | None = None, adaptive: bool = True, seed: int = 0) -> tuple[DeviceProfile, list[Measurement]]:
    """Measures a CPU with that many threads, and a GPU where there is one: facts, fixed costs, kernels; then the fit.

    Where an emulated GPU takes cores from the CPU, the CPU is also measured with all its cores, for plans that leave the GPU alone.
    `time_budget_s` (seconds) is for everything but the fit at the end and, before, compiling each family's kernels, which takes about half a
    minute once per machine. Every row is appended to the CSV file
    `table` as it is measured; with `resume` its rows are kept and added to. An interruption (Ctrl-C) ends the measuring, and what is
    there is fitted. With `isolated`, the GPU's kernels are timed there: those that hang or crash a driver are left out, listed beside the
    table, and the round goes on; an operator with several such has no kernel in the profile. Without `adaptive`, shapes are drawn at random, whatever
    is known already; `seed`: which ones. Returns the profile and every measurement.
    Raises DeviceError where a device fails, UsageError where the table is of another board.
    """
    campaign = Campaign(cpu_device, gpu_device, time_budget_s, threads, progress, isolated if gpu_device is not None else None, adaptive, seed)
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
                 isolated: Isolated | None = None, adaptive: bool = True, seed: int = 0):
        self.adaptive, self.seed = adaptive, seed
        self.started = self.begun = time.perf_counter()
        self.budget, self.say = budget, progress or (lambda done, total, what: None)
        if budget < PREPARING_S:
            self.tell("fixed costs", budget + AFTER_S)
        else:
            self.tell(f"fixed costs; compiling kernels, once per machine, and {budget:.0f} s of measuring follow", None)
        self.ways: dict[str, Any] = {}
        if gpu is not None:
            gpu, sharing_us, waiting_us = best_used(gpu)
            self.ways = {"waiting": gpu.waiting, "sharing_us": rounded(sharing_us), "waiting_us": rounded(waiting_us)}
            if (found := image_costs(gpu)) is not None:
                self.ways |= {"image_shares": rounded(found.shares), **rounded({"image_us": found.us, "image_gbs": found.gbs})}
            if isolated is not None:
                isolated.sharing = gpu.sharing
        self.prepare(cpu, isolated if gpu is not None else None, threads)
        self.devices: dict[str, Device] = {"cpu": cpu, **({"gpu": gpu} if gpu is not None else {})}
        self.threads = {"cpu": threads, "gpu": threads}
        cores = cpu.facts.compute_units
        if gpu is not None and gpu.facts.emulated and cores > threads:
            self.devices[ALONE], self.threads[ALONE] = cpu, cores
        self.fixed = {unit: fixed_costs(device, self.threads[unit]) for unit, device in self.devices.items()}
        self.facts = {unit: board_facts(device) for unit, device in self.devices.items()}
        self.rows: list[Measurement] = []
        self.nodes: list[tuple[Sample, Measurement, Measurement]] = []
        self.file: Any = None
        self.isolated = isolated
        self.lost: dict[str, dict[str, str]] = {}
        self.lost_path: Path | None = None
        self.climate = Climate()
        self.choosing = Choosing({})

    def prepare(self, cpu: Device, isolated: Isolated | None, threads: int) -> None:
        """Compiles every family's kernels, before the clock begins to run: a machine's first profile would have time for little else.

        Both units' at once, each in its own process. What is timed meanwhile is thrown away; a kernel that is lost will be again, in a round.
        """
        if self.budget < PREPARING_S:
            return
        begun, left = time.perf_counter(), self.budget - self.spent + AFTER_S
        told = f"compiling kernels, once per machine; {self.budget:.0f} s of measuring follow"
        wholes = {name: [whole_of(row) for row in rows[:PREPARED]] for name, rows in SHAPES.items()}
        families = {name: [*rows, *(piece for row in rows for piece in cut_samples(row, 0.5))] for name, rows in wholes.items()}
        firsts = [sample for rows in families.values() for sample in rows]
        done, total = FIXED, FIXED + REFERENCES + sum(COMPILING.get(name, COMPILING_OTHERS) for name in families)

        def tell(what: str) -> None:
            took = time.perf_counter() - self.started
            self.tell(what, left + took * (total - done) / done if took > LEAST_SEEN_S else None)

        tell(told)
        if isolated is not None:
            try:
                isolated.begin(firsts, threads, 0.0)
            except DeviceError:
                isolated = None
        with suppress(DeviceError):
            Round(cpu, [], threads).close()
        done += REFERENCES
        tell(told)
        for name, rows in families.items():
            done += COMPILING.get(name, COMPILING_OTHERS)  # the first of a family takes most of its time
            for sample in map(ready, rows):
                with suppress(DeviceError):
                    Round(cpu, [(sample.node, sample.region)], threads).close()
                tell(f"{told}: {sample.node.op_type}")
        if isolated is not None:
            with suppress(DeviceError):
                isolated.end()
        self.begun += time.perf_counter() - begun

    def tell(self, what: str, left_s: float | None) -> None:
        """Says what is done now, and how many seconds are left; None where that cannot be said yet."""
        gone = time.perf_counter() - self.started
        self.say(gone, 0.0 if left_s is None else gone + left_s, what)

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
        self.lost_path = path.with_suffix(".quarantine.json")
        if resume and self.lost_path.exists():
            self.lost = read_quarantine(self.lost_path)
        else:
            self.lost_path.unlink(missing_ok=True)

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
        stream, company, drawn = iter(sampler), min(COMPANY, max(2, int(self.budget / 3))), []
        while not self.rows or self.spent < BESIDE * self.budget:
            if not drawn:  # a network's neighbours are of much the same size, and what a kernel finds in the caches depends on it
                drawn = sorted(self.draw(sampler, stream, company * (RANKS if self.rows else 1)), key=activation_bytes)
            taken, drawn = drawn[:company], drawn[company:]
            self.tell(f"{taken[0].node.op_type} {taken[0].node.inputs[0].shape} and {len(taken) - 1} others", self.left)
            self.together(taken)
            if looks and self.spent > looks[0]:
                looks.pop(0)
                self.look(sampler)
        if "gpu" in self.devices:
            self.beside()
        self.tell("fitting", AFTER_S)

    def together(self, samples: Sequence[Sample]) -> None:
        """Times samples in a round on every unit."""
        made: dict[str, dict[int, Measurement]] = {}
        for unit, device in self.devices.items():
            if unit == "gpu" and self.isolated is not None:
                found = self.apart(samples)
            else:
                found = time_round(unit, device, [ready(s) for s in samples], self.threads[unit], self.fixed[unit]["wait_us"])
            for sample, row in zip(samples, found):
                if row is not None:
                    self.add(row)
                    made.setdefault(unit, {})[id(sample)] = row
            if self.spent > self.budget and self.rows:
                break
        self.climate.look()
        for sample in samples:
            both = [made.get(unit, {}).get(id(sample)) for unit in ("cpu", "gpu")]
            if None not in both and max(r.latency_us for r in both) < 3000:
                self.nodes.append((sample, *both))

    def apart(self, samples: Sequence[Sample]) -> list[Measurement | None]:
        """Timings on the GPU in a process of its own; None where there is no such kernel, or it was lost, now or before."""
        found: list[Measurement | None] = [None] * len(samples)
        left = [i for i, s in enumerate(samples) if called(s) not in self.lost and s.node.op_type not in self.refused()]
        while left:
            try:
                told = self.isolated.round([samples[i] for i in left], self.threads["gpu"], self.fixed["gpu"]["wait_us"])  # type: ignore[union-attr]
                for i, one in zip(left, told):
                    found[i] = one
                return found
            except KernelLost as error:
                if error.index is None and len(left) > 1:  # it ran once, and failed among others: each by itself will tell
                    for i in left:
                        found[i], = self.apart([samples[i]])
                    return found
                self.lose(samples[left.pop(error.index or 0)], error)
            except DeviceError as error:
                log.warning("%s; its kernels are timed in this process", error)
                self.isolated = None
                told = time_round("gpu", self.devices["gpu"], [ready(samples[i]) for i in left], self.threads["gpu"], self.fixed["gpu"]["wait_us"])
                for i, one in zip(left, told):
                    found[i] = one
                return found
        return found

    def lose(self, sample: Sample, error: KernelLost) -> None:
        """Remembers a kernel that is not tried again."""
        log.warning("%s: %s: %s; left out of the profile", self.devices["gpu"].facts.name, called(sample), error)
        self.lost[called(sample)] = {"op_type": sample.node.op_type, "reason": str(error)}
        if self.lost_path is not None:
            files.write(self.lost_path, json.dumps(self.lost, indent=1))

    def refused(self) -> set[str]:
        """Operators of which so many kernels were lost that the GPU is better not given any."""
        count = Counter(told["op_type"] for told in self.lost.values())
        return {op_type for op_type, number in count.items() if number >= MOST_LOST}

    def draw(self, sampler: Sampler, stream: Iterator[tuple[str, Sample]], count: int) -> list[Sample]:
        """So many samples; after a first look, each is that of several of its family of which least is known."""
        drawn = list(islice(stream, count))
        if not self.choosing.facts:
            return [sample for _, sample in drawn]
        self.choosing.learn(self.rows)
        return self.choosing.best([[sample, *(sampler.draw(name) for _ in range(CANDIDATES - 1))] for name, sample in drawn])

    def look(self, sampler: Sampler) -> None:
        """Tells the sampler by how much quick fits miss each family on the rows themselves (median), and the choice how kernels cut their work."""
        found: dict[str, list[float]] = {}
        for unit in self.devices:
            mine = [r for r in self.of(unit) if not r.busy_other]
            if not mine:
                continue
            known = facts_of_rows(mine, self.facts[unit])
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
        for entry in self.nodes:
            key = next((bound_by(k) for k in kernels_of([entry[2]], facts_of_rows(self.of("gpu"), self.facts["gpu"]))), "memory")
            by_bound.setdefault(key, []).append(entry)
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
        node, other = (with_constants(e[0].node, np.random.default_rng(0)) for e in (ours, theirs))
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
        made = {unit: section(unit, device, self.of(unit), self.threads[unit], self.fixed[unit], self.facts[unit])
                for unit, device in self.devices.items()}
        made["cpu"] = replace(made["cpu"], facts={**made["cpu"].facts, **self.climate.facts()})
        team = biggest(self.threads["cpu"], usable())
        if len(team) < (os.cpu_count() or 1):
            made["cpu"] = replace(made["cpu"], cores=tuple(sorted(team)))
        if "gpu" in made:
            made["gpu"] = replace(made["gpu"], **self.ways)
        if "gpu" in made and self.refused():
            made["gpu"] = replace(made["gpu"], operators=tuple(o for o in made["gpu"].operators if o not in self.refused()))
        name = " + ".join(self.devices[u].facts.name for u in ("cpu", "gpu") if u in self.devices)
        return DeviceProfile(name, made["cpu"], made.get("gpu"), machine(), made.get(ALONE))

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.isolated is not None:
            self.isolated.close()


def read_quarantine(path: Path) -> dict[str, dict[str, str]]:
    """What an earlier round lost, by sample. Raises UsageError where the file is no such list."""
    try:
        found = json.loads(path.read_text())
        if all(isinstance(v["op_type"], str) and isinstance(v["reason"], str) for v in found.values()):
            return found
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    raise UsageError("not a list of lost kernels", where=str(path), expected="what an earlier round wrote", hint="delete it, or leave out --resume")


def activation_bytes(sample: Sample) -> int:
    """What a sample reads and writes, its weights left out."""
    return sum(v.type.nbytes for v in (*sample.node.inputs, *sample.node.outputs) if v is not None and not v.is_constant)


def ready(sample: Sample) -> Sample:
    """The sample with numbers in its weights."""
    return replace(sample, node=with_constants(sample.node, np.random.default_rng(0)))


def called(sample: Sample) -> str:
    """What a lost kernel is remembered by."""
    return f"{sample.node.op_type} {sample.node.inputs[0].shape} -> {[(i.start, i.stop) for i in sample.region]}"


def time_round(unit: str, device: Device, samples: Sequence[Sample], threads: int, wait_us: float,
               trying: Callable[[int], object] = lambda index: None) -> list[Measurement | None]:
    """A row for each sample, None where the device has no such kernel.

    In company, as a run has them; one by one where the device cannot be timed like that. The nodes' weights are numbers.
    """
    try:
        with Round(device, [(s.node, s.region) for s in samples], threads, trying) as company:
            found = company.time()
            names = [None if t is None else t.kernel.implementation for t in company.turns]
            for error in company.errors.values():
                log.warning("%s: %s; left out of the profile", device.facts.name, error)
    except NoClock as error:
        log.info("%s", error)
        return [time_sample(unit, device, s, threads, wait_us, trying=partial(trying, i)) for i, s in enumerate(samples)]
    return [None if t is None else row_of(unit, device, s, threads, name or "", t) for s, t, name in zip(samples, found, names)]


def time_sample(unit: str, device: Device, sample: Sample, threads: int, wait_us: float, seconds: float = 0.01,
                trying: Callable[[], object] = lambda: None) -> Measurement | None:
    """The row of one timing by itself; None where the device has no such kernel."""
    node, region = sample.node, sample.region
    if device.declines(node) is not None:
        return None
    trying()
    try:
        with Bench(device, node, region, threads, copies=copies_for(node, region, 1 << 20)) as bench:
            return row_of(unit, device, sample, threads, bench.kernel.implementation, bench.time(wait_us, seconds))
    except DeviceError as error:  # one kernel that a driver cannot build must not cost the whole profile
        log.warning("%s: %s; left out of the profile", device.facts.name, error)
        return None


def row_of(unit: str, device: Device, sample: Sample, threads: int, implementation: str, found: Timing) -> Measurement:
    """A timing as a row of the table, beside what the reference kernels took."""
    node = sample.node
    return Measurement(device.facts.name, "gpu" if unit == "gpu" else "cpu", None if unit == "gpu" else threads, node.op_type,
                       implementation + tail_text(node), node.output.dtype.name, **describe(node, sample.region), busy_other=0,
                       latency_us=round(found.median_us, 3), spread_us=round(found.spread_us, 3), count=found.count,
                       **whole_of_piece(node, sample.region), **named(found.reference_ns))


def together(cpu: Bench, gpu: Bench, gpu_us: float) -> tuple[float, float]:
    """How many times as long one CPU and one GPU kernel take while both units work all the time: the median of a few turns.

    By itself and in company each is repeated in the same way, in turns, so that nothing else makes the difference.
    """
    many = max(2, int(10e3 / max(gpu_us, 1.0)))
    found = []

    def start() -> Event:
        turns = len(gpu.kernels)
        for turn in range(many):
            event = gpu.kernels[turn % turns].start()
        gpu.queue.flush()
        return event

    cpu.queue.begin_run()
    try:
        for _ in range(PAIR_TURNS):
            begun = time.perf_counter()
            start().wait()
            gpu_alone, begun, count = time.perf_counter() - begun, time.perf_counter(), 0
            while time.perf_counter() - begun < gpu_alone or not count:
                cpu.run()
                count += 1
            cpu_alone, begun, count = (time.perf_counter() - begun) / count, time.perf_counter(), 0
            event, started = start(), time.perf_counter()
            while not event.done:
                cpu.run()
                count += 1
            ended = time.perf_counter()
            event.wait()
            if count:
                found.append(((ended - started) / count / cpu_alone, (ended - begun) / gpu_alone))
    finally:
        cpu.queue.end_run()
    if not found:
        raise DeviceError("the GPU was done before the CPU began", where=gpu.device.facts.name)
    return tuple(np.median(found, axis=0).tolist())  # type: ignore[return-value]


def board_facts(device: Device) -> dict[str, float]:
    """What decides how kernels cut their work, as far as the device or the system tells."""
    found: dict[str, float] = {}
    extra = device.facts.extra
    if device.facts.kind == "cpu" or device.facts.emulated:
        found.update(caches())
    if device.asynchronous and "svm" in device.facts.sharing:
        from ..devices.cpu.simd import ROWS  # compiled kernels are needed by nobody who reads a profile

        found["common_rows"] = float(ROWS)
    if "vector_width_float" in extra:
        width = 1 << max(2, min(4, int(extra["vector_width_float"]).bit_length() - 1))
        local = int(extra.get("local_mem_bytes", 0))
        found |= {"gpu_width": float(width), "local_bytes": float(local * 3 // 4 if device.facts.emulated and local >= 128 << 10 else 0)}
    return found


def _relu(size: int) -> Node:
    kind = TensorType(np.dtype(np.float32), (1, 1, 1, size))
    return Node("Relu", (Value("x", kind),), (Value("y", kind),), name="relu")


def fixed_costs(device: Device, threads: int) -> dict[str, float]:
    """launch_us: the host's time to start a kernel. sync_us: to hear that it is done. wait_us: both, beyond the kernel itself. map_us and
    transfer_gbs: of moves between two memories, where they are two.
    """
    tiny, whole = _relu(64), Region([(0, 1)] * 3 + [(0, 64)])
    if device.declines(tiny) is not None:
        raise DeviceError("the device cannot even run a Relu", where=device.facts.name, found=device.declines(tiny))
    with Bench(device, tiny, whole, threads) as bench:
        bench.queue.begin_run()
        try:
            once = measure(bench.run, warmup=10, min_seconds=0.05, min_count=30).low_us  # what disturbs only adds
            if not device.asynchronous:
                return {"launch_us": once, "sync_us": 0.0, "wait_us": 0.0}
            many = measure(lambda: bench.run(33), warmup=2, min_seconds=0.05, min_count=10).low_us
            launch = _launch_us(bench)
        finally:
            bench.queue.end_run()
        ready = _ready_us(bench)
        each = max(0.0, (many - once) / 32)  # what one more kernel costs: the longer of starting and running it
        sync = max(once - launch - each, 0.1 * once)
        moves = _moves(bench)
        handshake = bench.queue.handshake(device.waiting == "flag")
        if handshake is not None:
            counted = _by_counters(bench, handshake)
            if pieces_step(device, threads):
                counted["launch_us"] = _launch_us(bench, is_counted=True)
            return {**counted, "wait_us": max(0.0, once - each), **moves}
    return {"launch_us": launch, "sync_us": sync, "ready_us": min(ready, sync), "wait_us": max(0.0, once - each), **moves}


def _by_counters(bench: Bench, handshake: Handshake, pieces: int = 32) -> dict[str, float]:
    """launch_us, sync_us and ready_us as a session has them that keeps in step by counters: work is enqueued behind a gate, and
    the host and the device tell each other of every piece.
    """
    launches, rounds, looks = [], [], []
    gates = [handshake.sync(number, number + 1) for number in range(pieces)]
    last = handshake.sync(pieces)
    heard, told = handshake.heard, handshake.told
    numbers = range(1, pieces + 1)
    send = _in_a_row([(k.start, k.calls()) for gate in gates[1:] for k in (bench.kernel, gate)])
    talk = _in_a_row([step for n in numbers for step in ((partial(_tell, told, n), [Put(told, n)]), (partial(_hear, heard, n), [Await(heard, n)]))])
    look = _in_a_row([(partial(_hear, heard, 0), [Await(heard, 0)])] * pieces)
    for _ in range(20):
        handshake.reset()
        gates[0].start()
        bench.queue.flush()
        begun = time.perf_counter()
        send()
        bench.queue.flush()
        launches.append((time.perf_counter() - begun) / (pieces - 1))
        event = last.start()
        bench.queue.flush()
        begun = time.perf_counter()
        talk()
        rounds.append((time.perf_counter() - begun) / pieces)
        event.wait()
    for _ in range(20):  # what hearing of a piece that is done already takes
        begun = time.perf_counter()
        look()
        looks.append((time.perf_counter() - begun) / pieces)
    return {"launch_us": float(np.percentile(launches, 10)) * 1e6, "sync_us": float(np.percentile(rounds, 10)) * 1e6,
            "ready_us": float(np.percentile(looks, 10)) * 1e6}


def _in_a_row(actions: Sequence[tuple[Callable[[], Any], Doing]]) -> Callable[[], None]:
    """The actions as a run has them: without Python where that can be."""
    whole = fused(actions)

    def run() -> None:
        for action in whole:
            action()

    return run


def _tell(told: memoryview, number: int) -> None:
    told[0] = number


def _hear(heard: memoryview, number: int) -> None:
    while heard[0] < number:
        pass


def pieces_step(device: Device, threads: int) -> bool:
    """True where a convolution keeps itself in step, as most of a network's pieces then do: no gate of its own has to be started."""
    kind = TensorType(np.dtype(np.float32), (1, 16, 8, 8))
    weights = Value("w", TensorType(np.dtype(np.float32), (16, 16, 1, 1)))
    node = Node("Conv", (Value("x", kind), weights), (Value("y", kind),), {"kernel_shape": [1, 1], "pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1],
                                                                           "group": 1}, name="conv")
    if device.declines(node) is not None:
        return False
    with Bench(device, with_constants(node, np.random.default_rng(0)), Region.whole(kind.shape), threads) as bench:
        handshake = bench.queue.handshake(wanted=True)
        return handshake is not None and handshake.embed(bench.kernel, 0, 0)


def _ready_us(bench: Bench) -> float:
    """Host time of a wait for what is done already."""
    found = []
    for _ in range(20):
        event = bench.kernel.start()
        bench.queue.flush()
        limit = time.perf_counter() + 0.01
        while not event.done and time.perf_counter() < limit:
            pass
        begun = time.perf_counter()
        event.wait()
        found.append(time.perf_counter() - begun)
    return float(np.median(found)) * 1e6


def _launch_us(bench: Bench, is_counted: bool = False) -> float:
    """Host time of one start, of 16 in a row with the queue empty at first; is_counted: as in a run kept in step by counters."""
    start = _in_a_row([(bench.kernel.start, bench.kernel.calls() if is_counted else None)] * 16)
    found = []
    for _ in range(20):
        begun = time.perf_counter()
        start()
        found.append((time.perf_counter() - begun) / 16)
        bench.queue.flush()
        bench.queue.finish()
    return float(np.percentile(found, 10)) * 1e6


def _moves(bench: Bench) -> dict[str, float]:
    buffer = bench.device.allocate(MOVE_BYTES)
    try:
        if buffer.shared:
            return {}
        times = []
        for nbytes in (4096, MOVE_BYTES):
            view = TensorView.contiguous(buffer, np.dtype(np.uint8), Region([(0, nbytes)]))
            up = measure(lambda v=view: bench.queue.upload(v).wait(), min_seconds=0.02).median_us
            down = measure(lambda v=view: bench.queue.download(v).wait(), min_seconds=0.02).median_us
            times.append((up + down) / 2)
        return {"map_us": times[0], "transfer_gbs": MOVE_BYTES / 1e3 / max(times[1] - times[0], 1e-3)}
    finally:
        buffer.close()


def section(unit: str, device: Device, rows: list[Measurement], threads: int, fixed: dict[str, float],
            told: dict[str, float]) -> UnitProfile:
    """A unit's section: what the rows say, with the device's own facts and measured fixed costs."""
    facts = device.facts
    base = section_from_rows("gpu" if unit == "gpu" else "cpu", rows, told) if rows else UnitProfile(facts.name, 1.0, 1.0)
    short = rounded({k: v for k, v in fixed.items() if k != "wait_us"})
    return replace(
        base, name=facts.name, driver=facts.driver, emulated=facts.emulated, compute_units=facts.compute_units,
        threads=0 if unit == "gpu" else threads,
        dtypes=tuple(sorted(facts.dtypes)), operators=tuple(sorted(operators(device))) if unit == "gpu" else (),
        sharing=device.sharing or next(iter(facts.sharing), ""), provenance="measured" if rows else "estimated",
        **{"launch_us": 0.0, "sync_us": 0.0, **short},
    )


def operators(device: Device) -> Iterator[str]:
    """Operator types, with their domain, that the device has kernels for."""
    known = native_ops() if device.operators is None else device.operators
    return (f"{domain}::{op_type}" if domain else op_type for domain, op_type in known)


def machine() -> Machine:
    """This machine in plain words."""
    from .. import __version__

    return Machine(board(), f"{platform.system()} {platform.release()}", platform.machine(), datetime.date.today().isoformat(), __version__)


def board() -> str:
    """What the firmware calls this board; nothing that tells one such board from another."""
    for source in ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name"):
        try:
            named = Path(source).read_text(errors="replace").strip("\0 \n")
        except OSError:
            continue
        if named:
            return named
    return ""
