"""The fixture `device`: each OpenCL device under test (COEXEC_TEST_DEVICES), in each way it can share memory with the host."""

from __future__ import annotations

import pytest

from coexec import settings
from coexec.devices.opencl import open_device
from coexec.devices.opencl.device import OpenCLDevice


def _variants() -> list[tuple[str, str]]:
    specs = [s.strip() for s in settings.get("test_devices").split(",") if s.strip()] or [settings.get("opencl")]
    # test_sharing.py has the other ways of sharing
    return [(spec, sharing) for spec in specs for sharing in open_device(spec).facts.sharing if sharing in ("svm", "copy")]


@pytest.fixture(scope="session", params=_variants(), ids=lambda v: f"{v[0] or 'default'}-{v[1]}")
def device(request: pytest.FixtureRequest) -> OpenCLDevice:
    spec, sharing = request.param
    return OpenCLDevice(open_device(spec).device, sharing)
