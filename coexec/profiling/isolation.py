"""A device in a process of its own: a kernel that hangs or crashes its driver costs that process, not the profile.

The two processes exchange lines of JSON over pipes: a sample's row and region one way, a measurement the other. The child answers
`{"ready": name}` once its device is open, and `{"built": count}` once a round's kernels are compiled; it times them when it gets the next
line, so that nothing else need be computed meanwhile. A child that dies or does not answer in time is replaced, and whoever asked is told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..devices.base import Device
from ..errors import DeviceError
from ..regions import Region
from .child import Child, ChildLost, answering, running, say
from .sampler import Sample
from .table import Measurement, node_of

#: Seconds that a child may take to compile and time one kernel: drivers' watchdogs end kernels after about ten.
HANG_S = 30.0


class KernelLost(ChildLost):
    """A kernel took its driver's process along, or never ended. index: which of those asked for, where that is known."""

    def __init__(self, what: str, *, index: int | None = None, **told: Any):
        super().__init__(what, **told)
        self.index = index


class Isolated(Child):
    """Times samples in a child process, which is started when first needed and again after each loss. A context manager.

    command: what runs in the child (default: `serve` on this machine's GPU, or the one `opencl` names).
    """

    lost = KernelLost

    def __init__(self, command: Sequence[str] = (), hang_s: float = HANG_S, opencl: str = ""):
        super().__init__(command or running(__name__), "times kernels", opencl)
        self.hang_s = hang_s
        self._at = -1  # which of the samples the child is trying

    def begin(self, samples: Sequence[Sample], threads: int, wait_us: float) -> None:
        """Hands the child a round to compile, and returns at once.

        Raises KernelLost where the child has ended since, DeviceError where none can be had.
        """
        self.start()
        self._at = -1
        self.tell({"samples": [{"row": asdict(s.row), "region": [(i.start, i.stop) for i in s.region]} for s in samples],
                   "threads": threads, "wait_us": wait_us})

    def built(self) -> None:
        """Waits until the round that was begun is compiled. Raises KernelLost, whose `index` says which sample it was where that is known."""
        self._answer("built")

    def end(self) -> list[Measurement | None]:
        """Times the round that was built, in company: its rows, None where the device has no such kernel. Raises as `built` does."""
        self.tell({"time": True})
        return [Measurement(**row) if row else None for row in self._answer("measured")]

    def _answer(self, name: str) -> Any:
        """What the child answers under that name, after it has told what it tries."""
        while True:
            try:
                answer = self.hear(self.hang_s)
            except KernelLost as error:
                raise KernelLost(error.what, found=error.found, index=self._at if self._at >= 0 else None) from None
            if "trying" not in answer:
                return answer[name]
            self._at = answer["trying"]


def serve(device: Device, unit: str, lines: Any, answers: Any) -> None:
    """The child's side: times what it is asked to on a device until there are no more lines."""
    from .timing import SampleRound, with_numbers

    say(answers, {"ready": device.facts.name})
    for line in lines:
        asked = json.loads(line)
        samples = []
        for one in asked["samples"]:
            row = Measurement(**one["row"])
            samples.append(with_numbers(Sample(node_of(row), Region(map(tuple, one["region"])), row)))
        with SampleRound(unit, device, samples, asked["threads"], asked["wait_us"], lambda index: say(answers, {"trying": index})) as made:
            say(answers, {"built": len(samples)})
            if not lines.readline():
                return
            say(answers, {"measured": [None if row is None else asdict(row) for row in made.time()]})


def main(arguments: Sequence[str]) -> None:
    """The child: opens the GPU that the parent's settings name."""
    with answering(arguments) as (lines, answers):
        from ..devices.registry import gpu_device

        serve(gpu_device(), "gpu", lines, answers)
