"""Whether two cores are there: a thread beside another on one core is noticed."""

from __future__ import annotations

import os

import pytest

from coexec.devices.cpu import company
from coexec.devices.cpu.company import Company
from coexec.devices.registry import company as company_of
from coexec.devices.registry import find_devices


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a second core is missing: two threads cannot have one each")
def test_threads_that_share_a_core_are_not_two():
    before = os.sched_getaffinity(0)
    one = frozenset({min(before)})
    with Company() as there:
        there.is_there()
        assert os.sched_getaffinity(0) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(company, "apart", lambda count, cores: (one,) * count)
        patch.setattr(company, "usable", lambda: before if len(before) == 2 else one)
        with Company() as there:
            assert not there.is_there()
        assert os.sched_getaffinity(0) == before


@pytest.mark.usefixtures("pocl")
def test_only_an_emulated_gpu_needs_a_core():
    devices = find_devices(need_gpu=True)
    assert devices["gpu"].facts.emulated
    made = company_of(devices)
    assert isinstance(made.is_there(), bool)
    made.close()
    assert company_of({"cpu": devices["cpu"]}) is None
