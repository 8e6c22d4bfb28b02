"""Adversaries: an asynchronous device that does nothing until somebody waits, so that a missing wait or a reused buffer shows; and,
where it is given a `whim`, one that keeps in step by counters and runs as far ahead as its gates let it, when it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coexec.devices.base import Buffer, Device, DeviceFacts, Event, Handshake, HostBuffer, Kernel, Operand, Queue, TensorView
from coexec.devices.cpu.device import CpuDevice
from coexec.graph.ir import Node
from coexec.regions import Region


class TwoSidedBuffer(HostBuffer):
    """Host memory with, where it is not shared, a second copy that only the device sees. Both start poisoned."""

    def __init__(self, nbytes: int, shared: bool):
        super().__init__(nbytes)
        self.shared = shared
        self.host[:] = 0xFF  # NaN in every float type
        self.device_side: Buffer = self if shared else HostBuffer(nbytes)
        if not shared:
            self.device_side.host[:] = 0xFF


class LazyDevice(Device):
    """Runs on NumPy, in order, and only when an event is waited for or the queue is finished."""

    name = "gpu"
    asynchronous = True

    def __init__(self, shared: bool = True, declined: frozenset[str] = frozenset(), whim: Callable[[], bool] | None = None, name: str = "gpu",
                 steps: bool = False, tells: bool = False):
        self.name, self.facts = name, DeviceFacts("lazy", "test")
        self.shared, self.declined, self.whim, self.steps, self.tells = shared, declined, whim, steps, tells

    def declines(self, node: Node) -> str | None:
        return "not wanted" if node.op_type in self.declined else None

    def allocate(self, nbytes: int) -> Buffer:
        return TwoSidedBuffer(nbytes, self.shared)

    def queue(self, threads: int = 1) -> Queue:
        return LazyQueue(self)


class LazyEvent(Event):
    def __init__(self, queue: LazyQueue, count: int):
        self.queue, self.count = queue, count

    def wait(self) -> None:
        self.queue.advance(self.count)

    @property
    def done(self) -> bool:
        return self.queue.executed >= self.count


class LazyQueue(Queue):
    def __init__(self, device: LazyDevice):
        self.device, self.inner = device, CpuDevice().queue(1)
        self.pending: list[Callable[[], object]] = []
        self.enqueued = self.executed = 0
        self.counters = None if device.whim is None else Counters(self)

    def push(self, action: Callable[[], object]) -> Event:
        self.pending.append(action)
        self.enqueued += 1
        event = LazyEvent(self, self.enqueued)
        self.wander()
        return event

    def advance(self, count: int) -> None:
        while self.executed < count:
            if not self.step():
                raise AssertionError("the host waits for a device that waits for the host")

    def step(self) -> bool:
        """Runs the next piece of work; False where there is none, or it is a gate that holds."""
        if not self.pending or self.pending[0]() is HOLDS:
            return False
        self.pending.pop(0)
        self.executed += 1
        return True

    def wander(self) -> None:
        """A device of its own mind goes on, or not."""
        while self.device.whim is not None and self.device.whim() and self.step():
            pass

    def handshake(self, wanted: bool = False) -> Handshake | None:
        return self.counters

    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> Kernel:
        kernel = self.inner.compile(node, out_region, [far(v) for v in inputs], [far(v) for v in outputs])
        return LazyKernel(self, kernel)

    def seal(self) -> None:
        self.inner.seal()

    def finish(self) -> None:
        self.advance(self.enqueued)

    def upload(self, view: TensorView) -> Event:
        return self.push(lambda: np.copyto(far(view).array, view.array))

    def download(self, view: TensorView) -> Event:
        return self.push(lambda: np.copyto(view.array, far(view).array))


HOLDS = object()


class Word:
    """One counter; touching it is when the other side may have gone on."""

    def __init__(self, queue: LazyQueue):
        self.queue, self.value = queue, 0

    def __getitem__(self, index: int) -> int:
        self.queue.wander()
        return self.value

    def __setitem__(self, index: int, value: int) -> None:
        self.value = value
        self.queue.wander()


class Counters(Handshake):
    def __init__(self, queue: LazyQueue):
        self.queue, self.told, self.heard = queue, Word(queue), Word(queue)

    def sync(self, signal: int = 0, target: int = 0) -> Kernel:
        def work() -> object:
            if signal:
                self.heard.value = signal
            return HOLDS if self.told.value < target else None

        return LazySync(self.queue, work)

    def embed(self, piece: Kernel, signal: int, target: int) -> bool:
        if not self.queue.device.steps:
            return False
        piece.before = self.sync(signal, target).work
        return True

    def tell(self, piece: Kernel, done: int) -> bool:
        if not self.queue.device.tells:
            return False
        piece.after = self.sync(done).work
        return True


class LazySync(Kernel):
    def __init__(self, queue: LazyQueue, work: Callable[[], object]):
        self.queue, self.work = queue, work

    def start(self) -> Event:
        return self.queue.push(self.work)


class LazyKernel(Kernel):
    def __init__(self, queue: LazyQueue, kernel: Kernel):
        self.queue, self.kernel = queue, kernel
        self.before: Callable[[], object] | None = None
        self.after: Callable[[], object] | None = None

    def start(self) -> Event:
        return self.queue.push(self._work)

    def _work(self) -> object:
        if self.before is not None and self.before() is HOLDS:
            return HOLDS
        self.kernel.start()
        return None if self.after is None else self.after()


def far(view: Operand) -> Operand:
    """The device's side of a view."""
    if not isinstance(view, TensorView):
        return view
    return TensorView(view.buffer.device_side, view.dtype, view.region, view.offset_bytes, view.strides)
