"""The fixture `device`: each OpenCL device under test (COEXEC_TEST_DEVICES), sharing memory with the host in its quickest way."""

from __future__ import annotations

import pytest

from coexec import settings
from coexec.devices.opencl import open_device
from coexec.devices.opencl.device import OpenCLDevice


def variants(every: bool) -> list[tuple[str, str]]:
    """(device, way of sharing memory), the first or every way that needs no mapping: what kernels compute does not depend on it."""
    specs = [s.strip() for s in settings.get("test_devices").split(",") if s.strip()] or [settings.get("opencl")]
    # test_sharing.py has the other ways of sharing
    ways = {spec: [sharing for sharing in open_device(spec).facts.sharing if sharing in ("svm", "copy")] for spec in specs}
    return [(spec, sharing) for spec, found in ways.items() for sharing in (found if every else found[:1])]


def name_of(variant: tuple[str, str]) -> str:
    """What a test of it is called."""
    return f"{variant[0] or 'default'}-{variant[1]}"


def device_of(variant: tuple[str, str]) -> OpenCLDevice:
    """That device, opened once more."""
    return OpenCLDevice(open_device(variant[0]).device, variant[1])


@pytest.fixture(scope="session", params=variants(every=False), ids=name_of)
def device(request: pytest.FixtureRequest) -> OpenCLDevice:
    return device_of(request.param)
