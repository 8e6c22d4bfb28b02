"""Which OpenCL devices there are, which one is the GPU, and what it says of itself."""

from __future__ import annotations

import os
import re
from typing import Any

import pyopencl as cl

from ... import settings
from ...errors import NoDevice
from ...ops.narrow import NARROW
from ..base import DeviceFacts
from . import cores, quirks

#: What every device can hold, and load into a register: half by vload_half, the narrow types by their bits.
_ALWAYS = ("float32", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool", "float16", *NARROW)
_INSTALL = "install a driver (apt install pocl-opencl-icd gives an OpenCL device on the CPU's cores), then `coexec doctor`"


def _platforms() -> list[cl.Platform]:
    os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", str(settings.get("emulated_gpu_threads") or 1))
    try:
        return cores.notice(cl.get_platforms)
    except cl.Error:  # the loader calls "no driver installed" an error
        return []


def _devices() -> list[cl.Device]:
    found: list[cl.Device] = []
    for platform in _platforms():
        try:
            found += platform.get_devices()
        except cl.Error:  # a platform without devices
            continue
    return found


def _names(device: cl.Device) -> tuple[str, ...]:
    platform = device.platform
    return platform.name, platform.vendor, platform.version, device.name, device.vendor


def version(device: cl.Device) -> tuple[int, int]:
    """The OpenCL version, (major, minor); (0, 0) where the driver's answer is unreadable."""
    match = re.match(r"OpenCL (\d+)\.(\d+)", device.version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def is_emulated(device: cl.Device) -> bool:
    """True where the device is really the CPU."""
    return bool(device.type & cl.device_type.CPU) or quirks.overrides(*_names(device)).get("emulated", False)


def problem(device: cl.Device) -> str | None:
    """Why this device cannot be used, or None."""
    if version(device) < (1, 2):
        return f"it speaks {device.version.strip()}, OpenCL 1.2 is needed"
    if not device.available:
        return "its driver says it is not available"
    if not device.compiler_available:
        return "its driver has no compiler"
    return None


def _rank(device: cl.Device) -> tuple[int, int, int]:
    """Best first, for sorting."""
    if is_emulated(device):
        return 2, 0 if "pocl" in device.platform.version.lower() else 1, -device.max_compute_units
    return 0 if device.type & cl.device_type.GPU else 1, 0, -device.max_compute_units


def _label(device: cl.Device) -> str:
    return f"{device.platform.name.strip()}:{device.name.strip()}"


def _matches(part: str, index: int, *names: str) -> bool:
    return index == int(part) if part.isdecimal() else part.lower() in " | ".join(names).lower()


def find_device(spec: str | None = "") -> cl.Device:
    """The OpenCL device that `spec` names; "" takes the best: a real GPU, else an accelerator, else the CPU (PoCL first).

    PLATFORM:DEVICE are each an index or a part of the name, in any case; DEVICE may be left out. None asks COEXEC_OPENCL.
    Raises NoDevice with what was found instead.
    """
    spec = (settings.get("opencl") if spec is None else spec).strip()
    if spec.lower() == "none":
        raise NoDevice("the GPU is switched off", found="none", hint="unset COEXEC_OPENCL or name a device")
    devices = _devices()
    usable = [d for d in devices if problem(d) is None]
    if not usable:
        why = "; ".join(f"{_label(d)}: {problem(d)}" for d in devices)
        platforms = ", ".join(p.name.strip() for p in _platforms())
        found = why or (f"only platforms without devices ({platforms})" if platforms else "no driver")
        raise NoDevice("no usable OpenCL device", found=found, hint=_INSTALL)
    where, _, which = spec.partition(":")
    platforms = _platforms()
    chosen = [d for d in usable if not where or _matches(where, platforms.index(d.platform), *_names(d)[:3])]
    if which:
        chosen = [d for d in chosen if _matches(which, d.platform.get_devices().index(d), d.name)]
    elif where and not chosen and not where.isdecimal():
        chosen = [d for d in usable if where.lower() in d.name.lower()]
    if not chosen:
        raise NoDevice(f"no OpenCL device answers to '{spec}'", found=", ".join(map(_label, usable)),
                       expected="PLATFORM:DEVICE, each an index or a part of the name", hint="set COEXEC_OPENCL to one of those found")
    return min(chosen, key=_rank)


def list_devices() -> list[dict[str, Any]]:
    """Every OpenCL device as plain data, the one `find_device()` would take first; unusable ones carry a `problem`."""
    rows = []
    for device in sorted(_devices(), key=lambda d: (problem(d) is not None, _rank(d))):
        known = facts(device)
        rows.append({"spec": _label(device), "name": known.name, "kind": known.kind, "version": device.version.strip(),
                     "driver": known.driver, "compute_units": known.compute_units, "emulated": known.emulated,
                     "dtypes": sorted(known.dtypes), "sharing": list(known.sharing), "problem": problem(device), **known.extra})
    return rows


def _sharing(device: cl.Device) -> tuple[str, ...]:
    """The ways of sharing memory that the device claims, those that should be fastest first; whether they work must be tried."""
    try:
        svm = device.svm_capabilities if version(device) >= (2, 0) else 0
    except cl.Error:
        svm = 0
    bits = cl.device_svm_capabilities
    mapped = ("alloc-host", "use-host") if device.host_unified_memory or is_emulated(device) else ()
    return (*(("svm",) if svm & bits.FINE_GRAIN_BUFFER else ()), *(("coarse-svm",) if svm & bits.COARSE_GRAIN_BUFFER else ()), *mapped, "copy")


def _kind(device: cl.Device) -> str:
    types = {"gpu": cl.device_type.GPU, "accelerator": cl.device_type.ACCELERATOR, "cpu": cl.device_type.CPU}
    return next((name for name, bit in types.items() if device.type & bit), "custom")


def facts(device: cl.Device) -> DeviceFacts:
    """What the device says of itself, driver quirks corrected. Sizes in bytes, `kind` is gpu, accelerator, cpu or custom."""
    extensions = set(device.extensions.split())
    wrong = quirks.overrides(*_names(device))
    dtypes = {*_ALWAYS}
    if "cl_khr_fp64" in extensions or (version(device) >= (1, 2) and device.double_fp_config):
        dtypes.add("float64")
    return DeviceFacts(
        name=device.name.strip(),
        kind=_kind(device),
        driver=f"{device.platform.name.strip()} {device.driver_version.strip()} ({device.platform.version.strip()})",
        compute_units=device.max_compute_units,
        emulated=is_emulated(device),
        dtypes=frozenset(dtypes - wrong.get("without", set())),
        sharing=_sharing(device),
        extra={
            "max_work_group_size": device.max_work_group_size,
            "max_work_item_sizes": list(device.max_work_item_sizes),
            "local_mem_bytes": device.local_mem_size,
            "local_mem_dedicated": device.local_mem_type == cl.device_local_mem_type.LOCAL,
            "max_alloc_bytes": device.max_mem_alloc_size,
            "global_mem_bytes": device.global_mem_size,
            "alignment_bytes": max(64, device.mem_base_addr_align // 8),
            "vector_width_float": device.preferred_vector_width_float,
            "fma": bool(device.single_fp_config & cl.device_fp_config.FMA),
            "images": bool(device.image_support),
            "image2d_max": [device.image2d_max_width, device.image2d_max_height] if device.image_support else None,
            "host_unified_memory": bool(device.host_unified_memory),
        },
    )
