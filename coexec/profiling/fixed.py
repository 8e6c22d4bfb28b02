"""What every run of a kernel costs beside the kernel: launches, waits, and moves between two memories."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..devices.base import Device, Handshake, TensorView
from ..devices.fusing import Await, Doing, Put, fused
from ..errors import DeviceError
from ..graph.ir import Node, TensorType, Value
from ..regions import Region
from .measure import Bench, measure, with_constants

#: Bytes of the move that tells the bandwidth between two memories.
MOVE_BYTES = 8 << 20


def _relu(size: int) -> Node:
    kind = TensorType(np.dtype(np.float32), (1, 1, 1, size))
    return Node("Relu", (Value("x", kind),), (Value("y", kind),), name="relu")


def fixed_costs(device: Device, threads: int) -> dict[str, float]:
    """launch_us: the host's time to start a kernel. sync_us: to hear that it is done. wait_us: both, beyond the kernel itself. map_us and
    transfer_gbs: of moves between two memories, where they are two.
    """
    tiny, whole = _relu(64), Region([(0, 1)] * 3 + [(0, 64)])
    if device.declines(tiny) is not None:
        raise DeviceError("the device cannot even run a Relu", where=device.facts.name, found=device.declines(tiny))
    with Bench(device, tiny, whole, threads) as bench:
        bench.queue.begin_run()
        try:
            once = measure(bench.run, warmup=10, min_seconds=0.05, min_count=30).low_us  # what disturbs only adds
            if not device.asynchronous:
                return {"launch_us": once, "sync_us": 0.0, "wait_us": 0.0}
            many = measure(lambda: bench.run(33), warmup=2, min_seconds=0.05, min_count=10).low_us
            launch = _launch_us(bench)
        finally:
            bench.queue.end_run()
        ready = _ready_us(bench)
        each = max(0.0, (many - once) / 32)  # what one more kernel costs: the longer of starting and running it
        sync = max(once - launch - each, 0.1 * once)
        moves = _moves(bench)
        handshake = bench.queue.handshake(device.waiting == "flag")
        if handshake is not None:
            counted = _by_counters(bench, handshake)
            if pieces_step(device, threads):
                counted["launch_us"] = _launch_us(bench, is_counted=True)
            return {**counted, "wait_us": max(0.0, once - each), **moves}
    return {"launch_us": launch, "sync_us": sync, "ready_us": min(ready, sync), "wait_us": max(0.0, once - each), **moves}


def _by_counters(bench: Bench, handshake: Handshake, pieces: int = 32) -> dict[str, float]:
    """launch_us, sync_us and ready_us as a session has them that keeps in step by counters: work is enqueued behind a gate, and
    the host and the device tell each other of every piece.
    """
    launches, rounds, looks = [], [], []
    gates = [handshake.sync(number, number + 1) for number in range(pieces)]
    last = handshake.sync(pieces)
    heard, told = handshake.heard, handshake.told
    numbers = range(1, pieces + 1)
    send = _in_a_row([(k.start, k.calls()) for gate in gates[1:] for k in (bench.kernel, gate)])
    talk = _in_a_row([step for n in numbers for step in ((partial(_tell, told, n), [Put(told, n)]), (partial(_hear, heard, n), [Await(heard, n)]))])
    look = _in_a_row([(partial(_hear, heard, 0), [Await(heard, 0)])] * pieces)
    for _ in range(20):
        handshake.reset()
        gates[0].start()
        bench.queue.flush()
        begun = time.perf_counter()
        send()
        bench.queue.flush()
        launches.append((time.perf_counter() - begun) / (pieces - 1))
        event = last.start()
        bench.queue.flush()
        begun = time.perf_counter()
        talk()
        rounds.append((time.perf_counter() - begun) / pieces)
        event.wait()
    for _ in range(20):  # what hearing of a piece that is done already takes
        begun = time.perf_counter()
        look()
        looks.append((time.perf_counter() - begun) / pieces)
    return {"launch_us": float(np.percentile(launches, 10)) * 1e6, "sync_us": float(np.percentile(rounds, 10)) * 1e6,
            "ready_us": float(np.percentile(looks, 10)) * 1e6}


def _in_a_row(actions: Sequence[tuple[Callable[[], Any], Doing]]) -> Callable[[], None]:
    """The actions as a run has them: without Python where that can be."""
    whole = fused(actions)

    def run() -> None:
        for action in whole:
            action()

    return run


def _tell(told: memoryview, number: int) -> None:
    told[0] = number


def _hear(heard: memoryview, number: int) -> None:
    while heard[0] < number:
        pass


def pieces_step(device: Device, threads: int) -> bool:
    """True where a convolution keeps itself in step, as most of a network's pieces then do: no gate of its own has to be started."""
    kind = TensorType(np.dtype(np.float32), (1, 16, 8, 8))
    weights = Value("w", TensorType(np.dtype(np.float32), (16, 16, 1, 1)))
    node = Node("Conv", (Value("x", kind), weights), (Value("y", kind),),
                {"kernel_shape": [1, 1], "pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}, name="conv")
    if device.declines(node) is not None:
        return False
    with Bench(device, with_constants(node, np.random.default_rng(0)), Region.whole(kind.shape), threads) as bench:
        handshake = bench.queue.handshake(wanted=True)
        return handshake is not None and handshake.embed(bench.kernel, 0, 0)


def _ready_us(bench: Bench) -> float:
    """Host time of a wait for what is done already."""
    found = []
    for _ in range(20):
        event = bench.kernel.start()
        bench.queue.flush()
        limit = time.perf_counter() + 0.01
        while not event.done and time.perf_counter() < limit:
            pass
        begun = time.perf_counter()
        event.wait()
        found.append(time.perf_counter() - begun)
    return float(np.median(found)) * 1e6


def _launch_us(bench: Bench, is_counted: bool = False) -> float:
    """Host time of one start, of 16 in a row with the queue empty at first; is_counted: as in a run kept in step by counters."""
    start = _in_a_row([(bench.kernel.start, bench.kernel.calls() if is_counted else None)] * 16)
    found = []
    for _ in range(20):
        begun = time.perf_counter()
        start()
        found.append((time.perf_counter() - begun) / 16)
        bench.queue.flush()
        bench.queue.finish()
    return float(np.percentile(found, 10)) * 1e6


def _moves(bench: Bench) -> dict[str, float]:
    buffer = bench.device.allocate(MOVE_BYTES)
    try:
        if buffer.shared:
            return {}
        times = []
        for nbytes in (4096, MOVE_BYTES):
            view = TensorView.contiguous(buffer, np.dtype(np.uint8), Region([(0, nbytes)]))
            up = measure(lambda v=view: bench.queue.upload(v).wait(), min_seconds=0.02).median_us
            down = measure(lambda v=view: bench.queue.download(v).wait(), min_seconds=0.02).median_us
            times.append((up + down) / 2)
        return {"map_us": times[0], "transfer_gbs": MOVE_BYTES / 1e3 / max(times[1] - times[0], 1e-3)}
    finally:
        buffer.close()
