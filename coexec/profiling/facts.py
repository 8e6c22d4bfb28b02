"""What a profile says of a board and its devices that is not measured."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator
from pathlib import Path

from ..devices.base import Device
from ..ops import native_ops
from ..profiles import Machine
from .rounds import caches


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
