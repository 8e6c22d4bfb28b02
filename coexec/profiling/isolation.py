"""A device in a process of its own: a kernel that hangs or crashes its driver costs that process, not the profile.

The two processes exchange lines of JSON over pipes: a sample's row and region one way, a measurement the other. The child answers
`{"ready": name}` once its device is open, and `{"built": count}` once a round's kernels are compiled; it times them when it gets the next
line, so that nothing else need be computed meanwhile. A child that dies or does not answer in time is replaced, and whoever asked is told.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .. import settings
from ..devices.base import Device
from ..errors import DeviceError
from ..regions import Region
from .child import running
from .sampler import Sample
from .table import Measurement, node_of

#: Seconds that a child may take to open its device, and to compile and time one kernel: drivers' watchdogs end kernels after about ten.
START_S, HANG_S = 60.0, 30.0
#: Settings that decide which device is opened, and how; overrides of this process hold in the child too.
_TOLD = ("opencl", "sharing", "emulated_gpu_threads", "cache_dir", "key_file")


class KernelLost(DeviceError):
    """A kernel took its driver's process along, or never ended. index: which of those asked for, where that is known."""

    def __init__(self, what: str, *, index: int | None = None, **told: Any):
        super().__init__(what, **told)
        self.index = index


class Isolated:
    """Times samples in a child process, which is started when first needed and again after each loss. A context manager.

    command: what runs in the child (default: `serve` on this machine's GPU, or the one `opencl` names); it gets two numbers more, the pipes to
    read and to write.
    """

    def __init__(self, command: Sequence[str] = (), hang_s: float = HANG_S, opencl: str = ""):
        self.command = list(command) or running(__name__)
        self.hang_s, self.opencl = hang_s, opencl
        self.sharing = ""  # how the device shares memory there; "": as the settings say
        self.child: subprocess.Popen | None = None
        self._buffer = b""
        self._at = -1  # which of the samples the child is trying

    def begin(self, samples: Sequence[Sample], threads: int, wait_us: float) -> None:
        """Hands the child a round to compile, and returns at once.

        Raises KernelLost where the child has ended since, DeviceError where none can be had.
        """
        self.start()
        self._at = -1
        self._tell({"samples": [{"row": asdict(s.row), "region": [(i.start, i.stop) for i in s.region]} for s in samples],
                    "threads": threads, "wait_us": wait_us})

    def built(self) -> None:
        """Waits until the round that was begun is compiled. Raises KernelLost, whose `index` says which sample it was where that is known."""
        self._answer("built")

    def end(self) -> list[Measurement | None]:
        """Times the round that was built, in company: its rows, None where the device has no such kernel. Raises as `built` does."""
        self._tell({"time": True})
        return [Measurement(**row) if row else None for row in self._answer("measured")]

    def _answer(self, name: str) -> Any:
        """What the child answers under that name, after it has told what it tries."""
        while True:
            try:
                answer = self._hear(self.hang_s)
            except KernelLost as error:
                raise KernelLost(error.what, found=error.found, index=self._at if self._at >= 0 else None) from None
            if "trying" not in answer:
                return answer[name]
            self._at = answer["trying"]

    def start(self) -> None:
        """Starts the child where none is running."""
        if self.child is not None:
            return
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._buffer = b""
        try:
            # What a driver prints to stdout must not be taken for a result of the verb.
            self.child = subprocess.Popen([*self.command, str(theirs_in), str(theirs_out)], pass_fds=(theirs_in, theirs_out),
                                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except OSError as error:
            os.close(self._in), os.close(self._out)
            raise DeviceError("no process can be started to measure in", found=error.strerror or str(error)) from None
        finally:
            os.close(theirs_in), os.close(theirs_out)
        try:
            told = {name: str(settings.get(name)) for name in _TOLD}
            self._tell({"settings": {**told, "opencl": self.opencl or told["opencl"], "sharing": self.sharing or told["sharing"]}})
            self._hear(START_S)
        except KernelLost as error:  # no kernel's fault
            raise DeviceError("the device cannot be opened in a process of its own", found=error.found or error.what) from None

    def _tell(self, what: dict[str, Any]) -> None:
        try:
            os.write(self._out, json.dumps(what).encode() + b"\n")
        except OSError:
            self._lost("ended")

    def _hear(self, seconds: float) -> dict[str, Any]:
        """The next line. Raises KernelLost where the child ends, or says nothing for so long: it is ended then."""
        limit = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, limit - time.monotonic()))
            if not ready:
                self._lost(f"did not answer within {seconds:.0f} s")
            found = os.read(self._in, 1 << 16)
            if not found:
                self._lost("ended")
            self._buffer += found
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _lost(self, how: str) -> None:
        child, code = self.child, None
        if child is not None and how == "ended":
            try:
                code = child.wait(5)
            except subprocess.TimeoutExpired:
                code = None
        self.close()
        raise KernelLost("the process that times kernels " + how, found=f"exit code {code}" if code is not None else None)

    def close(self) -> None:
        """Ends the child."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            os.close(self._in), os.close(self._out)
            self.child = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(device: Device, unit: str, lines: Any, answers: Any) -> None:
    """The child's side: times what it is asked to on a device until there are no more lines."""
    from .timing import SampleRound, with_numbers

    def say(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    say({"ready": device.facts.name})
    for line in lines:
        asked = json.loads(line)
        samples = []
        for one in asked["samples"]:
            row = Measurement(**one["row"])
            samples.append(with_numbers(Sample(node_of(row), Region(map(tuple, one["region"])), row)))
        with SampleRound(unit, device, samples, asked["threads"], asked["wait_us"], lambda index: say({"trying": index})) as made:
            say({"built": len(samples)})
            if not lines.readline():
                return
            say({"measured": [None if row is None else asdict(row) for row in made.time()]})


def main(arguments: Sequence[str]) -> None:
    """The child: opens the GPU that the parent's settings name."""
    with os.fdopen(int(arguments[0])) as lines, os.fdopen(int(arguments[1]), "w") as answers:
        told = json.loads(lines.readline())["settings"]
        parsed = {name: settings.SETTINGS[name].parse(text) for name, text in told.items() if text != str(settings.get(name))}
        with settings.override(**parsed):
            from ..devices.registry import gpu_device

            serve(gpu_device(), "gpu", lines, answers)
