"""Timing: warm up, repeat for a minimum duration, take the median, and say how much it varied."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from ..devices.base import Device, Queue, Shared, TensorView
from ..devices.fusing import fused
from ..graph.ir import Node, TensorType, Value, constant
from ..ops import op_for
from ..partition.images import PIXEL
from ..regions import Region


class Timing(NamedTuple):
    """The median of `count` repetitions, the distance between their quartiles, and the first decile, in microseconds.

    reference_ns: what the processor's reference kernels took beside them (medians); empty where there were none.
    """

    median_us: float
    spread_us: float
    count: int
    low_us: float = 0.0
    reference_ns: tuple[float, ...] = ()


def measure(action: Callable[[], object], *, warmup: int = 2, min_seconds: float = 0.02, min_count: int = 5, max_count: int = 1000,
            clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Times one call of `action`, which returns when its work is done; ends after `min_seconds` and `min_count` calls, or `max_count`."""
    for _ in range(warmup):
        action()
    samples: list[float] = []
    begun = clock()
    while len(samples) < max_count and (len(samples) < min_count or clock() - begun < min_seconds):
        start = clock()
        action()
        samples.append(clock() - start)
    lowest, low, median, high = np.percentile(samples, [10, 25, 50, 75]) * 1e6
    return Timing(float(median), float(high - low), len(samples), float(lowest))


def with_constants(node: Node, rng: np.random.Generator) -> Node:
    """The node with numbers in its weights: the operands named w..., as `table.node_of` names them."""
    inputs = [v if v is None or not v.name.startswith("w") else constant(v.name, random_array(v.type, rng)) for v in node.inputs]
    return node.with_values(inputs, node.outputs)


def copies_for(node: Node, region: Region, cache_bytes: int) -> int:
    """How many copies of weights and outputs to take turns with, so that, as in a run, they are not in the second-level cache."""
    work = op_for(node).work(node, region)
    weights = sum(v.type.nbytes for v in node.inputs if v is not None and v.is_constant)
    return int(max(1, min(4, 2 * cache_bytes // max(1, weights + work.bytes_written)))) if weights < 2 * cache_bytes else 1


def random_array(type_: TensorType, rng: np.random.Generator) -> np.ndarray:
    """Numbers that no kernel takes another time for."""
    # Small positive numbers: no operator makes denormals, infinities or NaNs of them, which would take another time.
    if type_.dtype.kind == "f":
        return rng.random(type_.shape, np.float32).astype(type_.dtype) + type_.dtype.type(0.01)
    return rng.integers(1, 5, type_.shape).astype(type_.dtype)


def _copied(value: Value | None) -> Value | None:
    return value if value is None or not value.is_constant else constant(value.name, value.data.copy())


class Bench:
    """One piece of one node, compiled on a device with memory of its own. A context manager.

    Many kernels are started before one wait, so that the wait hardly counts. `prepare_s` is what compiling and a first run took.
    copies: so many kernels with weights and outputs of their own take turns; the input is one, since whoever made it has just left
    it in the caches. images: names of those values that are to lie in images, of the piece's region.
    """

    def __init__(self, device: Device, node: Node, region: Region, threads: int = 1, seed: int = 0, copies: int = 1,
                 images: Collection[str] = ()):
        begun, rng = time.perf_counter(), np.random.default_rng(seed)
        self.device, self.node, self.region = device, node, region
        self.buffers: list = []
        self.queue: Queue = device.queue(threads)
        try:
            in_image = {v for v in (*node.inputs, *node.outputs) if v is not None and v.name in images}
            inputs = [v if v is None or v.is_constant else self._picture(v) if v in in_image else self._view(v, rng) for v in node.inputs]
            self.kernels = []
            for number in range(copies):
                outputs = [None if v is None else self._picture(v) if v in in_image else self._view(v, None) for v in node.outputs]
                own = node if number == 0 else node.with_values([_copied(v) for v in node.inputs], node.outputs)
                theirs = [o if v is None or not v.is_constant else v for o, v in zip(inputs, own.inputs)]
                self.kernels.append(self.queue.compile(own, region, theirs, outputs))
            self.kernel, self._turn = self.kernels[0], 0
            self.queue.seal()
            self._rows: dict[tuple[int, int], list[Callable[[], object]]] = {}
            self.run(copies)
        except BaseException:
            self.close()
            raise
        self.prepare_s = time.perf_counter() - begun

    def _view(self, value: Value, rng: np.random.Generator | None) -> TensorView:
        buffer = self.device.allocate(max(1, value.type.nbytes))
        self.buffers.append(buffer)
        view = TensorView.contiguous(buffer, value.dtype, Region.whole(value.shape))
        if rng is not None:
            view.array[...] = random_array(value.type, rng)
            if not buffer.shared:
                self.queue.upload(view).wait()
        return view

    def _picture(self, value: Value) -> TensorView:
        """An image for elementwise and padded kernels, which read and write regions of one extent."""
        batch, channels, height, width = self.region.shape
        buffer = self.device.picture(-(-channels // PIXEL) * width, batch * height)
        self.buffers.append(buffer)
        return TensorView.contiguous(buffer, value.dtype, self.region)

    def run(self, batch: int = 1) -> None:
        """Starts a kernel `batch` times, the copies taking turns, and waits for the last."""
        turns = range(self._turn, self._turn + batch)
        self._turn += batch
        if not self.device.asynchronous:
            for action in self._in_a_row(turns):
                action()
            return
        for turn in turns:
            event = self.kernels[turn % len(self.kernels)].start()
        self.queue.flush()
        event.wait()

    def _in_a_row(self, turns: range) -> list[Callable[[], object]]:
        """Those starts as runs have them, without Python in between where that can be."""
        key = turns.start % len(self.kernels), len(turns)
        if key not in self._rows:
            kernels = [self.kernels[turn % len(self.kernels)] for turn in turns]
            self._rows[key] = fused(((kernel.start, kernel.calls()) for kernel in kernels), least=1)
        return self._rows[key]

    def time(self, wait_us: float = 0.0, min_seconds: float = 0.02) -> Timing:
        """Microseconds of one kernel, without the wait."""
        self.queue.begin_run()
        try:
            batch = 1
            if any(isinstance(call, Shared) for call in self.kernel.calls() or ()):
                # In a run the threads are woken once, not for every kernel; a thousandth of a second of kernels makes that small.
                batch = max(1, min(64, int(1e3 / max(measure(self.run, warmup=1, min_seconds=0, min_count=2).median_us, 1.0))))
            if self.device.asynchronous:
                once = measure(self.run, warmup=1, min_seconds=0, min_count=2)
                batch = max(1, min(64, int(20 * max(wait_us, 10.0) / max(once.median_us - wait_us, 1.0)) + 1))
            found = measure(lambda: self.run(batch), warmup=1 if batch > 1 else 2, min_seconds=min_seconds)
        finally:
            self.queue.end_run()
        # A wait that was timed in a bad moment must not make a kernel look faster than it can be.
        median, low = ((us - min(wait_us, us / 4)) / batch for us in (found.median_us, found.low_us))
        return Timing(median, found.spread_us / batch, found.count, low)

    def flops(self) -> float:
        """Operations of one kernel."""
        return op_for(self.node).work(self.node, self.region).flops

    def close(self) -> None:
        self.queue.close()
        for buffer in self.buffers:
            buffer.close()
        self.buffers = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
