"""Kernels that crash or hang their driver: the process that times them is lost, the profile is not."""

from __future__ import annotations

import json
import sys
import time

import pytest

from coexec.devices.null.device import NullDevice
from coexec.devices.registry import find_devices
from coexec.errors import DeviceError, UsageError
from coexec.profiling.isolation import Isolated, KernelLost
from coexec.profiling.run import profile_devices
from coexec.profiling.sampler import SHAPES, whole_of
from coexec.profiling.table import read_table

#: A child whose device kills its process at every Softmax, and never ends a MaxPool.
CHILD = """
import os, sys, time
from coexec.devices.null.device import NullDevice
from coexec.profiling.isolation import serve

def cost(node, region):
    if node.op_type == "Softmax":
        os.abort()
    if node.op_type == "MaxPool":
        time.sleep(1000)
    return 1e-5

with os.fdopen(int(sys.argv[1])) as lines, os.fdopen(int(sys.argv[2]), "w") as answers:
    lines.readline()
    serve(NullDevice("gpu", cost), "gpu", lines, answers)
"""


@pytest.fixture
def isolated(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    with Isolated([sys.executable, str(script)], hang_s=2.0) as made:
        yield made


def timed(isolated, family):
    row, = isolated.round([whole_of(SHAPES[family][0])], 1, 0.0)
    return row


def test_a_lost_kernel_is_told_and_the_next_is_timed(isolated):
    assert timed(isolated, "elementwise").implementation == "null_relu"
    first = isolated.child.pid
    with pytest.raises(KernelLost, match="ended: found exit code -6"):
        timed(isolated, "softmax")
    assert timed(isolated, "elementwise").latency_us > 0 and isolated.child.pid != first
    begun = time.perf_counter()
    with pytest.raises(KernelLost, match="did not answer within 2 s"):
        timed(isolated, "pool")
    assert time.perf_counter() - begun < 10 and timed(isolated, "conv_1x1").op_type == "Conv"


def test_of_several_kernels_the_lost_one_is_known(isolated):
    samples = [whole_of(SHAPES[family][0]) for family in ("elementwise", "conv_1x1", "softmax", "pool")]
    with pytest.raises(KernelLost) as lost:
        isolated.round(samples, 1, 0.0)
    assert lost.value.index == 2
    assert [row.op_type for row in isolated.round(samples[:2], 1, 0.0)] == ["Relu", "Conv"]


def test_a_profile_goes_on_without_the_kernels_that_were_lost(isolated, tmp_path, monkeypatch):
    monkeypatch.setattr("coexec.profiling.run.COMPILING_SHARE", 1.0)  # else what is lost, and has no timing, is soon not drawn any more
    isolated.hang_s = 0.5
    devices, table = (NullDevice("cpu", 1e-5, asynchronous=False), NullDevice("gpu", 1e-5)), tmp_path / "t.csv"
    profile, rows = profile_devices(*devices, time_budget_s=12.0, table=table, isolated=isolated)
    on_gpu = {r.op_type for r in rows if r.unit == "gpu"}
    assert {"Conv", "Relu", "MatMul"} <= on_gpu and not {"Softmax", "MaxPool"} & on_gpu and read_table(table) == rows
    lost = json.loads((tmp_path / "t.quarantine.json").read_text())
    assert {"Softmax", "MaxPool"} == {v["op_type"] for v in lost.values()}
    refused = {k for k in ("Softmax", "MaxPool") if sum(v["op_type"] == k for v in lost.values()) >= 3}
    assert refused and not refused & set(profile.gpu.operators) and "Conv" in profile.gpu.operators
    profile_devices(*devices, time_budget_s=1.0, table=table, isolated=isolated, resume=True)
    assert lost.items() <= json.loads((tmp_path / "t.quarantine.json").read_text()).items(), "who resumes does not try them again"
    (tmp_path / "t.quarantine.json").write_text("[1]")
    with pytest.raises(UsageError, match="not a list of lost kernels"):
        profile_devices(*devices, time_budget_s=1.0, table=table, isolated=isolated, resume=True)


def test_a_child_that_cannot_start_is_a_device_error(tmp_path):
    for command in ([sys.executable, "-c", "raise SystemExit(3)"], [str(tmp_path / "nothing")]):
        with Isolated(command) as broken, pytest.raises(DeviceError):
            timed(broken, "elementwise")
    with Isolated([sys.executable, "-c", "raise SystemExit(3)"]) as broken:
        _, rows = profile_devices(NullDevice("cpu", 1e-5, asynchronous=False), NullDevice("gpu", 1e-5), time_budget_s=0.5, isolated=broken)
    assert any(r.unit == "gpu" for r in rows), "the GPU is timed in this process then"


def test_this_machines_gpu_is_timed_in_a_process_of_its_own():
    gpu = find_devices(need_gpu=True)["gpu"]
    with Isolated() as isolated:
        found = timed(isolated, "elementwise")
    assert found.device == gpu.facts.name and found.latency_us > 0 and found.unit == "gpu"
