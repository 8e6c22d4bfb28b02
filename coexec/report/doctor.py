"""What is wrong with a machine, why, and what to do: small pure functions over its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .board_checks import BOARD_CHECKS
from .device_checks import DEVICE_CHECKS
from .machine import EXTRAS, Machine
from .problem import Problem

#: What Mesa calls the OpenCL driver for each kernel driver.
_RUSTICL_NAMES = {
    "panfrost": "panfrost",
    "panthor": "panfrost",
    "msm": "freedreno",
    "msm_dpu": "freedreno",
    "i915": "iris",
    "xe": "iris",
    "amdgpu": "radeonsi",
    "radeon": "r600",
    "v3d": "v3d",
    "asahi": "asahi",
    "nouveau": "nouveau",
    "etnaviv": "etnaviv",
}
_POCL = "apt install pocl-opencl-icd (OpenCL on the CPU's own cores), or on x86-64 pip install 'coexec[pocl]'"

Check = Callable[[Machine], Iterator[Problem]]


def no_pyopencl(machine: Machine) -> Iterator[Problem]:
    if machine.pyopencl_problem:
        yield Problem("pyopencl does not work", machine.pyopencl_problem, "pip install --force-reinstall pyopencl")


def no_loader(machine: Machine) -> Iterator[Problem]:
    if not machine.loaders and not machine.devices:
        yield Problem(
            "no OpenCL loader",
            "no libOpenCL.so in the system's library folders (pyopencl's wheels bring their own, other programs need it)",
            "apt install ocl-icd-libopencl1",
            "error" if machine.pyopencl_problem else "note",
        )


def no_icd_files(machine: Machine) -> Iterator[Problem]:
    if machine.icds or machine.devices:
        return
    moved = machine.environment.get("OCL_ICD_VENDORS")
    if moved:
        yield Problem(
            "no OpenCL driver is registered",
            f"OCL_ICD_VENDORS={moved} sends the loader to a place without .icd files",
            "unset OCL_ICD_VENDORS",
        )
    else:
        yield Problem(
            "no OpenCL driver is registered",
            f"{machine.vendor_folder} holds no .icd file, so the loader finds nothing",
            f"install the board's GPU driver; or {_POCL}",
        )


def icd_without_library(machine: Machine) -> Iterator[Problem]:
    for icd in machine.icds:
        if not icd.exists:
            yield Problem(
                f"{icd.file} names a driver that is not there",
                f"the file says '{icd.library}'" if icd.library else "the file is empty",
                f"install the package that brings it, or remove {icd.file}",
                "note" if machine.usable else "error",
            )


def library_without_icd(machine: Machine) -> Iterator[Problem]:
    if machine.environment.get("OCL_ICD_VENDORS") and not machine.icds:  # the variable is what hides them: no_icd_files says so
        return
    registered = {_stem(icd.library) for icd in machine.icds}
    seen = set()
    for library in machine.vendor_libraries:
        stem = _stem(library)
        if stem in registered or stem in seen:
            continue
        seen.add(stem)
        yield Problem(
            f"{library} is installed but not registered",
            "an OpenCL loader finds drivers only through .icd files",
            f"echo {library} | sudo tee {machine.vendor_folder}/{stem.removeprefix('lib')}.icd",
            "warning" if machine.usable else "error",
        )


def _stem(library: str) -> str:
    return library.rpartition("/")[2].partition(".so")[0]


def node_without_permission(machine: Machine) -> Iterator[Problem]:
    for node in machine.nodes:
        if not node.allowed:
            group = node.group if not node.group.isdecimal() and node.group != "root" else "render"
            yield Problem(
                f"{machine.user} may not open {node.path}",
                f"the file belongs to group '{node.group}' and this user is not in it, or its mode forbids it",
                f"sudo usermod -aG {group} {machine.user}, then log in again"
                + (
                    ""
                    if group == node.group
                    else f"; where the file belongs to no such group, sudo chgrp {group} {node.path} && sudo chmod g+rw {node.path}"
                ),
            )


def mali_without_node(machine: Machine) -> Iterator[Problem]:
    blob = next((p for p in (*[i.library for i in machine.icds if i.exists], *machine.vendor_libraries) if "mali" in p.lower()), None)
    if blob is None or any(n.path.startswith("/dev/mali") for n in machine.nodes):
        return
    free = next((n for n in machine.nodes if n.driver in ("panfrost", "panthor")), None)
    if free:
        yield Problem(
            f"{blob} has no kernel driver to talk to",
            f"the kernel runs {free.driver}, and only one of the two can own the GPU",
            "boot a kernel with the vendor's mali driver, or use Mesa: apt install mesa-opencl-icd and set RUSTICL_ENABLE=panfrost",
        )
    else:
        yield Problem(
            f"{blob} has no kernel driver to talk to",
            "there is no /dev/mali0",
            "boot the vendor's kernel; in a container add --device /dev/mali0",
        )


def rusticl_hidden(machine: Machine) -> Iterator[Problem]:
    installed = any("rusticl" in i.library.lower() and i.exists for i in machine.icds)
    if not installed or machine.environment.get("RUSTICL_ENABLE"):
        return
    names = sorted({_RUSTICL_NAMES[n.driver] for n in machine.nodes if n.driver in _RUSTICL_NAMES})
    if not names and machine.usable:  # no GPU that it could drive: its software rasteriser is no gain
        return
    name = names[0] if names else "llvmpipe"
    matters = bool(names) and all(d.get("emulated") for d in machine.usable)
    yield Problem(
        "Mesa's OpenCL driver (rusticl) hides its devices",
        "it shows only those that the variable RUSTICL_ENABLE names",
        f"export RUSTICL_ENABLE={name}",
        "error" if not machine.usable else "warning" if matters else "note",
    )


def drivers_without_devices(machine: Machine) -> Iterator[Problem]:
    working = [i for i in machine.icds if i.exists]
    if machine.devices or machine.pyopencl_problem or not working:
        return
    if all("rusticl" in i.library.lower() for i in working) and not machine.environment.get("RUSTICL_ENABLE"):
        return
    yield Problem(
        "drivers are registered but show no device",
        f"{', '.join(i.library for i in working)}: the loader inside pyopencl's wheel may not find them, or driver and kernel do not match",
        "compare with `clinfo -l`; where that shows a device: apt install ocl-icd-libopencl1 and "
        "pip install --force-reinstall --no-binary pyopencl pyopencl",
    )


def unusable_devices(machine: Machine) -> Iterator[Problem]:
    for device in machine.devices:
        if device.get("problem"):
            yield Problem(
                f"{device.get('spec', device.get('name'))} cannot be used",
                str(device["problem"]),
                "update its driver, or choose another with --gpu",
                "note" if machine.usable else "error",
            )


def only_emulated(machine: Machine) -> Iterator[Problem]:
    if machine.usable and all(d.get("emulated") for d in machine.usable):
        yield Problem(
            "the only OpenCL devices run on the CPU's own cores",
            "no driver of a real GPU was found",
            "fine for trying things out; for speed install the board's GPU driver",
            "note",
        )


def slow_clock(machine: Machine) -> Iterator[Problem]:
    if machine.slow_cores:
        yield Problem(
            f"{len(machine.slow_cores)} core(s) are held at their lowest clock",
            f"governor powersave on {', '.join(machine.slow_cores[:8])}",
            "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            "warning",
        )


def cache_not_writable(machine: Machine) -> Iterator[Problem]:
    if machine.cache_problem:
        yield Problem(
            f"nothing can be kept in {machine.cache_dir}",
            machine.cache_problem,
            "set COEXEC_CACHE_DIR to a folder that can be written; until then every start measures and compiles anew",
            "warning",
        )


def extras_missing(machine: Machine) -> Iterator[Problem]:
    for extra in machine.missing_extras:
        yield Problem(
            f"{EXTRAS[extra][1]} are not available", f"{EXTRAS[extra][0]} is not installed", f"pip install 'coexec[{extra}]'", "note"
        )


CHECKS: tuple[Check, ...] = (
    no_pyopencl,
    no_loader,
    no_icd_files,
    icd_without_library,
    library_without_icd,
    node_without_permission,
    mali_without_node,
    rusticl_hidden,
    drivers_without_devices,
    unusable_devices,
    only_emulated,
    slow_clock,
    cache_not_writable,
    extras_missing,
    *BOARD_CHECKS,
    *DEVICE_CHECKS,
)


def diagnose(machine: Machine, tried: Iterable[Problem] = ()) -> list[Problem]:
    """Every problem, those that trying the devices has shown among them, the gravest first."""
    order = ("error", "warning", "note")
    found = [*(problem for check in CHECKS for problem in check(machine)), *tried]
    return sorted(found, key=lambda p: order.index(p.severity))
