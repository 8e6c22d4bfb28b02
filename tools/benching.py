"""What the benchmark tools share: where and with what a result was made, and how results are averaged."""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("coexec", "numpy", "numba", "onnxruntime", "openvino", "MNN")


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
