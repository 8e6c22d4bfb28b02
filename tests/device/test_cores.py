"""An emulated GPU and the host keep off one another's cores while a run lasts, and nothing of that is left behind."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from coexec.devices import cores as team_cores
from coexec.devices.cpu.device import CpuDevice
from coexec.devices.cpu.threads import ThreadTeam
from coexec.devices.opencl import cores
from coexec.devices.opencl.cores import Elsewhere
from coexec.devices.opencl.platform import list_devices
from coexec.graph.ir import Node, TensorType, Value
from coexec.profiling.measure import Bench
from coexec.regions import Region

CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.skipif(len(CORES) < 2, reason="a second core is missing: one cannot be divided")
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
    assert any("Portable Computing Language" in d["driver"] and not d["problem"] for d in list_devices()), \
        "install pocl-opencl-icd (Debian and Ubuntu package it); tools/test.sh does"
    reserved = cores.reserve()
    if len(cores._workers) >= len(CORES):
        assert reserved == frozenset()
        return
    assert len(reserved) == len(cores._workers) > 0
    assert {core for worker in cores._workers for core in os.sched_getaffinity(worker)} == reserved


# The CPU's threads


def tree(tmp_path, **files):
    """A machine's folder in /sys: source -> a number for each core from 0 on."""
    for source, numbers in files.items():
        for core, number in enumerate(numbers):
            path = tmp_path / f"cpu{core}" / {"capacity": "cpu_capacity", "clock": "cpufreq/cpuinfo_max_freq"}[source]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{number}\n")
    return tmp_path


@pytest.mark.parametrize("count, capacity, chosen", [
    (1, [446] * 4 + [1024] * 4, {4, 5, 6, 7}), (4, [446] * 4 + [1024] * 4, {4, 5, 6, 7}), (5, [446] * 4 + [1024] * 4, set(range(8))),
    (2, [300, 300, 800, 800, 1024], {2, 3, 4}), (1, [300, 300, 800, 800, 1024], {4}), (3, [1024] * 4, {0, 1, 2, 3}), (9, [1, 2], {0, 1})])
def test_the_big_cores_come_first(tmp_path, count, capacity, chosen):
    assert team_cores.biggest(count, range(len(capacity)), tree(tmp_path, capacity=capacity)) == chosen
    assert team_cores.biggest(count, range(len(capacity)), tree(tmp_path / "x86", clock=capacity)) == chosen


def test_cores_of_which_the_kernel_says_nothing_are_alike(tmp_path):
    assert team_cores.sizes([0, 1, 2], tmp_path) == {0: 1, 1: 1, 2: 1}
    assert team_cores.sizes([0, 1, 2], tree(tmp_path, capacity=[5, 9])) == {0: 1, 1: 1, 2: 1}  # not of core 2


def test_the_mask_of_the_process_and_the_gpu_s_cores_come_before_wishes(tmp_path, monkeypatch):
    root = tree(tmp_path, capacity=[446] * 4 + [1024] * 4)
    monkeypatch.setattr(team_cores, "usable", lambda: frozenset({0, 1, 4, 5}))
    monkeypatch.setattr(team_cores, "_taken", set())
    choose = team_cores.for_team
    assert choose(2, (), root) == {4, 5} and choose(2, [0, 1], root) == {0, 1}
    assert choose(2, [6, 7], root) == {4, 5}, "wished for cores that the process may not use"
    assert choose(3, (), root) == frozenset(), "all it may use: nothing to pin"
    monkeypatch.setattr(team_cores, "_taken", {5})
    assert choose(1, (), root) == {4} and choose(3, (), root) == {0, 1, 4}
    assert choose(4, (), root) == frozenset(), "more threads than cores are left: everywhere"


def test_a_thread_has_a_core_of_its_own_where_there_are_just_as_many(monkeypatch):
    monkeypatch.setattr(team_cores, "usable", lambda: frozenset({2, 3}))
    apart = team_cores.apart
    assert apart(2, frozenset()) == ({2}, {3}) and apart(2, frozenset({4, 5})) == ({4}, {5})
    assert apart(1, frozenset()) == (frozenset(),), "one thread may run anywhere"
    assert apart(3, frozenset()) == (frozenset(),) * 3 and apart(2, frozenset({4, 5, 6})) == (frozenset({4, 5, 6}),) * 2


@pytest.mark.skipif(len(CORES) < 2, reason="a second core is missing: one cannot be divided")
def test_the_caller_and_its_team_do_not_meet_on_a_core():
    kind = TensorType(np.dtype(np.float32), (1, 64, 64, 64))
    node = Node("Relu", (Value("x", kind),), (Value("y", kind),), name="relu")
    device, seen = CpuDevice(), {}
    with Bench(device, node, Region.whole(kind.shape), len(CORES)) as bench:
        bench.queue.begin_run()
        bench.queue.run([lambda i=i: seen.__setitem__(i, os.sched_getaffinity(0)) for i in range(len(CORES))])
        bench.queue.end_run()
    assert sorted(map(tuple, seen.values())) == [(core,) for core in CORES]
    assert os.sched_getaffinity(0) == set(CORES)


def test_the_team_stays_on_its_cores_and_the_caller_comes_back():
    here, seen = {CORES[-1]}, {}
    team = ThreadTeam(3, [frozenset(here)] * 2)
    try:
        team.run([lambda i=i: seen.__setitem__(i, os.sched_getaffinity(0)) for i in range(3)])
        assert seen == {0: set(CORES), 1: here, 2: here}
    finally:
        team.close()
    within = team_cores.Within(here)
    within.enter()
    assert os.sched_getaffinity(0) == here
    within.leave()
    within.leave()
    assert os.sched_getaffinity(0) == set(CORES)


RESTRICTED = """
    import os, sys
    os.sched_setaffinity(0, {int(sys.argv[1])})
    import numpy as np, coexec
    from coexec.devices.cpu.device import CpuDevice
    from tests.test_smoke import tiny_model
    x = np.ones((1, 3, 12, 12), np.float32)
    cpu = CpuDevice().used_by(cores=range(64))
    with coexec.InferenceSession(tiny_model(), coexec.SessionOptions(intra_op_num_threads=2), strategy="cpu") as session:
        session.run(None, {"x": x})
        assert session.threads == 2
    for task in os.listdir("/proc/self/task"):
        assert os.sched_getaffinity(int(task)) == {int(sys.argv[1])}, task
    assert cpu.facts.compute_units == 1
"""


@pytest.mark.parametrize("core", CORES)
def test_a_process_that_may_use_one_core_uses_no_other(core):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(RESTRICTED), str(core)], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": os.getcwd(), "COEXEC_OPENCL": "none"})
    assert done.returncode == 0, done.stderr
