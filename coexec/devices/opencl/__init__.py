"""The OpenCL device. `open_device` and `list_devices` are its doors; one file per operator family builds kernels from `kernels/`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import NoDevice

if TYPE_CHECKING:
    from .device import OpenCLDevice

__all__ = ["list_devices", "open_device"]


def open_device(spec: str | None = None) -> OpenCLDevice:
    """The OpenCL device that `spec` names (PLATFORM:DEVICE); None asks the setting COEXEC_OPENCL, "" takes the best there is.

    Raises NoDevice where there is none, or pyopencl cannot be imported.
    """
    try:
        from . import device, platform
    except (ImportError, OSError) as error:
        raise NoDevice("pyopencl cannot be imported", found=error, hint="pip install pyopencl") from error
    return device.OpenCLDevice(platform.find_device(spec))


def list_devices() -> list[dict[str, Any]]:
    """Every OpenCL device of this machine as plain data, usable or not (key `problem`), best first. Raises NoDevice without pyopencl."""
    try:
        from . import platform
    except (ImportError, OSError) as error:
        raise NoDevice("pyopencl cannot be imported", found=error, hint="pip install pyopencl") from error
    return platform.list_devices()
