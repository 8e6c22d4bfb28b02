"""Kernels that crash or hang their driver: the process that times them is lost, the profile is not."""

from __future__ import annotations

import json
import os
import select
import sys
import time

import pytest

from coexec.devices.null.device import NullDevice
from coexec.devices.registry import find_devices
from coexec.errors import DeviceError, UsageError
from coexec.profiling.isolation import Isolated, KernelLost
from coexec.profiling.quarantine import Quarantine
from coexec.profiling.run import COMPILING_SHARE, GRANTED, MOST_COMPILING, Campaign, profile_devices
from coexec.profiling.sampler import SHAPES, Sampler, whole_of
from coexec.profiling.table import read_table
from coexec.profiling.timing import SampleRound

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


def timed_together(isolated, samples):
    isolated.begin(samples, 1, 0.0)
    isolated.built()
    return isolated.end()


def timed(isolated, family):
    row, = timed_together(isolated, [whole_of(SHAPES[family][0])])
    return row


def test_ctrl_c_of_a_terminal_is_not_the_childs(isolated):
    """Else it would die with a traceback beside the one line that the verb has to say."""
    isolated.start()
    assert os.getpgid(isolated.child.pid) != os.getpgid(0)


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
        timed_together(isolated, samples)
    assert lost.value.index == 2
    assert [row.op_type for row in timed_together(isolated, samples[:2])] == ["Relu", "Conv"]


def test_nothing_is_timed_before_all_is_compiled(isolated):
    """The child waits, so that the other processor's kernels can be compiled, and timed, meanwhile."""
    isolated.begin([whole_of(SHAPES["elementwise"][0])], 1, 0.0)
    isolated.built()
    assert not select.select([isolated._in], [], [], 0.3)[0] and not isolated._buffer
    assert [row.op_type for row in isolated.end()] == ["Relu"]


def test_a_round_that_was_begun_and_dropped_is_none_of_the_next(isolated):
    samples = [whole_of(SHAPES[family][0]) for family in ("elementwise", "conv_1x1")]
    quarantine = Quarantine(NullDevice("gpu", 1e-5), isolated, 1, 0.0)
    quarantine.begin(samples[:1])
    quarantine.ready()
    quarantine.drop()
    quarantine.begin(samples[1:])
    assert [row.op_type for row in quarantine.time()] == ["Conv"] and not quarantine.lost


class Lossy:
    """A child that is lost without a word of which sample it was, whenever there are several, or there is a Softmax."""

    def __init__(self):
        self.asked = []

    def begin(self, samples, threads, wait_us):
        self.asked.append([s.node.op_type for s in samples])

    def built(self):
        pass

    def end(self):
        if len(self.asked[-1]) > 1 or self.asked[-1] == ["Softmax"]:
            raise KernelLost("the process ended")
        return self.asked[-1]


def test_of_a_loss_that_nobody_can_be_blamed_for_each_is_tried_by_itself():
    lossy = Lossy()
    quarantine = Quarantine(NullDevice("gpu", 1e-5), lossy, 1, 0.0)
    quarantine.begin([whole_of(SHAPES[family][0]) for family in ("elementwise", "softmax", "conv_1x1")])
    assert quarantine.time() == ["Relu", None, "Conv"]
    assert lossy.asked == [["Relu", "Softmax", "Conv"], ["Relu"], ["Softmax"], ["Conv"]]
    assert [told["op_type"] for told in quarantine.lost.values()] == ["Softmax"]


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


def test_both_processors_compile_before_either_is_timed(monkeypatch):
    done = []

    class Told(SampleRound):
        def __init__(self, unit, *more):
            super().__init__(unit, *more)
            done.append(("compiled", unit))

        def time(self):
            done.append(("timed", self.unit))
            return super().time()

    monkeypatch.setattr("coexec.profiling.run.SampleRound", Told)
    campaign = Campaign(NullDevice("cpu", 1e-5, asynchronous=False), NullDevice("gpu", 1e-5), 1.0, 1)
    campaign.together([whole_of(SHAPES["elementwise"][0])])
    units = list(campaign.devices)
    assert done == [("compiled", u) for u in units] + [("timed", u) for u in units] and {r.unit for r in campaign.rows} == {"cpu", "gpu"}


def test_a_slow_machines_compiling_leaves_time_to_measure():
    campaign = Campaign(NullDevice("cpu", 1e-5, asynchronous=False), None, 10.0, 1)
    for took, granted in ((MOST_COMPILING * 10, 0.0), (MOST_COMPILING * 10 + 2, 2.0), (1000.0, GRANTED * 10)):
        before, campaign.compiling_s, campaign.granted = campaign.begun, took, 0.0
        campaign.grant(campaign.compiling_s - MOST_COMPILING * campaign.budget)
        assert campaign.begun - before == pytest.approx(granted)
    before = campaign.begun
    campaign.grant(5.0)
    assert campaign.begun == before, "all that is granted is granted once"


@pytest.mark.parametrize("compiling_s, new", [(0.0, True), (1e6, False)])
def test_while_compiling_takes_most_of_the_time_new_kernels_wait(compiling_s, new):
    campaign = Campaign(NullDevice("cpu", 1e-5, asynchronous=False), None, 10.0, 1)
    campaign.together([whole_of(row) for row in SHAPES["conv_1x1"][:4]])
    sampler = Sampler(first=0)
    campaign.look(sampler)
    campaign.compiling_s = compiling_s
    assert compiling_s == 0.0 or compiling_s > COMPILING_SHARE * campaign.spent
    drawn = campaign.draw(sampler, iter(sampler), 40)
    assert drawn and any(s.node.op_type != "Conv" for s in drawn) == new
