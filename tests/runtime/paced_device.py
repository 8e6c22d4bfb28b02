"""Devices that compute right and take the time they are told: a board whose speeds a test sets while a session runs on it.

Each piece takes what a profile predicts of it, times `slow`, asleep: nothing depends on how fast the machine really is, as long as it computes
the piece in that time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from coexec.cost.compose import CostModel
from coexec.devices.base import Device, DeviceFacts, Event, Kernel, Operand, Queue, TensorView
from coexec.devices.cpu.device import CpuDevice
from coexec.graph.ir import Node
from coexec.profiles import DeviceProfile
from coexec.regions import Region


class PacedDevice(Device):
    """`name` is cpu (a piece ends before `start` returns) or gpu (another thread works through the pieces)."""

    def __init__(self, name: str, profile: DeviceProfile, slow: float = 1.0):
        self.name, self.slow = name, slow
        self.facts = DeviceFacts(profile.unit(name).name, "test")
        self.asynchronous = name == "gpu"
        self.costs = CostModel(profile)
        self.inner = CpuDevice()

    def declines(self, node: Node) -> str | None:
        return self.inner.declines(node)

    def queue(self, threads: int = 1) -> Queue:
        return PacedQueue(self)

    def seconds(self, node: Node, region: Region) -> float:
        return self.costs.kernel(node, region, self.name).us / 1e6


class PacedQueue(Queue):
    def __init__(self, device: PacedDevice):
        self.device, self.inner = device, device.inner.queue(1)
        self.work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        if device.asynchronous:
            threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        while (work := self.work.get()) is not None:
            work()

    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> Kernel:
        return PacedKernel(self, self.inner.compile(node, out_region, inputs, outputs), self.device.seconds(node, out_region))

    def seal(self) -> None:
        self.inner.seal()

    def finish(self) -> None:
        if self.device.asynchronous:
            done = threading.Event()
            self.work.put(done.set)
            done.wait()

    def close(self) -> None:
        self.finish()
        if self.device.asynchronous:
            self.work.put(None)
        self.inner.close()


class PacedEvent(Event):
    def __init__(self) -> None:
        self.over = threading.Event()

    def wait(self) -> None:
        self.over.wait()

    @property
    def done(self) -> bool:
        return self.over.is_set()


class PacedKernel(Kernel):
    def __init__(self, owner: PacedQueue, kernel: Kernel, seconds: float):
        self.owner, self.kernel, self.seconds = owner, kernel, seconds

    def _work(self) -> None:
        ends = time.perf_counter() + self.seconds * self.owner.device.slow
        self.kernel.start()
        if (left := ends - time.perf_counter()) > 0:
            time.sleep(left)

    def start(self) -> Event:
        event = PacedEvent()
        if not self.owner.device.asynchronous:
            self._work()
            event.over.set()
            return event

        def work() -> None:
            self._work()
            event.over.set()

        self.owner.work.put(work)
        return event
