"""Shows the devices and drivers of this machine, what is wrong with them and what to do, and tries each device on a small convolution."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CoexecError, DeviceHang, NoDevice, NumericMismatch
from .cache import PARTS, measure
from .console import Console, table

HELP = "devices, drivers, why one is missing and what to do"
EXAMPLES = (
    "coexec doctor",
    "coexec doctor --json | python3 -m json.tool",
)
ON_A_BOARD = ("RUSTICL_ENABLE=panfrost coexec doctor  # with the devices that Mesa hides",)
NOTES = """Nothing is changed: what a trouble needs is printed as a command, and is yours to run. Errors keep a device from being used, warnings make
it slow, notes are worth knowing. Exit code 3 means that no GPU can be used; the CPU works anyway (--strategy cpu). With -v, also every driver
file, device node, GPU of the kernel's and clock governor that was looked at."""

_MARKS = {"error": "red", "warning": "yellow", "note": "dim"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-self-test", action="store_true", help="only look, run nothing on the devices")


def execute(options: argparse.Namespace, console: Console) -> int:
    from ..report.doctor import diagnose
    from ..report.machine import look

    machine = look()
    devices = [_cpu(options)] + [_gpu(facts, options) for facts in machine.devices]
    problems = diagnose(machine, _habits(devices))
    kept = _kept(machine)
    console.emit(
        {
            "devices": devices,
            "problems": [asdict(p) for p in problems],
            "drivers": [asdict(i) for i in machine.icds],
            "device_nodes": [asdict(n) for n in machine.nodes],
            "loaders": machine.loaders,
            "cache_dir": machine.cache_dir,
            "cache": kept,
            "kernel_gpus": [asdict(g) for g in machine.board.hardware],
            "governors": list(machine.board.governors),
        }
    )
    _show(devices, problems, machine, kept, console)
    if not machine.usable:
        return NoDevice.exit_code
    failed = [d for d in devices if d["self_test"] and not d["self_test"]["ok"]]
    if not failed:
        return 0
    if any(d["self_test"].get("hangs") for d in failed):
        return DeviceHang.exit_code
    return NumericMismatch.exit_code if any(d["self_test"]["max_rel_error"] is not None for d in failed) else CoexecError.exit_code


def _cpu(options: argparse.Namespace) -> dict[str, Any]:
    from ..devices.registry import cpu_device
    from ..report.self_test import self_test

    device = cpu_device()
    facts = device.facts
    return {
        "unit": "cpu",
        "name": facts.name,
        "driver": facts.driver,
        "compute_units": facts.compute_units,
        "emulated": False,
        "problem": None,
        "self_test": None if options.no_self_test else self_test(device),
    }


def _gpu(facts: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    from ..devices.opencl import open_device
    from ..report.self_test import habits_of, self_test

    tried = habits = None
    if not facts.get("problem") and not options.no_self_test:
        try:
            device = open_device(facts["spec"])
            tried = self_test(device)
            habits = habits_of(device) if tried["ok"] else None
        except CoexecError as error:
            tried = {"ok": False, "max_rel_error": None, "error": str(error)}
    return {"unit": "gpu", **facts, "self_test": tried, "driver_habits": None if habits is None else habits._asdict()}


def _habits(devices: list[dict[str, Any]]) -> list[Any]:
    from ..report.self_test import Habits, problems_of

    return [p for d in devices if d.get("driver_habits") for p in problems_of(d["name"], Habits(**d["driver_habits"]))]


def _kept(machine: Any) -> dict[str, Any]:
    """The cache's state: files and bytes in it, free bytes of its disk, and how many profiles of this machine it holds."""
    sizes = {part: measure(Path(machine.cache_dir) / part) for part in PARTS}
    profiles = len(list((Path(machine.cache_dir) / "profiles").glob("*.yaml")))
    return {"files": sum(n for n, _ in sizes.values()), "bytes": sum(b for _, b in sizes.values()), "free_bytes": machine.cache_free_bytes,
            "profiles": profiles}  # fmt: skip


def _show(devices: list[dict[str, Any]], problems: list[Any], machine: Any, kept: dict[str, Any], console: Console) -> None:
    rows = []
    for device in devices:
        tried = device["self_test"]
        state = device["problem"] or ("" if tried is None else "self-test ok" if tried["ok"] else f"self-test FAILED: {tried['error']}")
        kind = device["unit"] + (" (emulated)" if device["emulated"] else "")
        rows.append(
            (
                kind,
                device["name"],
                f"{device['compute_units']} units",
                device["driver"] if console.verbose else device["driver"].partition(" (")[0],
                state,
            )
        )
    console.result(console.style("Devices", "bold"))
    console.result(table(rows, align="llrll"))
    console.result()
    console.result(console.style("Problems", "bold") if problems else "No problems found.")
    for problem in problems:
        console.result(f"{console.style(problem.severity, _MARKS[problem.severity])}: {problem.what}")
        console.result(f"  why: {problem.why}")
        console.result(f"  fix: {problem.fix}")
    console.result()
    free = f", {kept['free_bytes'] / 1e9:.1f} GB free there" if kept["free_bytes"] >= 0 else ""
    measured = "this machine is measured" if kept["profiles"] else "this machine is not measured yet: the first plan does it, or `coexec profile`"
    console.result(f"Cache: {machine.cache_dir}: {kept['bytes'] / 1e6:.1f} MB in {kept['files']} files{free}; {measured}")
    if console.verbose:
        for icd in machine.icds:
            console.result(f"Driver: {icd.file} -> {icd.library}{'' if icd.exists else ' (missing)'}")
        for node in machine.nodes:
            driver = f", kernel driver {node.driver}" if node.driver else ""
            console.result(f"Device node: {node.path}, group {node.group}{driver}{'' if node.allowed else ' (no permission)'}")
        for gpu in machine.board.hardware:
            console.result(f"GPU of the kernel: {gpu.name}, {'driven' if gpu.driven else f'no driver (module {gpu.module})'}")
        for governor in machine.board.governors:
            console.result(f"Clocks: {governor}")
