"""What the kernel says of a board: GPUs it knows of, their clocks, heat, cores a process may use. Reads files below a root, changes nothing."""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: How a GPU is called in a device tree's `compatible`, and the free kernel modules that drive it, the likeliest first.
TREE_MODULES = {
    "arm,mali-valhall-csf": ("panthor",),
    "arm,mali": ("panfrost",),
    "qcom,adreno": ("msm",),
    "brcm,2711-v3d": ("v3d",),
    "brcm,2712-v3d": ("v3d",),
    "img,": ("powervr",),
    "vivante,gc": ("etnaviv",),
}
#: PCI vendors of GPUs, and their kernel modules.
PCI_MODULES = {"0x1002": "amdgpu", "0x8086": "i915", "0x10de": "nouveau"}
#: e_machine of an ELF file, by what uname calls the processor.
ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "armv7l": 40, "riscv64": 243}
_GPU_WORDS = ("gpu", "mali", "kgsl", "g3d")


@dataclass(frozen=True)
class Clock:
    """A devfreq device that is held at its lowest clock."""

    folder: str
    governors: tuple[str, ...]


@dataclass(frozen=True)
class Hardware:
    """A GPU that the kernel knows of: its name in the device tree or on the PCI bus, the module for it, and whether a driver has it."""

    name: str
    module: str
    driven: bool


@dataclass(frozen=True)
class Board:
    """Facts of a board's kernel. Temperatures are degrees Celsius; `cores` and `allowed_cores` are counts, 0 where unknown."""

    hardware: tuple[Hardware, ...] = ()
    slow_gpus: tuple[Clock, ...] = ()
    hottest: tuple[str, float] = ("", 0.0)
    cores: int = 0
    allowed_cores: int = 0
    container: bool = False
    #: Which governor sets the clocks of how many cores, and of each devfreq device, in words.
    governors: tuple[str, ...] = ()
    #: The release of Mali's own kernel driver, such as 18 of g18p0; 0 where there is none.
    mali_release: int = 0


def look_at_board(root: Path) -> Board:
    """The facts below `root`; what cannot be read is not known."""
    return Board(
        hardware=(*_tree(root), *_pci(root)),
        slow_gpus=_slow_gpus(root),
        hottest=_hottest(root),
        cores=count_cores(_text(root / "sys/devices/system/cpu/online")),
        allowed_cores=_allowed(root),
        container=(root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
        governors=tuple(_governors(root)),
        mali_release=next((n for p in ("mali_kbase", "bifrost_kbase") if (n := mali_release(_text(root / "sys/module" / p / "version")))), 0),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _tree(root: Path) -> list[Hardware]:
    found = []
    base = root / "sys/firmware/devicetree/base"
    for file in sorted({*base.glob("*gpu*/compatible"), *base.glob("*/*gpu*/compatible"), *base.glob("*v3d*/compatible"),
                        *base.glob("*/*v3d*/compatible")}):
        names = [n for n in _text(file).split("\0") if n]
        if _text(file.parent / "status") in ("disabled", "fail"):
            continue
        module = next((m[0] for n in names for start, m in TREE_MODULES.items() if n.startswith(start)), "")
        if names and module:
            found.append(Hardware(names[0], module, _is_driven(root, file.parent.name)))
    return found


def _is_driven(root: Path, node: str) -> bool:
    """Platform devices are named ADDRESS.NAME, tree nodes NAME@ADDRESS."""
    name, _, address = node.partition("@")
    return any((root / "sys/bus/platform/devices" / device / "driver").is_symlink() for device in (f"{address}.{name}", name) if device)


def _pci(root: Path) -> list[Hardware]:
    found = []
    for folder in sorted(root.glob("sys/bus/pci/devices/*")):
        vendor = _text(folder / "vendor")
        if _text(folder / "class").startswith("0x03") and vendor in PCI_MODULES:
            found.append(Hardware(f"PCI {folder.name} {vendor}:{_text(folder / 'device')}", PCI_MODULES[vendor], (folder / "driver").is_symlink()))
    return found


def _slow_gpus(root: Path) -> tuple[Clock, ...]:
    found = []
    for folder in sorted(root.glob("sys/class/devfreq/*")):
        if _text(folder / "governor") == "powersave" and any(w in folder.name.lower() for w in _GPU_WORDS):
            found.append(Clock(str(Path("/") / folder.relative_to(root)), tuple(_text(folder / "available_governors").split())))
    return tuple(found)


def _governors(root: Path) -> Iterator[str]:
    cores = Counter(_text(file) for file in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))
    yield from (f"{count} core(s) by {name}" for name, count in sorted(cores.items()))
    yield from (f"{folder.name} by {name}" for folder in sorted(root.glob("sys/class/devfreq/*")) if (name := _text(folder / "governor")))


def mali_release(text: str) -> int:
    """The number of a release of Arm's driver in a version or a file's name (`g18p0`, `r44p1`); 0 where there is none."""
    found = re.search(r"(?<![a-z0-9])[gr](\d{1,2})p\d", text)
    return int(found[1]) if found else 0


def _hottest(root: Path) -> tuple[str, float]:
    seen = [("", 0.0)]
    for folder in root.glob("sys/class/thermal/thermal_zone*"):
        text = _text(folder / "temp")
        if text.lstrip("-").isdecimal():
            seen.append((_text(folder / "type") or folder.name, int(text) / 1000))
    return max(seen, key=lambda s: s[1])


def _allowed(root: Path) -> int:
    lines = _text(root / "proc/self/status").splitlines()
    return count_cores(next((line.partition(":")[2].strip() for line in lines if line.startswith("Cpus_allowed_list:")), ""))


def count_cores(ranges: str) -> int:
    """How many `0-3,6` names; 0 where it is not such a list."""
    total = 0
    for part in filter(None, ranges.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return 0
        total += int(last) - int(first) + 1 if dash else 1
    return total


def elf_machine(path: Path) -> int:
    """The processor a shared library is made for (e_machine); 0 where it is no little-endian ELF file."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return 0
    return struct.unpack_from("<H", head, 18)[0] if len(head) == 20 and head[:4] == b"\x7fELF" and head[5] == 1 else 0


def free_bytes(folder: Path) -> int:
    """Free space where that folder lies; -1 where it cannot be told."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return -1
    return facts.f_bavail * facts.f_frsize
