"""Processes of coexec's own, that answer lines of JSON with lines of JSON over pipes: what they do may take them along, or never end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from .. import settings
from ..errors import CoexecError, DeviceError

#: Seconds that a child may take to open its device.
START_S = 60.0
#: Settings that decide which device is opened, and how; overrides of this process hold in the child too.
_TOLD = ("opencl", "sharing", "emulated_gpu_threads", "cache_dir", "key_file")


def running(module: str) -> list[str]:
    """What runs `main(arguments)` of that module of coexec in another process, arguments to follow.

    It finds what this process finds: `python -m` would look into the working directory first, and run whatever lies there under a module's name.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main(sys.argv[1:])"]


class ChildLost(DeviceError):
    """The process ended, or did not answer in time."""


class Child:
    """A process that is started when first needed, and again after each loss. A context manager.

    command: what runs in it; it gets two numbers more, the pipes to read and to write. task: what it does, for messages. opencl: the GPU that it
    opens, if not the one that settings name.
    """

    #: What is raised where the process is lost.
    lost: type[DeviceError] = ChildLost

    def __init__(self, command: Sequence[str], task: str, opencl: str = ""):
        self.command, self.task, self.opencl = list(command), task, opencl
        self.sharing = ""  # how the device shares memory there; "": as the settings say
        self.child: subprocess.Popen | None = None
        self._buffer = b""

    def start(self) -> None:
        """Starts the process where none is running. Raises DeviceError where none can be had."""
        if self.child is not None:
            return
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._buffer = b""
        try:
            # What a driver prints to stdout must not be taken for a result of the verb. Ctrl-C of a terminal is this process's, which ends the other.
            self.child = subprocess.Popen([*self.command, str(theirs_in), str(theirs_out)], pass_fds=(theirs_in, theirs_out),
                                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            os.close(self._in), os.close(self._out)
            raise DeviceError("no process can be started to measure in", found=error.strerror or str(error)) from None
        finally:
            os.close(theirs_in), os.close(theirs_out)
        try:
            told = {name: str(settings.get(name)) for name in _TOLD}
            self.tell({"settings": {**told, "opencl": self.opencl or told["opencl"], "sharing": self.sharing or told["sharing"]}})
            self.hear(START_S)
        except self.lost as error:  # no kernel's fault
            raise DeviceError("the device cannot be opened in a process of its own", found=error.found or error.what) from None
        except BaseException:  # Ctrl-C: whoever asks next must not take its greeting for an answer
            self.close()
            raise

    def tell(self, what: dict[str, Any]) -> None:
        """Sends it a line. Raises `lost` where it has ended."""
        try:
            os.write(self._out, json.dumps(what).encode() + b"\n")
        except OSError:
            self._give_up("ended")

    def hear(self, seconds: float) -> dict[str, Any]:
        """Its next line. Raises `lost` where it ends, or says nothing for so long: it is ended then."""
        limit = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, limit - time.monotonic()))
            if not ready:
                self._give_up(f"did not answer within {seconds:.0f} s")
            found = os.read(self._in, 1 << 16)
            if not found:
                self._give_up("ended")
            self._buffer += found
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _give_up(self, how: str) -> NoReturn:
        child, code = self.child, None
        if child is not None and how == "ended":
            try:
                code = child.wait(5)
            except subprocess.TimeoutExpired:
                code = None
        self.close()
        raise self.lost(f"the process that {self.task} {how}", found=f"exit code {code}" if code is not None else None)

    def close(self) -> None:
        """Ends the process."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            os.close(self._in), os.close(self._out)
            self.child = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def answering(arguments: Sequence[str]) -> Iterator[tuple[TextIO, TextIO]]:
    """The process's own side: its pipes, to read and to write, with the settings that it was started with."""
    with os.fdopen(int(arguments[0])) as lines, os.fdopen(int(arguments[1]), "w") as answers:
        told = json.loads(lines.readline())["settings"]
        parsed = {name: settings.SETTINGS[name].parse(text) for name, text in told.items() if text != str(settings.get(name))}
        with settings.override(**parsed):
            try:
                yield lines, answers
            except CoexecError:  # the parent tells what it makes of that
                sys.exit(1)


def say(answers: TextIO, what: dict[str, Any]) -> None:
    """Answers a line."""
    answers.write(json.dumps(what) + "\n")
    answers.flush()
