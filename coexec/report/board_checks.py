"""Diagnoses of what lies below the OpenCL driver: kernel modules, clocks, heat, cores, containers, the cache's disk, rusticl's switches."""

from __future__ import annotations

from collections.abc import Iterator

from .board import mali_release
from .machine import Machine
from .problem import Problem

#: Boards slow themselves down from about here on.
HOT_CELSIUS = 85.0
#: Kernels, profiles and tuning results of a few models fit into this.
LEAST_FREE_BYTES = 100_000_000


def gpu_without_kernel_driver(machine: Machine) -> Iterator[Problem]:
    for gpu in machine.board.hardware:
        if not gpu.driven and not any(n.path.startswith(("/dev/mali", "/dev/kgsl")) for n in machine.nodes):
            yield Problem(
                f"no kernel driver has the GPU {gpu.name}",
                "the board has it, but no module is bound to it, so no OpenCL driver can reach it",
                f"sudo modprobe {gpu.module}; where that fails, boot a kernel that has {gpu.module} or the vendor's driver",
                "note" if any(not d.get("emulated") for d in machine.usable) else "error",
            )


def container_without_nodes(machine: Machine) -> Iterator[Problem]:
    if machine.board.container and not machine.nodes and machine.board.hardware:
        yield Problem(
            "this container sees no GPU",
            "there is no GPU file below /dev, and containers get only those they are given",
            "docker run --device /dev/dri (Mali's own driver: --device /dev/mali0; Adreno's: --device /dev/kgsl-3d0)",
            "error" if not machine.usable else "warning",
        )


def mali_of_another_release(machine: Machine) -> Iterator[Problem]:
    kernel = machine.board.mali_release
    for library in (*(i.library for i in machine.icds if i.exists), *machine.vendor_libraries):
        release = mali_release(library.rpartition("/")[2])
        if kernel and release and release != kernel:
            yield Problem(
                f"{library} and the kernel's driver are of different releases",
                f"the library is of release {release}, the kernel's module of {kernel}; a library that is newer than its module is refused by it",
                f"install the libmali package of release {kernel}, or a kernel whose module is of {release}",
                "note" if any(not d.get("emulated") for d in machine.usable) else "error" if release > kernel else "warning",
            )
            return


def wrong_rusticl_name(machine: Machine) -> Iterator[Problem]:
    known = {"panthor": "panfrost", "mali": "panfrost", "msm": "freedreno", "adreno": "freedreno", "i915": "iris", "amdgpu": "radeonsi"}
    for name in (n.partition(":")[0].strip() for n in machine.environment.get("RUSTICL_ENABLE", "").split(",")):
        if name in known:
            yield Problem(
                f"RUSTICL_ENABLE={name} shows nothing",
                f"Mesa goes by its own driver's name, not the kernel's: {known[name]}",
                f"export RUSTICL_ENABLE={known[name]}",
                "error" if not machine.usable else "warning",
            )


def rusticl_without_half(machine: Machine) -> Iterator[Problem]:
    rusticl = [d for d in machine.usable if "rusticl" in str(d.get("spec", "")).lower() and not d.get("emulated")]
    if rusticl and "fp16" not in machine.environment.get("RUSTICL_FEATURES", ""):
        yield Problem("half precision is switched off", "rusticl offers it only where it is asked to", "export RUSTICL_FEATURES=fp16", "note")


def ignored_variable(machine: Machine) -> Iterator[Problem]:
    named = machine.environment.get("OCL_ICD_FILENAMES")
    if named and not machine.usable:
        yield Problem(
            "OCL_ICD_FILENAMES may be ignored",
            f"it says {named}, but only Khronos' loader reads it; ocl-icd, which distributions install, does not",
            f"echo {named.split(':')[0]} | sudo tee {machine.vendor_folder}/board.icd",
            "warning",
        )


def library_for_another_processor(machine: Machine) -> Iterator[Problem]:
    for icd in machine.icds:
        if icd.foreign:
            yield Problem(
                f"{icd.library} is made for another processor",
                f"{icd.file} names a library that this machine ({machine.arch}) cannot load",
                f"install the driver's {machine.arch} package, or remove {icd.file}",
                "note" if machine.usable else "error",
            )


def slow_gpu_clock(machine: Machine) -> Iterator[Problem]:
    for clock in machine.board.slow_gpus:
        better = next((g for g in ("simple_ondemand", "msm-adreno-tz", "performance") if g in clock.governors), "simple_ondemand")
        yield Problem(
            "the GPU is held at its lowest clock",
            f"governor powersave in {clock.folder}",
            f"echo {better} | sudo tee {clock.folder}/governor",
            "warning",
        )


def hot(machine: Machine) -> Iterator[Problem]:
    zone, celsius = machine.board.hottest
    if celsius >= HOT_CELSIUS:
        yield Problem(
            f"{zone} is at {celsius:.0f} C",
            "boards lower their clocks when they are hot, so timings do not repeat and profiles come out too slow",
            "let it cool down, or cool it better, before `coexec profile` and `coexec bench`",
            "warning",
        )


def few_cores_allowed(machine: Machine) -> Iterator[Problem]:
    allowed, cores = machine.board.allowed_cores, machine.board.cores
    if 0 < allowed < cores:
        yield Problem(
            f"only {allowed} of {cores} cores may be used",
            "an affinity mask or a cpuset keeps this process off the others, often the fast ones",
            f"taskset -c 0-{cores - 1} coexec ...; in a container raise --cpuset-cpus",
            "note",
        )


def disk_nearly_full(machine: Machine) -> Iterator[Problem]:
    if 0 <= machine.cache_free_bytes < LEAST_FREE_BYTES and not machine.cache_problem:
        yield Problem(
            f"the disk of {machine.cache_dir} is nearly full",
            f"{machine.cache_free_bytes / 1e6:.0f} MB are free: compiled kernels cannot be kept, and every start makes them anew",
            "coexec cache clear, or set COEXEC_CACHE_DIR to a folder on another disk",
            "warning",
        )


def foreign_cache(machine: Machine) -> Iterator[Problem]:
    if machine.foreign_cache and not machine.cache_problem:
        yield Problem(
            f"parts of {machine.cache_dir} belong to another user",
            f"{machine.foreign_cache} cannot be written; a run with sudo leaves such folders behind",
            f"sudo chown -R {machine.user} {machine.cache_dir}",
            "warning",
        )


BOARD_CHECKS = (
    gpu_without_kernel_driver,
    container_without_nodes,
    mali_of_another_release,
    wrong_rusticl_name,
    rusticl_without_half,
    ignored_variable,
    library_for_another_processor,
    slow_gpu_clock,
    hot,
    few_cores_allowed,
    disk_nearly_full,
    foreign_cache,
)
