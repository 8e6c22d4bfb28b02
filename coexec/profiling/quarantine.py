"""A GPU's rounds in a process of its own: kernels that hang or crash the driver are remembered, and left out from then on."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .. import files
from ..devices.base import Device
from ..errors import DeviceError, UsageError
from .isolation import Isolated, KernelLost
from .sampler import Sample
from .table import Measurement
from .timing import with_numbers, time_round

log = logging.getLogger("coexec")

#: An operator of which so many kernels hung or crashed the driver is not run on that GPU.
MOST_LOST = 3


class Quarantine:
    """Rounds of samples on a GPU in a child process; in this one where no child can be had.

    lost: by sample, the operator and the reason.
    """

    def __init__(self, device: Device, isolated: Isolated, threads: int, wait_us: float):
        self.device, self.threads, self.wait_us = device, threads, wait_us
        self.isolated: Isolated | None = isolated
        self.lost: dict[str, dict[str, str]] = {}
        self._path: Path | None = None
        self._samples: list[Sample] = []
        #: Which of those are timed together, group after group; whether the child has been told of the first group, and has compiled it.
        self._groups: list[list[int]] = []
        self._begun = self._built = False

    def keep(self, path: Path, resume: bool) -> None:
        """Writes down there what is lost from now on. Raises UsageError where what lies there is no such list."""
        self._path = path
        if resume and path.exists():
            self.lost = read_quarantine(path)
        else:
            path.unlink(missing_ok=True)

    def refused(self) -> set[str]:
        """Operators of which so many kernels were lost that the GPU is better not given any."""
        count = Counter(told["op_type"] for told in self.lost.values())
        return {op_type for op_type, number in count.items() if number >= MOST_LOST}

    def begin(self, samples: Sequence[Sample]) -> None:
        """Has the child compile them, and returns at once."""
        refused = self.refused()
        left = [i for i, s in enumerate(samples) if called(s) not in self.lost and s.node.op_type not in refused]
        self._samples, self._groups = list(samples), [left] if left else []
        self._begun = self._built = False
        self._start()

    def ready(self) -> None:
        """Waits until what comes next is compiled, but for what is lost at that."""
        while self._groups and self.isolated is not None and not self._built:
            if not self._begun:
                self._start()
                continue
            try:
                self.isolated.built()
                self._built = True
            except KernelLost as error:
                self._without(error)

    def time(self) -> list[Measurement | None]:
        """The rows of what was begun; None where there is no such kernel, or it was lost, now or before."""
        found: list[Measurement | None] = [None] * len(self._samples)
        while self._groups:
            self.ready()
            if not self._groups or self.isolated is None:
                break
            try:
                rows = self.isolated.end()
            except KernelLost as error:
                self._without(error)
                continue
            for i, row in zip(self._groups.pop(0), rows):
                found[i] = row
            self._begun = self._built = False
        left = [i for group in self._groups for i in group]  # of a device that cannot be opened in a process of its own
        if left:
            rows = time_round("gpu", self.device, [with_numbers(self._samples[i]) for i in left], self.threads, self.wait_us)
            for i, row in zip(left, rows):
                found[i] = row
        self._groups = []
        return found

    def drop(self) -> None:
        """Leaves untimed what was begun."""
        if self._groups and self._begun:
            self.close()
        self._groups = []

    def close(self) -> None:
        if self.isolated is not None:
            self.isolated.close()

    def _start(self) -> None:
        try:
            if self._groups and self.isolated is not None:
                self.isolated.begin([self._samples[i] for i in self._groups[0]], self.threads, self.wait_us)
                self._begun = True
        except KernelLost as error:  # the child ended since the last round
            log.info("%s: a new one is started", error)
        except DeviceError as error:
            log.warning("%s; its kernels are timed in this process", error)
            self.isolated = None

    def _without(self, error: KernelLost) -> None:
        """Goes on after a loss."""
        self._begun = self._built = False
        first = self._groups.pop(0)
        if error.index is None and len(first) > 1:  # each ran once, and one failed among the others: each by itself will tell
            self._groups = [[i] for i in first] + self._groups
            return
        sample = self._samples[first.pop(error.index or 0)]
        if first:
            self._groups.insert(0, first)
        log.warning("%s: %s: %s; left out of the profile", self.device.facts.name, called(sample), error)
        self.lost[called(sample)] = {"op_type": sample.node.op_type, "reason": str(error)}
        if self._path is not None:
            files.write(self._path, json.dumps(self.lost, indent=1))


def called(sample: Sample) -> str:
    """What a lost kernel is remembered by."""
    return f"{sample.node.op_type} {sample.node.inputs[0].shape} -> {[(i.start, i.stop) for i in sample.region]}"


def read_quarantine(path: Path) -> dict[str, dict[str, str]]:
    """What an earlier round lost, by sample. Raises UsageError where the file is no such list."""
    try:
        found = json.loads(path.read_text())
        if all(isinstance(v["op_type"], str) and isinstance(v["reason"], str) for v in found.values()):
            return found
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    raise UsageError("not a list of lost kernels", where=str(path), expected="what an earlier round wrote", hint="delete it, or leave out --resume")
