"""Every exception coexec raises on purpose.

    CoexecError                     exit code 1: something failed
    ├── UsageError                  2: an option or argument is wrong
    │   ├── InputError              2: a feed is missing, or has the wrong shape, type or content
    │   └── IllegalCut              2: a partition cuts where the operator cannot be cut
    ├── NoDevice                    3: no usable OpenCL device
    │   └── DeviceLost              3: under `strict`, a device that failed while it was used
    ├── ModelError                  4: the model cannot be read or run
    │   ├── InvalidModel            4: not ONNX, truncated, cyclic, weights missing
    │   ├── UnsupportedOps          4: operators nobody here can compute, all of them at once
    │   ├── MemoryLimit             4: the model needs more memory than it may take
    │   └── FallbackForbidden       4: under `strict`, nodes that cannot run where the strategy wants them
    ├── NumericMismatch             5: the answer differs from the reference
    ├── DeviceHang                  6: a device did not answer in time
    ├── LoopTimeout                 6: a loop of the model did not end in time
    ├── ProfileMismatch             7: a profile is malformed, or made for another machine
    │   └── PlanMismatch            7: a plan is malformed, or made for another model or device
    └── DeviceError                 1: a driver call failed
        └── KernelBuildError        1: a kernel did not compile; carries the build log

A message answers four questions on one line: where, what was found, what was expected, what to try.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Set


class CoexecError(Exception):
    """Base of all; `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", found: object = None, expected: object = None, hint: str = ""):
        self.what, self.where, self.found, self.expected, self.hint = what, where, found, expected, hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"[{self.where}] {self.what}" if self.where else self.what
        if self.found is not None:
            text += f": found {self.found}"
        if self.expected is not None:
            text += f"{',' if self.found is not None else ':'} expected {self.expected}"
        if self.hint:
            text += f"; {self.hint}"
        return " ".join(text.split())


class UsageError(CoexecError):
    """An option or argument is wrong."""

    exit_code = 2


class InputError(UsageError):
    """A feed is missing, or has the wrong shape, type or content."""


class IllegalCut(UsageError):
    """A partition cuts where the operator cannot be cut."""


class NoDevice(CoexecError):
    """No usable OpenCL device."""

    exit_code = 3


class DeviceLost(NoDevice):
    """Under `strict`: a device failed while it was used; without it the CPU would have gone on alone."""


class ModelError(CoexecError):
    """The model cannot be read or run."""

    exit_code = 4


class InvalidModel(ModelError):
    """Not ONNX, truncated, cyclic, or weights are missing."""


class UnsupportedOps(ModelError):
    """Operators nobody here can compute; `ops` lists them all as (op_type, node name)."""

    def __init__(self, ops: Iterable[tuple[str, str]], *, where: str = "", supported: Iterable[str] = ()):
        self.ops = tuple(ops)
        kinds = sorted({op for op, _ in self.ops})
        near = sorted({n for k in kinds for n in difflib.get_close_matches(k.split("::")[-1], list(supported), 1, 0.7)})
        hint = f"did you mean {', '.join(near)}? " if near else ""
        nodes = ", ".join(f"{op} '{name}'" for op, name in self.ops[:20]) + (", ..." if len(self.ops) > 20 else "")
        super().__init__(
            f"{len(kinds)} unsupported operator(s): {', '.join(kinds)} in node(s) {nodes}",
            where=where,
            expected="operators of ONNX, or functions defined inside the model",
            hint=hint + "export the model without them, or with a model-local function",
        )


class MemoryLimit(ModelError):
    """The model needs more activation memory than the setting allows; nothing was allocated."""


class FallbackForbidden(ModelError):
    """Under `strict`: nodes that the reference or the CPU would have to compute in place of the device; `nodes` lists (name, reason)."""

    def __init__(self, nodes: Iterable[tuple[str, str]], *, where: str = ""):
        self.nodes = tuple(nodes)
        shown = ", ".join(f"'{name}' ({reason})" for name, reason in self.nodes[:10]) + (", ..." if len(self.nodes) > 10 else "")
        super().__init__(f"{len(self.nodes)} node(s) would fall back: {shown}", where=where,
                         hint="run without strict, or with another strategy")


class NumericMismatch(CoexecError):
    """The answer differs from the reference by more than the tolerance."""

    exit_code = 5


class DeviceHang(CoexecError):
    """A device did not answer in time."""

    exit_code = 6


class LoopTimeout(CoexecError):
    """A Loop, or another operator with a body, did not end in the time that the setting gives it."""

    exit_code = 6


class ProfileMismatch(CoexecError):
    """A profile is malformed, or was made for another machine."""

    exit_code = 7


class PlanMismatch(ProfileMismatch):
    """A plan is malformed, or was made for another model or device."""


class DeviceError(CoexecError):
    """A driver call failed."""


class KernelBuildError(DeviceError):
    """A kernel did not compile; `log` is the compiler's."""

    def __init__(self, what: str, *, log: str = "", **facts):
        self.log = log
        first = next((line for line in log.splitlines() if "error" in line), log.strip().splitlines()[0] if log.strip() else "")
        super().__init__(f"{what} ({first})" if first else what, **facts)


#: Names that a hint lists of those that are known.
SUGGESTED = 24


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: near matches first, else what is known, as far as a person reads on."""
    known = sorted(known) if isinstance(known, Set) else list(known)
    near = difflib.get_close_matches(name, known, 3, 0.5)
    more = f" and {len(known) - SUGGESTED} more" if len(known) > SUGGESTED + 1 else ""
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:SUGGESTED] if more else known)}{more}"
