"""Which devices this process has: the CPU always, the GPU where OpenCL finds one. Opened once, when first asked for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from .. import settings
from ..errors import NoDevice
from .base import Device

_lock = threading.Lock()
_open: dict[str, Device] = {}
_orphaned: list[Device] = []


def _after_fork() -> None:
    """In the child: the GPUs that the parent opened are kept, for their drivers' threads are gone, but nobody gets them any more."""
    global _lock
    _lock = threading.Lock()
    for key in [k for k in _open if k.startswith("gpu ")]:
        _orphaned.append(_open.pop(key))


os.register_at_fork(after_in_child=_after_fork)


def cpu_device() -> Device:
    """The processor this program runs on."""
    from .cpu.device import CpuDevice

    with _lock:
        if "cpu" not in _open:
            _open["cpu"] = CpuDevice()
        return _open["cpu"]


def gpu_device(spec: str = "") -> Device:
    """The OpenCL device that `spec` (PLATFORM:DEVICE) or the setting names. Raises NoDevice where there is none."""
    spec = spec or settings.get("opencl")
    if spec == "none":
        raise NoDevice("the GPU is switched off", found="none", expected="an OpenCL device", hint="unset COEXEC_OPENCL, or drop --gpu none")
    if _orphaned:
        raise NoDevice("OpenCL does not survive a fork", found="a process that was forked after its parent had opened the GPU",
                       expected="a process of its own", hint="start workers with multiprocessing's `spawn`, or run on the cpu")
    key = f"gpu {spec} {settings.get('sharing')} {settings.get('wait')}"
    with _lock:
        if key not in _open:
            try:
                from .opencl.device import OpenCLDevice
                from .opencl.platform import find_device
            except ImportError as error:
                raise NoDevice("OpenCL cannot be used", found=str(error), expected="pyopencl and an OpenCL library",
                               hint="pip install pyopencl; then `coexec doctor`") from None
            _open[key] = OpenCLDevice(find_device(spec))
        return _open[key]


def little_device(cores: tuple[int, ...]) -> Device:
    """The second cluster that the setting names."""
    from .cluster.device import ClusterDevice

    key = f"little {cores}"
    with _lock:
        if key not in _open:
            _open[key] = ClusterDevice(cores)
        return _open[key]


def find_devices(gpu: str = "", need_gpu: bool = False) -> dict[str, Device]:
    """`cpu`, `gpu` where there is one, and `little` where its cores are named. Raises NoDevice only where `need_gpu` asks for one in vain, or
    where the name is wrong.
    """
    devices = {"cpu": cpu_device()}
    if little := settings.get("little_cores"):
        devices["little"] = little_device(little)
    spec = gpu or settings.get("opencl")
    if spec == "none" and not need_gpu:
        return devices
    try:
        devices["gpu"] = gpu_device(gpu)
    except NoDevice:
        if need_gpu or spec:
            raise
    return devices


def session_threads(devices: dict[str, Device], wanted: int = 0, gpu_used: bool = True) -> int:
    """CPU threads of a session: what was asked for, else every usable core less those of a second cluster and of an emulated GPU.

    Beside an emulated GPU never more than it leaves cores: threads that share a core with the GPU wait for each other's turns, and a run takes
    many times as long.
    """
    wanted, cores, gpu = wanted or settings.get("threads"), devices["cpu"].facts.compute_units, devices.get("gpu")
    if "little" in devices:
        cores -= devices["little"].facts.compute_units
    if gpu is not None and gpu_used and gpu.facts.emulated:
        cores = max(1, cores - min(gpu.facts.compute_units, settings.get("emulated_gpu_threads") or gpu.facts.compute_units))
        return min(wanted or cores, cores)
    return wanted or max(1, cores)


def threads_alone(devices: Mapping[str, Device], threads: int) -> int:
    """CPU threads of plans that leave the GPU alone, where others have `threads`: all cores where the GPU is emulated on some of them."""
    gpu, cores = devices.get("gpu"), devices["cpu"].facts.compute_units
    return max(threads, cores) if gpu is not None and gpu.facts.emulated else threads


def company(devices: Mapping[str, Device]) -> Any:
    """What tells whether an emulated GPU and the CPU have a core each at the moment (`cpu.company.Company`); None where nobody can tell."""
    if "gpu" not in devices or not devices["gpu"].facts.emulated or "coexec.devices.cpu.jit" not in sys.modules:
        return None
    from .cpu.company import Company

    return Company()
