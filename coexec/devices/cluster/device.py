"""ClusterDevice: cores of the CPU that work beside the host, as a device of their own: a second cluster of a big.LITTLE processor.

Its kernels are the CPU's. A thread of its own, bound to those cores, works through what is started in order, and so does its team.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue

from ...errors import DeviceError
from ...graph.ir import Node
from ...regions import Region
from ..base import Device, Event, Kernel, Operand, Queue, TensorView
from ..cores import Within
from ..cpu.device import CpuDevice, CpuKernel


class ClusterDevice(Device):
    """The CPU cores of those numbers. Cores that this process may not use are no error: the thread then runs where it may."""

    name = "little"
    asynchronous = True

    def __init__(self, cores: Sequence[int]):
        self.cores = tuple(cores)
        self._cpu = CpuDevice()
        told = self._cpu.facts
        self.facts = replace(told, name=f"{told.name}, cores {','.join(map(str, self.cores))}", compute_units=len(self.cores))

    def declines(self, node: Node) -> str | None:
        return None

    def queue(self, threads: int = 1) -> Queue:
        """A session's use of all its cores, whatever the host's `threads`."""
        return ClusterQueue(self, len(self.cores))


class ClusterQueue(Queue):
    """Kernels of one session, run in order by the cluster's thread."""

    def __init__(self, device: ClusterDevice, threads: int):
        self.device = device
        self._inner = device._cpu.queue(threads)
        self._todo: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._last: ClusterEvent | None = None
        self._thread = threading.Thread(target=self._work, name="coexec-little", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with suppress(OSError, AttributeError):  # a cpuset may forbid it, and not every system has it
            os.sched_setaffinity(0, self.device.cores)
        while (task := self._todo.get()) is not None:
            task()

    def push(self, action: Callable[[], object], event: ClusterEvent) -> Event:
        """Lets the thread do that; the event tells when it is done."""
        event.begin()
        self._last = event
        self._todo.put(lambda: event.run(action))
        return event

    def _and_wait(self, action: Callable[[], object]) -> None:
        self.push(action, ClusterEvent()).wait()

    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> Kernel:
        return ClusterKernel(self, self._inner.compile(node, out_region, inputs, outputs))

    def seal(self) -> None:
        self._and_wait(self._inner.seal)  # by its own thread: the team that is made here inherits its cores

    def place(self) -> Within:
        return self._inner.place()

    def begin_run(self) -> None:
        self._inner.begin_run()

    def end_run(self) -> None:
        self._inner.end_run()

    def finish(self) -> None:
        if self._last is not None:
            self._last.wait()

    def close(self) -> None:
        self._todo.put(None)
        self._thread.join()
        self._inner.close()


class ClusterEvent(Event):
    """A piece of work that was started; used again with every run."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._error: BaseException | None = None

    def begin(self) -> None:
        self._over.clear()
        self._error = None

    def run(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:  # told to whoever waits
            self._error = error
        finally:
            self._over.set()

    def wait(self) -> None:
        self._over.wait()
        if self._error is not None:
            raise DeviceError("a piece of work failed on the second cluster", found=f"{type(self._error).__name__}: {self._error}") from self._error

    @property
    def done(self) -> bool:
        return self._over.is_set()


class ClusterKernel(Kernel):
    """One of the CPU's kernels, started by the cluster's thread."""

    def __init__(self, queue: ClusterQueue, kernel: CpuKernel):
        self.queue, self.kernel, self.implementation = queue, kernel, kernel.implementation
        self.event = ClusterEvent()

    def start(self) -> Event:
        return self.queue.push(self.kernel.start, self.event)
