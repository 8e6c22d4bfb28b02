"""What the benchmark tools share: where and with what a result was made, and how results are averaged."""

from __future__ import annotations

import argparse
import math
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("coexec", "numpy", "numba", "onnxruntime", "openvino", "MNN")


def parser(about: str | None, rounds: int, counted: str) -> argparse.ArgumentParser:
    """What tools that run whole models take: models, strategy, profile, rounds (of what, says `counted`), and where the JSON goes."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("models", nargs="+", type=Path, help="ONNX files")
    made.add_argument("--strategy", default="coexec", help="how the models are cut (default: %(default)s)")
    made.add_argument("--profile", help="a device profile (default: this machine's)")
    made.add_argument("--rounds", type=int, default=rounds, help=f"{counted} (default: %(default)s)")
    made.add_argument("--json", type=Path, help="write everything there too")
    return made


def geometric_mean(values: Sequence[float]) -> float:
    """Of numbers above 0; NaN of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def versions() -> dict[str, str]:
    """Of the packages that take part, and the commit."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    try:
        told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
        commit = told.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {**found, "commit": commit}


def machine() -> dict[str, str]:
    """The processors, the OpenCL driver and the system."""
    from coexec.devices.registry import find_devices

    devices = find_devices()
    return {"cpu": devices["cpu"].facts.name, "cores": str(devices["cpu"].facts.compute_units), "system": platform.platform(terse=True),
            "gpu": f"{devices['gpu'].facts.name}, {devices['gpu'].facts.driver}" if "gpu" in devices else "none"}
