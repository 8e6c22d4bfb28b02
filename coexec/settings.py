"""Every COEXEC_* environment variable: name, default, meaning. Nothing else reads the environment.

>>> with override(debug=2):
...     get("debug")
2
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError, suggest


@dataclass(frozen=True)
class Setting:
    """One variable: `COEXEC_<NAME>` in the environment, `get("<name>")` in Python."""

    name: str
    default: Any
    parse: Callable[[str], Any]
    meaning: str

    @property
    def variable(self) -> str:
        return f"COEXEC_{self.name.upper()}"


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("", "0", "false", "no", "off"):
        return False
    if lowered in ("1", "true", "yes", "on"):
        return True
    raise ValueError("0 or 1")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("a whole number of at least 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError("a number of seconds, at least 0")
    return value


def _cores(text: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or dash and not last.isdecimal() or dash and int(last) < int(first):
            raise ValueError("cores such as 0-3 or 0,1,4")
        found |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def _bytes(text: str) -> int:
    unit = text.strip()[-1:].upper()
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(unit)
    digits = text.strip()[:-1] if factor else text.strip()
    if not digits.isdecimal():
        raise ValueError("bytes, or a whole number with K, M or G")
    return int(digits) * (factor or 1)


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip() not in words:
            raise ValueError(" or ".join(words))
        return text.strip()

    return parse


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coexec"


def _default_key() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "coexec" / "key"


#: Defaults that depend on the user.
_PLACES: dict[str, Callable[[], Path]] = {"cache_dir": _default_cache, "key_file": _default_key}


SETTINGS: dict[str, Setting] = {}
_overrides: dict[str, Any] = {}


def define(name: str, default: Any, parse: Callable[[str], Any], meaning: str) -> None:
    """Adds a setting; defining one twice is an error."""
    if name in SETTINGS:
        raise ValueError(f"setting {name} is defined twice")
    SETTINGS[name] = Setting(name, default, parse, meaning)


define("debug", 0, _count, "1 a line per prepared model: nodes, pieces, waits, memory, devices; 2 also its plan, a line per node; 4 also kernel "
       "source and build log. Any value above 0 lets tracebacks through.")
define("check", False, _flag, "1 recomputes every node unsplit after it ran and stops at the first that differs (like `run --check`).")
define("cache_dir", None, Path, "Where profiles, tuning results and program binaries are kept. Default: $XDG_CACHE_HOME/coexec or ~/.cache/coexec.")
define("key_file", None, Path, "Where the key lies by which compiled kernels in the cache are known to be this user's own; made where it is missing. "
       "Default: $XDG_STATE_HOME/coexec/key or ~/.local/state/coexec/key.")
define("threads", 0, _count, "CPU threads of a session, beside an emulated GPU at most the cores that it leaves. 0: every core this process may use, "
       "less those.")
define("opencl", "", str, "Which OpenCL device is the GPU: PLATFORM:DEVICE, each an index or a part of the name; `none` for no GPU.")
define("emulated_gpu_threads", 1, _count, "Cores given to an OpenCL device that runs on the CPU's own cores (PoCL); set before the first OpenCL "
       "call.")
define("little_cores", None, _cores, "Cores of a second cluster, as 0-3 or 0,1,4, that work beside the CPU as a device of their own, `little`; "
       "plans of strategy `clusters` use them. Default: none.")
define("sharing", "", _one_of("svm", "coarse-svm", "alloc-host", "use-host", "copy"), "How the CPU and the GPU share activations: svm "
       "(fine-grain shared virtual memory), coarse-svm, alloc-host or use-host (one allocation that is mapped and unmapped), or copy. Default: "
       "the fastest that the profile measured; without one svm, or copy where the device has none.")
define("storage", "", _one_of("buffer", "image"), "Where the GPU's side of a chain keeps what only it reads: buffer, or image (image2d, wherever "
       "it has kernels for images). Default: as the plan says, which takes images where the profile measured that they are faster.")
define("wait", "", _one_of("event", "finish", "poll", "flag"), "How the CPU waits for the GPU: event (looks at it for COEXEC_POLL_US, then "
       "sleeps in the driver), finish (until its queue is empty), poll (sleeps for as long as that wait took before, less a little, then looks), "
       "or flag (as COEXEC_HANDSHAKE=1). Default: what the profile measured as the cheapest; without one event.")
define("handshake", False, _flag, "1 keeps the CPU and the GPU of every plan in step by words in shared memory, where the device can, not by "
       "the driver's events: quicker where each has a core to itself, slower on a machine that is busy with something else.")
define("poll_us", 1000, _count, "Microseconds that a wait for the GPU looks at its event before the thread goes to sleep, from which it would "
       "be woken late. 0 sleeps at once, as is done where an emulated GPU has no core of its own.")
define("timeout", 10.0, _seconds, "Seconds after which a run that the GPU takes part in is called hung, unless its predicted time is long; the "
       "CPU then goes on alone. 0 waits for ever and saves the hand-over to the thread that is watched, some 70 us a run (opt-mnist, two cores).")
define("loop_timeout", 8.0, _seconds, "Seconds that a run of one Loop, Scan, If or function may take where ONNX's reference computes it; a loop "
       "that is still at work then ends the run with exit code 6. 0: no limit.")
define("winograd", "", _one_of("2", "4", "6"), "The CPU's 3x3 convolutions of enough channels by F(2x2), F(4x4) or F(6x6). Default: F(2x2) or "
       "F(4x4) where that takes less arithmetic than multiplying directly.")
define("half", False, _flag, "1 computes models whose weights are in half precision as they are, for a GPU that is quick at it. Default: in single "
       "precision, for which the CPU has kernels; inputs and outputs stay half.")
define("denormals", False, _flag, "1 computes with denormal numbers (below 1.2e-38 in float32) as with any. Default: they count as zero while a "
       "run lasts, for x86 cores take many times as long for one, and trained weights are full of them.")
define("self_test", True, _flag, "0 leaves out the small convolution that every GPU is tried on before a process uses it.")
define("memory_limit", 0, _bytes, "Activation memory that a session may take, in bytes, or as 512K, 300M, 2G; one that needs more is refused "
       "before it runs. 0: no limit.")
define("test_devices", "", str, "Comma-separated OpenCL devices (PLATFORM:DEVICE) that the tests run on. Default: the one a session would take.")


def get(name: str) -> Any:
    """The value now in force: a scoped override, else the environment, else the default.

    Raises UsageError where the environment holds something unreadable.
    """
    if name not in SETTINGS:
        raise UsageError(f"unknown setting '{name}'", hint=suggest(name, SETTINGS))
    setting = SETTINGS[name]
    if name in _overrides:
        return _overrides[name]
    text = os.environ.get(setting.variable)
    if text is None or text == "":
        return _PLACES[name]() if name in _PLACES else setting.default
    try:
        return setting.parse(text)
    except ValueError as error:
        raise UsageError(f"environment variable {setting.variable} is not readable", found=repr(text), expected=str(error)) from None


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """Sets settings for a scope, whatever the environment says."""
    for name in values:
        if name not in SETTINGS:
            raise UsageError(f"unknown setting '{name}'", hint=suggest(name, SETTINGS))
    before = {name: _overrides[name] for name in values if name in _overrides}
    _overrides.update(values)
    try:
        yield
    finally:
        for name in values:
            _overrides.pop(name, None)
        _overrides.update(before)


def color_wanted(stream: Any) -> bool:
    """True on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and hasattr(stream, "isatty") and stream.isatty()
