"""Programs: source and options in, a built program out, kept in the process and on disk.

A cache file is MAGIC, a seal (`seals`), then the driver's binary. Whatever does not check out is built again and overwritten.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from ... import files, seals, settings
from ...errors import DeviceError, KernelBuildError
from . import quirks
from .heap import blocks_apart

log = logging.getLogger(__name__)

MAGIC = b"COEXECCL\x02"  # the last byte is the format's version
_OPTIONS = ("-cl-std=CL1.2", "-w")
_programs: dict[tuple[int, str, tuple[str, ...]], cl.Program] = {}
_lock = threading.RLock()


@cache
def source(name: str) -> str:
    """The text of a file of `kernels/`."""
    return (resources.files(__package__) / "kernels" / name).read_text(encoding="utf-8")


def literal(value: Any) -> str:
    """A number in OpenCL C: floats get an `f` (np.float64 does not), ints, bools and strings stay as they are."""
    if isinstance(value, np.float64) and not isinstance(value, np.float32):
        return _float(float(value), "")
    if isinstance(value, (float, np.floating)):
        return _float(float(np.float32(value)), "f")
    return str(int(value)) if isinstance(value, (bool, int, np.integer, np.bool_)) else str(value)


def _float(value: float, suffix: str) -> str:
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return f"({value!r}{suffix})" if value < 0 else f"{value!r}{suffix}"


class Forms(NamedTuple):
    """Files that a program holds several times, once for each of `all`, sets of defines under the same names; `mine` is the one wanted.

    A kernel there is called FORM(name), which is the name and a form's numbers: conv_depthwise_rows_3x3x1x1. Drivers keep more for a
    program than for one more small kernel in it; but all are compiled for the first that is used.
    """

    files: Sequence[str]
    mine: Mapping[str, int]
    all: Sequence[Mapping[str, int]]

    def suffix(self, form: Mapping[str, int]) -> str:
        """What FORM puts behind a name."""
        return "_" + "x".join(str(form[name]) for name in sorted(form))


def _define(defines: Mapping[str, Any]) -> list[str]:
    return [f"#define {name} {'' if value is None else literal(value)}".rstrip() for name, value in sorted(defines.items())]


def compose(files: Sequence[str], defines: Mapping[str, Any], forms: Forms | None = None) -> str:
    """Source text: the defines (names may be function-like, values None for none), the common header, the files in order, then all forms."""
    parts = [*_define(defines), source("common.clh"), *map(source, files)]
    if forms is not None:
        body = "".join(map(source, forms.files))
        for form in forms.all if forms.mine in forms.all else (*forms.all, forms.mine):
            named = {**form, "FORM_NAME": forms.suffix(form)}
            gone = sorted({*named, *re.findall(r"^#define (\w+)", body, re.MULTILINE)})
            parts += [*_define(named), body, *(f"#undef {name}" for name in gone)]
    return "\n".join(parts) + "\n"


def build(context: cl.Context, text: str, options: Sequence[str] = (), exact: bool = False) -> cl.Program:
    """A built program for the context's one device. exact: it keeps denormal numbers, which else count as zero, as on the CPU beside it
    (`devices.cpu.denormals`). Raises KernelBuildError with the compiler's log.
    """
    device = context.devices[0]
    if not exact and not settings.get("denormals"):
        options = ("-cl-denorms-are-zero", *options)
    key = (context.int_ptr, text, tuple(options))
    with _lock:
        if key not in _programs:
            with blocks_apart() if _has(device, "keeps_blocks") else nullcontext():
                _programs[key] = _load_or_build(context, device, text, (*_OPTIONS, *options))
        return _programs[key]


def _load_or_build(context: cl.Context, device: cl.Device, text: str, options: tuple[str, ...]) -> cl.Program:
    if _has(device, "caches_programs"):
        return _wrap(_compile(context, device, text, options), text)
    path = cache_path(device, text, options)
    binary = _read(path)
    if binary is not None:
        try:
            program = cl._cl._Program(context, [device], [binary])
            program._build(b"", [device])
            return _wrap(program, text)
        except cl.Error as error:
            log.info("cached program %s is stale (%s): building it again", path, error)
    program = _compile(context, device, text, options)
    _write(path, bytes(program.get_info(cl.program_info.BINARIES)[0]))
    return _wrap(program, text)


def _has(device: cl.Device, quirk: str) -> bool:
    """Whether `quirks` knows that of its driver."""
    return bool(quirks.overrides(device.platform.name, device.name).get(quirk))


def _wrap(program: Any, text: str) -> cl.Program:
    wrapped = cl.Program(program)
    wrapped._source = text  # else pyopencl takes its look-up of this attribute for that of a kernel, for every kernel made
    return wrapped


def _compile(context: cl.Context, device: cl.Device, text: str, options: tuple[str, ...]) -> Any:
    program = cl._cl._Program(context, text)
    failure = None
    try:
        program._build(" ".join(options).encode(), [device])
    except cl.Error as error:
        failure = error
    report = str(program.get_build_info(device, cl.program_build_info.LOG) or "")
    if settings.get("debug") >= 4:
        print(f"--- OpenCL program for {device.name}, options {' '.join(options)}\n{text}\n--- build log\n{report}", file=sys.stderr)
    if failure is not None:
        raise KernelBuildError("a kernel did not compile", log=report or str(failure), where=device.name.strip(),
                               hint="COEXEC_DEBUG=4 prints its source and the whole log") from failure
    return program


def cache_path(device: cl.Device, text: str, options: Sequence[str]) -> Path:
    """Where the binary of that program lies: the name hashes all that it depends on."""
    from ... import __dict__ as package

    platform = device.platform
    facts = (text, *options, device.name, device.version, device.driver_version, platform.name, platform.version,
             str(package.get("__version__", "")))
    return settings.get("cache_dir") / "opencl" / f"{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()}.bin"


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    binary = seals.unsealed(path.name, content[len(MAGIC):]) if content[:len(MAGIC)] == MAGIC else None
    if binary is None:
        log.info("cached program %s is corrupt, of another format or not our own: building it again", path)
    return binary


def _write(path: Path, binary: bytes) -> None:
    if not binary:  # some drivers keep their binaries to themselves
        return
    try:
        files.keep(path, MAGIC + seals.sealed(path.name, binary))
    except OSError as error:
        _warn_once(str(path.parent), str(error))


@cache
def _warn_once(folder: str, why: str) -> None:
    log.warning("compiled kernels cannot be kept in %s (%s): they will be compiled anew in every process", folder, why)


def forget() -> None:
    """Empties the process's own cache (not the disk's)."""
    with _lock:
        _programs.clear()


def kernel(program: cl.Program, name: str) -> cl.Kernel:
    """A kernel object of its own, so that nobody else changes its arguments. Raises DeviceError where there is none of that name."""
    try:
        return cl.Kernel(program, name)
    except cl.Error as error:
        raise DeviceError(f"the program has no kernel '{name}'", found=error) from error
