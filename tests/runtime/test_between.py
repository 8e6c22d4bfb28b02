"""What runs lose between pieces is measured in runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coexec.api.between import between, cut_somehow, made_up, measure_between, with_run_costs
from coexec.cost.compose import CostModel
from coexec.cost.corrections import Between
from coexec.devices.null.device import NullDevice
from coexec.devices.registry import find_devices
from coexec.profiles import DeviceProfile, UnitProfile, from_yaml, to_yaml
from coexec.runtime.trace import Arrow, Span, Trace


def board(**more) -> DeviceProfile:
    return DeviceProfile("b", UnitProfile("c", 100.0, 10.0), UnitProfile("g", 100.0, 10.0, operators=("Conv",), launch_us=1.0, sync_us=2.0, **more))


def test_the_made_up_network_uses_both_and_cuts():
    graph = made_up()
    plan = cut_somehow(graph, NullDevice("gpu"))
    plan.check(graph)
    assert plan.devices == {"cpu", "gpu"} and sum(len(p.devices) == 2 for p in plan.partitions) >= 6
    assert cut_somehow(graph, NullDevice("gpu", declined={"Conv", "MaxPool", "Sigmoid"})).devices == {"cpu"}


def test_what_a_trace_says():
    trace = Trace()
    start = Span("n", "host", 1.0, 6.0, "enqueue")
    piece = Span("n", "gpu", 17.0, 33.0, "piece")
    wait = Span("n", "host", 20.0, 60.0, "wait")
    trace.spans += [start, piece, wait]
    trace.arrows += [Arrow("enqueue", start, piece), Arrow("join", piece, wait)]
    assert between(trace) == Between(launch_us=6.0, begin_us=10.0, sync_us=30.0, ready_us=None)


def test_this_machines_runs_are_asked():
    devices = find_devices(need_gpu=True)
    found = measure_between(devices, 1)
    assert 0 < found.launch_us < 5000 and found.begin_us >= 0 and found.sync_us > 0
    made = with_run_costs(board(), devices, 1)
    assert made.gpu.launch_us > 0 and made.gpu.launch_us != 1.0 and from_yaml(to_yaml(made)) == made
    alone = replace(board(), gpu=None)
    assert with_run_costs(alone, {"cpu": devices["cpu"]}, 1) is alone


def test_an_idle_gpu_begins_later():
    assert CostModel(board(begin_us=12.0)).begin_us == 12.0 and CostModel(board()).begin_us == 0.0
    old = to_yaml(board()).replace("begin_us: 0.0", "")
    assert "begin_us" not in old and from_yaml(old) == board(), "files of earlier versions say nothing of it"
    assert pytest.approx(12.0) == from_yaml(to_yaml(board(begin_us=12.0))).gpu.begin_us
