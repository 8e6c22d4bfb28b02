"""Which OpenCL device a test takes where not every driver can do what it tries."""

from __future__ import annotations

from coexec import settings
from coexec.devices.opencl.device import OpenCLDevice
from coexec.devices.opencl.platform import find_device
from coexec.errors import UsageError


def gpu_that_shares(sharing: str) -> str:
    """The usual device where it can share memory that way, else PoCL, which tools/test.sh installs: a name for COEXEC_OPENCL."""
    try:
        OpenCLDevice(find_device(None), sharing)
        return settings.get("opencl")
    except UsageError:
        return "pocl"
