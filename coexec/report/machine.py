"""What a machine has, as plain facts: drivers, device nodes, clocks, folders. Reads a file system below `root`, changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import settings
from ..errors import CoexecError
from .board import ELF_MACHINES, Board, elf_machine, free_bytes, look_at_board

#: Modules of the extras, and what is missing without them.
EXTRAS = {
    "cli": ("rich", "progress bars"),
    "image": ("PIL", "pictures as inputs"),
    "report": ("matplotlib", "plots as PNG and SVG files"),
}
#: GPU drivers of boards as their libraries are called; an OpenCL loader finds them only through an .icd file.
VENDOR_LIBRARIES = (
    "libmali.so*",
    "libMali.so*",
    "libOpenCL_adreno.so*",
    "libPVROCL.so*",
    "libVivanteOpenCL.so*",
    "libnvidia-opencl.so*",
    "libRusticlOpenCL.so*",
    "libpocl.so*",
    "libigdrcl.so*",
)
_LIBRARY_FOLDERS = (
    "lib",
    "lib64",
    "usr/lib",
    "usr/lib64",
    "usr/local/lib",
    "usr/lib/*-linux-gnu*",
    "lib/*-linux-gnu*",
    "usr/lib/*/mali",
    "usr/lib/mali",
    "opt/*/lib",
    "vendor/lib64",
    "system/vendor/lib64",
    "usr/lib/*-linux-gnu*/intel-opencl",
)
_DEVICE_NODES = ("dev/mali[0-9]*", "dev/kgsl-3d[0-9]*", "dev/dri/renderD*", "dev/pvrsrvkm*", "dev/galcore", "dev/kfd", "dev/nvidia[0-9]*")


@dataclass(frozen=True)
class Icd:
    """A line in /etc/OpenCL/vendors: which library is a driver, and whether that library is there."""

    file: str
    library: str
    exists: bool
    #: Made for another kind of processor.
    foreign: bool = False


@dataclass(frozen=True)
class DeviceNode:
    """A GPU's file below /dev, with the group that owns it and whether this user may open it for reading and writing."""

    path: str
    group: str
    allowed: bool
    driver: str = ""


