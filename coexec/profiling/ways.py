"""How a device is best used from the host: which way of sharing memory, and which way of waiting, costs least there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np

from ..devices.base import Device, TensorView
from ..devices.waits import WAYS, wait_by
from ..errors import UsageError
from ..graph.ir import Node, TensorType, Value
from ..profiles import UnitProfile
from ..regions import Region
from .measure import Bench

#: Elements of what both sides exchange: a layer's activations of a small network.
ELEMENTS = 1 << 16
#: Each way is timed so often, the ways taking turns.
ROUNDS = 15
#: Pieces in a row, each of which waits for the host and the host for it.
HANDOVERS = 8
#: Words in shared memory keep a core busy on both sides: they must be so much cheaper than the best other way.
FLAG_SHARE = 0.8


def best_used(device: Device) -> tuple[Device, dict[str, float], dict[str, float]]:
    """The device as it is best used, and what was measured (microseconds): an exchange by each way of sharing, a wait by each way of waiting.

    What the settings or the device do not leave open is taken as it is.
    """
    sharing_us = exchange_us({way: found for way in device.facts.sharing if (found := _used_by(device, way)) is not None}) \
        if device.sharing else {}
    if sharing_us:
        device = device.used_by(sharing=min(sharing_us, key=sharing_us.__getitem__))
    waits = wait_us(device) if device.asynchronous else {}
    if waits:
        best = min(("event", "poll"), key=waits.__getitem__)  # finish waits for more than was asked, which only a whole run shows
        device = device.used_by(waiting="flag" if waits.get("flag", np.inf) < FLAG_SHARE * waits[best] else best)
    return device, sharing_us, waits


def as_profiled(device: Device, section: UnitProfile) -> Device:
    """The device with memory shared and waits made as its profile says, as far as that is possible here; as it is for another device's."""
    if section.name != device.facts.name:
        return device
    sharing = section.sharing if section.sharing_us and section.sharing in device.facts.sharing else ""
    waiting = section.waiting if section.waiting in WAYS else ""
    try:
        return device.used_by(sharing, waiting, section.cores)
    except UsageError:  # the driver has changed since, and the trial failed
        return device.used_by("", waiting, section.cores)


def _used_by(device: Device, way: str) -> Device | None:
    try:
        found = device.used_by(sharing=way)
    except UsageError:  # it claims that way, and the trial failed
        return None
    return found if found.sharing == way else None


def _relu(size: int) -> tuple[Node, Region]:
    kind = TensorType(np.dtype(np.float32), (1, 1, 1, size))
    return Node("Relu", (Value("x", kind),), (Value("y", kind),), name="relu"), Region.whole(kind.shape)


def exchange_us(devices: Mapping[str, Device]) -> dict[str, float]:
    """By way: the host writes 256 KiB, the device computes on them, the host reads the result; the kernel's time is in all of them."""
    node, whole = _relu(ELEMENTS)
    numbers = np.arange(ELEMENTS, dtype=np.float32).reshape(whole.shape)
    with ExitStack() as stack:
        benches = {way: stack.enter_context(Bench(device, node, whole)) for way, device in devices.items()}

        def exchange(bench: Bench) -> None:
            given, made = (TensorView.contiguous(buffer, numbers.dtype, whole) for buffer in bench.buffers)
            np.copyto(given.array, numbers)
            bench.queue.upload(given)
            event = bench.kernel.start()
            bench.queue.flush()
            event.wait()
            bench.queue.download(made).wait()
            made.array.sum()

        return _in_turns({way: lambda b=bench: exchange(b) for way, bench in benches.items()}, benches)


def wait_us(device: Device) -> dict[str, float]:
    """By way: a hand-over, from when the host lets a piece of the device begin until it hears that it is done, less what the piece takes.

    Several in a row, each let begin when the one before was heard of: by events, started only then; by words in shared memory, started
    ahead and held by gates, as sessions do (`runtime.weave`), the gates' own start counted.
    """
    node, whole = _relu(ELEMENTS)
    with Bench(device, node, whole) as bench:
        handshake = bench.queue.handshake(wanted=True)

        def by(wait: Callable) -> Callable[[], None]:
            def action() -> None:
                for _ in range(HANDOVERS):
                    event = bench.kernel.start()
                    bench.queue.flush()
                    wait(event)

            return action

        actions = {way: by(wait_by(way, bench.queue)) for way in ("event", "finish", "poll")}
        if handshake is not None:
            gates = [handshake.sync(number, number + 1) for number in range(HANDOVERS)]
            end, heard, told = handshake.sync(HANDOVERS), handshake.heard, handshake.told

            def by_flag() -> None:
                handshake.reset()
                for gate in gates:
                    gate.start()
                    bench.kernel.start()
                last = end.start()
                bench.queue.flush()
                for number in range(1, HANDOVERS + 1):
                    told[0] = number
                    while heard[0] < number and not last.done:
                        pass
                last.wait()

            actions["flag"] = by_flag

        def together(count: int) -> Callable[[], None]:
            def action() -> None:
                for _ in range(count):
                    event = bench.kernel.start()
                bench.queue.flush()
                event.wait()

            return action

        few, many = together(HANDOVERS), together(8 * HANDOVERS)
        found = _in_turns({**actions, "few": few, "many": many}, {"": bench})
    each = (found.pop("many") - found.pop("few")) / (7 * HANDOVERS)
    return {way: max(0.1, us / HANDOVERS - each) for way, us in found.items()}


def _in_turns(actions: Mapping[str, Callable[[], object]], benches: Mapping[str, Bench]) -> dict[str, float]:
    """The median microseconds of each action."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    queues = [bench.queue for bench in benches.values()]
    for queue in queues[:1]:  # one is enough to keep off an emulated device's cores
        queue.begin_run()
    try:
        for turn in range(ROUNDS + 2):
            for name, action in actions.items():
                begun = time.perf_counter()
                action()
                if turn >= 2:  # the first are warm-ups
                    times[name].append(time.perf_counter() - begun)
    finally:
        for queue in queues[:1]:
            queue.end_run()
    return {name: float(np.median(taken)) * 1e6 for name, taken in times.items()}
