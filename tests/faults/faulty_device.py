"""A device that works, until it is told to fail: every call of the contract passes through here, and any of them may raise, hang or lie.

`Faults.arm(point, when, how)` makes the `when`-th call of a point do `how`; nothing is simulated besides, the device behind is a real one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from coexec.devices.base import Buffer, Device, Event, Handshake, Kernel, Operand, Queue, TensorView
from coexec.errors import DeviceError
from coexec.graph.ir import Node
from coexec.regions import Region


class Lost(Exception):
    """What the binding of an imagined driver raises, and nobody turned into a DeviceError."""


def fails(what: str = "CL_OUT_OF_RESOURCES") -> Callable[[], None]:
    def fail() -> None:
        raise DeviceError("work failed on the device", where="injected", found=what)

    return fail


def foreign() -> None:
    raise Lost("the driver went away")


class Faults:
    """Which calls fail: point -> (number of the call from 1, what happens). A point that is armed `always` keeps failing."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.armed: dict[str, tuple[int, Callable[[], None], bool]] = {}
        self.fired: list[str] = []
        self.released = threading.Event()

    def arm(self, point: str, how: Callable[[], None], when: int = 1, always: bool = False) -> None:
        self.armed[point] = self.calls[point] + when, how, always

    def hang(self) -> None:
        """Does not come back until the test is over."""
        self.released.wait(60)

    def at(self, point: str) -> None:
        self.calls[point] += 1
        armed = self.armed.get(point)
        if armed is not None and (self.calls[point] == armed[0] or armed[2] and self.calls[point] > armed[0]):
            self.fired.append(point)
            armed[1]()


class FaultyDevice(Device):
    name = "gpu"
    failures = (Lost,)

    def __init__(self, inner: Device, faults: Faults):
        self.inner, self.faults = inner, faults
        self.facts = replace(inner.facts, name=f"faulty {inner.facts.name}")
        self.asynchronous = inner.asynchronous
        self.failures = (Lost, *inner.failures)

    def declines(self, node: Node) -> str | None:
        return self.inner.declines(node)

    @property
    def operators(self) -> frozenset[tuple[str, str]] | None:
        return self.inner.operators

    def allocate(self, nbytes: int) -> Buffer:
        self.faults.at("allocate")
        return self.inner.allocate(nbytes)

    def queue(self, threads: int = 1) -> Queue:
        self.faults.at("queue")
        return FaultyQueue(self, self.inner.queue(threads))


class FaultyQueue(Queue):
    def __init__(self, device: FaultyDevice, inner: Queue):
        self.device, self.inner, self.faults = device, inner, device.faults

    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> Kernel:
        self.faults.at("compile")
        self.faults.at(f"compile {node.op_type}")
        written = next(v for v in outputs if v is not None).sub(out_region)
        return FaultyKernel(self.faults, self.inner.compile(node, out_region, inputs, outputs), written, self.inner)

    def seal(self) -> None:
        self.faults.at("seal")
        self.inner.seal()

    def begin_run(self) -> None:
        self.inner.begin_run()

    def end_run(self) -> None:
        self.inner.end_run()

    def flush(self) -> None:
        self.faults.at("flush")
        self.inner.flush()

    def finish(self) -> None:
        self.faults.at("finish")
        self.inner.finish()

    def handshake(self, wanted: bool = False) -> Handshake | None:
        return self.inner.handshake(wanted)

    def upload(self, view: TensorView) -> Event:
        self.faults.at("upload")
        return self.inner.upload(view)

    def download(self, view: TensorView) -> Event:
        self.faults.at("download")
        return FaultyEvent(self.faults, self.inner.download(view), "wait")

    def close(self) -> None:
        self.faults.at("close")
        self.inner.close()


class FaultyKernel(Kernel):
    def __init__(self, faults: Faults, inner: Kernel, written: TensorView, queue: Queue):
        self.faults, self.inner, self.written, self.queue = faults, inner, written, queue
        self.implementation = inner.implementation

    def start(self) -> Event:
        self.faults.at("start")
        event = self.inner.start()
        lie = self.faults.armed.get("lie")
        if lie is not None:
            return LyingEvent(self, event)
        return FaultyEvent(self.faults, event, "wait")


class FaultyEvent(Event):
    def __init__(self, faults: Faults, inner: Event, point: str):
        self.faults, self.inner, self.point = faults, inner, point

    def wait(self) -> None:
        self.faults.at(self.point)
        self.inner.wait()

    @property
    def done(self) -> bool:
        return self.inner.done


class LyingEvent(Event):
    """Work whose result is spoilt once it is done: `lie` is called with the array that the kernel wrote."""

    def __init__(self, kernel: FaultyKernel, inner: Event):
        self.kernel, self.inner = kernel, inner
        inner.wait()
        if not kernel.written.buffer.shared:
            kernel.queue.download(kernel.written).wait()
        faults = kernel.faults
        faults.calls["lie"] += 1
        number, spoil, always = faults.armed["lie"]
        if faults.calls["lie"] == number or always and faults.calls["lie"] > number:
            faults.fired.append("lie")
            spoil(kernel.written.array)  # type: ignore[call-arg]
            if not kernel.written.buffer.shared:
                kernel.queue.upload(kernel.written).wait()

    def wait(self) -> None:
        self.inner.wait()


def nan(array: np.ndarray) -> None:
    array[(0,) * array.ndim] = np.nan


def off(array: np.ndarray) -> None:
    array[(0,) * array.ndim] += 1000