@dataclass(frozen=True)
class Machine:
    """Facts for the checks of `coexec doctor`. Paths are as the machine itself would write them."""

    loaders: tuple[str, ...] = ()
    vendor_folder: str = "/etc/OpenCL/vendors"
    icds: tuple[Icd, ...] = ()
    vendor_libraries: tuple[str, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    slow_cores: tuple[str, ...] = ()
    cache_dir: str = ""
    cache_problem: str = ""
    missing_extras: tuple[str, ...] = ()
    pyopencl_problem: str = ""
    devices: tuple[Mapping[str, Any], ...] = ()
    arch: str = ""
    cache_free_bytes: int = -1
    #: The first folder of the cache that this user may not write.
    foreign_cache: str = ""
    board: Board = Board()

    @property
    def usable(self) -> tuple[Mapping[str, Any], ...]:
        """OpenCL devices that a session could take."""
        return tuple(d for d in self.devices if not d.get("problem"))


def look(
    root: str | os.PathLike[str] = "/",
    *,
    user: int | None = None,
    groups: frozenset[int] | None = None,
    environment: Mapping[str, str] | None = None,
    cache_dir: Path | None = None,
    opencl: bool = True,
    arch: str = "",
) -> Machine:
    """The facts of the machine whose file system is below `root`; `opencl` also asks the drivers for their devices."""
    root, environment = Path(root), os.environ if environment is None else environment
    user = os.geteuid() if user is None else user
    groups = frozenset({os.getegid(), *os.getgroups()}) if groups is None else groups
    libraries = _libraries(root)
    vendors = _vendor_folder(environment)
    cache = settings.get("cache_dir") if cache_dir is None else cache_dir
    devices, trouble = _opencl_devices() if opencl else ((), "")
    arch = arch or platform.machine()
    return Machine(
        loaders=tuple(sorted(str(p) for name, p in libraries if name.startswith("libOpenCL.so"))),
        vendor_folder=vendors,
        icds=_icds(root, vendors, libraries, arch),
        vendor_libraries=_vendor_libraries(libraries),
        nodes=_nodes(root, user, groups),
        user=_name_of(root / "etc/passwd", user),
        environment={
            k: v
            for k, v in environment.items()
            if k in ("RUSTICL_ENABLE", "RUSTICL_FEATURES", "OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "LD_LIBRARY_PATH")
        },
        slow_cores=_slow_cores(root),
        cache_dir=str(cache),
        cache_problem=_cache_problem(cache),
        missing_extras=tuple(extra for extra, (module, _) in EXTRAS.items() if importlib.util.find_spec(module) is None),
        pyopencl_problem=trouble,
        devices=devices,
        arch=arch,
        cache_free_bytes=free_bytes(cache),
        foreign_cache=_foreign(cache, user, groups),
        board=look_at_board(root),
    )


def _opencl_devices() -> tuple[tuple[Mapping[str, Any], ...], str]:
    from ..devices.opencl import list_devices

    try:
        return tuple(list_devices()), ""
    except CoexecError as error:
        return (), str(error)


def _libraries(root: Path) -> list[tuple[str, Path]]:
    """(file name, path on that machine) of every shared library in the usual folders."""
    found = {}
    for folder in _LIBRARY_FOLDERS:
        for place in root.glob(folder):
            for path in place.glob("lib*.so*"):
                found[Path("/") / path.relative_to(root)] = path.name
    return [(name, path) for path, name in found.items()]


def _vendor_libraries(libraries: list[tuple[str, Path]]) -> tuple[str, ...]:
    return tuple(sorted(str(p) for name, p in libraries if any(p.match(pattern) for pattern in VENDOR_LIBRARIES)))


def _vendor_folder(environment: Mapping[str, str]) -> str:
    """Where the loader looks for .icd files. ocl-icd reads OCL_ICD_VENDORS, which may also name one file or a library."""
    named = environment.get("OCL_ICD_VENDORS", "")
    return named if named.startswith("/") else "/etc/OpenCL/vendors"


def _icds(root: Path, vendors: str, libraries: list[tuple[str, Path]], arch: str) -> tuple[Icd, ...]:
    place = root / vendors.lstrip("/")
    files = [place] if place.is_file() else sorted(place.glob("*.icd")) if place.is_dir() else []
    places: dict[str, list[Path]] = {}
    for name, path in libraries:
        places.setdefault(name, []).append(path)
    found = []
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            text = ""
        library = next((line.strip() for line in text.splitlines() if line.strip()), "")
        candidates = [Path(library)] if library.startswith("/") else places.get(library, [])
        there = [root / str(c).lstrip("/") for c in candidates if (root / str(c).lstrip("/")).exists()]
        made_for = {elf_machine(path) for path in there} - {0}
        foreign = bool(made_for) and arch in ELF_MACHINES and ELF_MACHINES[arch] not in made_for
        found.append(Icd(str(Path("/") / file.relative_to(root)), library, bool(library) and bool(there), foreign))
    return tuple(found)


def _nodes(root: Path, user: int, groups: frozenset[int]) -> tuple[DeviceNode, ...]:
    found = []
    for pattern in _DEVICE_NODES:
        for path in sorted(root.glob(pattern)):
            facts = path.stat()
            found.append(
                DeviceNode(
                    str(Path("/") / path.relative_to(root)),
                    _name_of(root / "etc/group", facts.st_gid),
                    may_open(facts.st_mode, facts.st_uid, facts.st_gid, user, groups),
                    _kernel_driver(root, path.name),
                )
            )
    return tuple(found)


def may_open(mode: int, owner: int, group: int, user: int, groups: frozenset[int]) -> bool:
    """Whether that user may read and write a file of that mode; root always may."""
    if user == 0:
        return True
    wanted = (
        stat.S_IRUSR | stat.S_IWUSR if user == owner else stat.S_IRGRP | stat.S_IWGRP if group in groups else stat.S_IROTH | stat.S_IWOTH
    )
    return mode & wanted == wanted


def _kernel_driver(root: Path, node: str) -> str:
    link = root / "sys/class/drm" / node / "device/driver"
    return Path(os.readlink(link)).name if link.is_symlink() else ""


def _name_of(table: Path, number: int) -> str:
    """The name of a user or group in /etc/passwd or /etc/group, else its number."""
    try:
        rows = [line.split(":") for line in table.read_text(errors="replace").splitlines()]
    except OSError:
        rows = []
    return next((row[0] for row in rows if len(row) > 2 and row[2] == str(number)), str(number))


def _slow_cores(root: Path) -> tuple[str, ...]:
    """Cores held at their lowest clock. intel_pstate's and amd-pstate's `powersave` is dynamic, and not meant."""
    slow = []
    for file in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")):
        driver = file.with_name("scaling_driver")
        dynamic = driver.is_file() and driver.read_text().strip() in ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
        if file.read_text().strip() == "powersave" and not dynamic:
            slow.append(file.parent.parent.name)
    return tuple(slow)


def _cache_problem(folder: Path) -> str:
    """Why nothing can be kept in that folder, or nothing; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _foreign(folder: Path, user: int, groups: frozenset[int]) -> str:
    """The first folder directly in the cache that this user may not write, as after a run with sudo."""
    try:
        for inside in sorted(p for p in folder.iterdir() if p.is_dir()):
            facts = inside.stat()
            if not may_open(facts.st_mode, facts.st_uid, facts.st_gid, user, groups):
                return str(inside)
    except OSError:
        pass
    return ""
