"""An emulated GPU and the host keep off one another's cores while a run lasts, and nothing of that is left behind."""

import os

import pytest

from coexec.devices.opencl import cores
from coexec.devices.opencl.cores import Elsewhere
from coexec.devices.opencl.platform import list_devices

CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.skipif(len(CORES) < 2, reason="one core cannot be divided")
def test_the_host_leaves_the_cores_while_a_run_lasts():
    elsewhere = Elsewhere(frozenset({CORES[-1]}))
    elsewhere.enter()
    try:
        assert os.sched_getaffinity(0) == set(CORES[:-1])
    finally:
        elsewhere.leave()
    assert os.sched_getaffinity(0) == set(CORES)
    elsewhere.leave()  # without an enter: nothing to bring back
    assert os.sched_getaffinity(0) == set(CORES)


@pytest.mark.parametrize("reserved", [frozenset(), frozenset(CORES), frozenset({max(CORES) + 1000})])
def test_a_host_that_would_have_no_core_left_stays(reserved):
    elsewhere = Elsewhere(reserved)
    elsewhere.enter()
    assert os.sched_getaffinity(0) == set(CORES)
    elsewhere.leave()
    assert os.sched_getaffinity(0) == set(CORES)


def test_the_driver_s_threads_have_cores_of_their_own():
    if not any("Portable Computing Language" in d["driver"] and not d["problem"] for d in list_devices()):
        pytest.skip("PoCL is not installed (apt install pocl-opencl-icd)")
    reserved = cores.reserve()
    if len(cores._workers) >= len(CORES):
        assert reserved == frozenset()
        return
    assert len(reserved) == len(cores._workers) > 0
    assert {core for worker in cores._workers for core in os.sched_getaffinity(worker)} == reserved
