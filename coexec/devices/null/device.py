"""NullDevice: asynchronous, in order, computes nothing, and every kernel takes as long as a function says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from ...errors import DeviceError
from ...graph.ir import Node
from ...ops import native_ops
from ...regions import Region
from ..base import Device, DeviceFacts, Event, Kernel, Operand, Queue, TensorView

Cost = Callable[[Node, Region], float]


class NullDevice(Device):
    """A processor of imagined speed. `cost` is seconds, or a function of node and region that returns seconds.

    declined: operator types it has no kernels for. asynchronous False makes `start` return only when the time is over.
    """

    def __init__(self, name: str = "gpu", cost: Cost | float = 0.0, declined: Iterable[str] = (), asynchronous: bool = True):
        self.name, self.asynchronous = name, asynchronous
        self.cost: Cost = cost if callable(cost) else lambda node, region: cost
        self.declined = frozenset(declined)
        self.facts = DeviceFacts("null", "null", "none", dtypes=frozenset({"float32", "float16", "int64", "bool"}), sharing=("host",))

    def declines(self, node: Node) -> str | None:
        return f"the null device was told to decline {node.op_type}" if node.op_type in self.declined else None

    @property
    def operators(self) -> frozenset[tuple[str, str]]:
        return frozenset(key for key in native_ops() if key[1] not in self.declined)

    def queue(self, threads: int = 1) -> NullQueue:
        return NullQueue(self)


class NullQueue(Queue):
    """Remembers when its last kernel ends: the next begins no earlier. `started` lists what was started, for tests to look at."""

    def __init__(self, device: NullDevice):
        self.device = device
        self.busy_until = 0.0
        self.started: list[tuple[str, Region]] = []

    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> NullKernel:
        reason = self.device.declines(node)
        if reason:
            raise DeviceError("the device has no kernel for this node", where=f"{node.op_type} '{node.name}'", found=reason)
        return NullKernel(self, node, out_region, self.device.cost(node, out_region))

    def finish(self) -> None:
        NullEvent(self.busy_until).wait()


class NullKernel(Kernel):
    """One piece of imagined work."""

    def __init__(self, queue: NullQueue, node: Node, region: Region, seconds: float):
        self.queue, self.node, self.region, self.seconds = queue, node, region, seconds
        self.implementation = f"null_{node.op_type.lower()}"

    def start(self) -> Event:
        queue = self.queue
        queue.busy_until = max(time.perf_counter(), queue.busy_until) + self.seconds
        queue.started.append((self.node.name, self.region))
        event = NullEvent(queue.busy_until)
        if not queue.device.asynchronous:
            event.wait()
        return event


class NullEvent(Event):
    """Done at a point of `time.perf_counter`."""

    def __init__(self, at: float):
        self.at = at

    def wait(self) -> None:
        while (left := self.at - time.perf_counter()) > 0:
            if left > 3e-4:
                time.sleep(left - 2e-4)  # sleeping overshoots by some 60 us, so the last stretch is spun away

    @property
    def done(self) -> bool:
        return time.perf_counter() >= self.at
