"""Rows of the table: samples timed on a device, a dozen in company, one by itself, or one beside a busy other unit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..devices.base import Device, Event
from ..errors import DeviceError
from .measure import Bench, Timing, copies_for, with_constants
from .references import named
from .rounds import NoClock, Round
from .sampler import Sample
from .table import Measurement, describe, tail_text, whole_of_piece

log = logging.getLogger("coexec")

#: How often a pair of kernels is timed, apart and together.
PAIR_TURNS = 5


def with_numbers(sample: Sample) -> Sample:
    """The sample with numbers in its weights."""
    return replace(sample, node=with_constants(sample.node, np.random.default_rng(0)))


class SampleRound:
    """Samples made ready on a device, their kernels compiled. A context manager.

    They are timed in company, as a run has them; one by one where the device cannot be timed like that. The nodes' weights are numbers.
    trying: is told the index of each sample before its kernel is compiled and first run.
    """

    def __init__(self, unit: str, device: Device, samples: Sequence[Sample], threads: int, wait_us: float,
                 trying: Callable[[int], object] = lambda index: None):
        self.unit, self.device, self.samples, self.threads = unit, device, samples, threads
        self._wait_us, self._trying = wait_us, trying
        self._company: Round | None = None
        try:
            self._company = Round(device, [(s.node, s.region) for s in samples], threads, trying)
            for error in self._company.errors.values():
                log.warning("%s: %s; left out of the profile", device.facts.name, error)
        except NoClock as error:
            log.info("%s", error)

    def time(self) -> list[Measurement | None]:
        """A row for each sample, None where the device has no such kernel."""
        if self._company is not None:
            try:
                found = self._company.time()
                names = ["" if turn is None else turn.kernel.implementation for turn in self._company.turns]
                return [None if t is None else row_of(self.unit, self.device, s, self.threads, name, t)
                        for s, t, name in zip(self.samples, found, names)]
            except NoClock as error:
                log.info("%s", error)
                self.close()
        return [time_sample(self.unit, self.device, s, self.threads, self._wait_us, trying=partial(self._trying, i))
                for i, s in enumerate(self.samples)]

    def close(self) -> None:
        if self._company is not None:
            self._company.close()
            self._company = None

    def __enter__(self) -> SampleRound:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def time_round(unit: str, device: Device, samples: Sequence[Sample], threads: int, wait_us: float) -> list[Measurement | None]:
    """A row for each sample, made ready and timed at once."""
    with SampleRound(unit, device, samples, threads, wait_us) as made:
        return made.time()


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
