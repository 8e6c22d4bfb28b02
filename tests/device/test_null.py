"""The null device: time is an input, work happens in order, nothing is computed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from coexec.devices.base import TensorView
from coexec.devices.null.device import NullDevice
from coexec.errors import DeviceError
from coexec.graph.ir import Node, TensorType, Value
from coexec.regions import Region

KIND = TensorType(np.dtype(np.float32), (4, 8))
NODE = Node("Relu", (Value("x", KIND),), (Value("y", KIND),), name="relu")
WHOLE = Region.whole(KIND.shape)


def kernel(device: NullDevice, region: Region = WHOLE):
    queue = device.queue()
    views = [TensorView.contiguous(device.allocate(KIND.nbytes), KIND.dtype, WHOLE) for _ in range(2)]
    return queue, queue.compile(NODE, region, views[:1], views[1:])


def test_start_returns_at_once_and_wait_takes_the_time_it_was_told():
    queue, work = kernel(NullDevice(cost=0.03))
    begun = time.perf_counter()
    event = work.start()
    assert time.perf_counter() - begun < 0.02 and not event.done
    event.wait()
    assert time.perf_counter() - begun >= 0.03 and event.done


def test_work_is_done_in_order():
    queue, work = kernel(NullDevice(cost=0.01))
    begun = time.perf_counter()
    first, second, third = (work.start() for _ in range(3))
    third.wait()
    assert first.done and second.done and time.perf_counter() - begun >= 0.03
    assert queue.started == [("relu", WHOLE)] * 3
    work.start()
    queue.finish()
    assert time.perf_counter() - begun >= 0.04


def test_cost_may_depend_on_node_and_region():
    seen = []
    device = NullDevice(cost=lambda node, region: seen.append((node.op_type, region.size)) or 0.0)
    _, work = kernel(device, Region([(0, 2), (0, 8)]))
    assert seen == [("Relu", 16)] and work.seconds == 0.0 and work.implementation == "null_relu"
    assert work.start().done


def test_a_synchronous_one_returns_when_it_is_done():
    _, work = kernel(NullDevice("cpu", cost=0.01, asynchronous=False))
    begun = time.perf_counter()
    assert work.start().done and time.perf_counter() - begun >= 0.01


def test_declined_operators():
    device = NullDevice(declined={"Relu"})
    assert "Relu" in device.declines(NODE) and NullDevice().declines(NODE) is None
    assert ("", "Relu") not in device.operators and ("", "Conv") in device.operators
    with pytest.raises(DeviceError, match="no kernel"):
        kernel(device)
