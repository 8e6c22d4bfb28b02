"""A convolution tried on a device: is its result right, does its driver sleep while it waits, are its events' times true."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .. import settings
from ..devices.base import Device, Kernel, Queue, TensorView
from ..devices.timed import Timer, timed
from ..errors import CoexecError
from ..graph.ir import Activation, Node, TensorType, Value, constant
from ..ops import op_for
from ..regions import Region
from ..runtime import clocks
from ..runtime.watchdog import TimedOut, in_time
from .problem import Problem

#: A self-test compiles its kernel, which takes seconds on some boards; one that takes longer hangs.
SELF_TEST_S = 60.0
#: Work that a driver's habits are watched at takes so long, by at most so many kernels.
WATCHED_S, MOST_KERNELS = 0.03, 200
#: A thread that waits takes less than this share of its core where the driver sleeps.
BUSY = 0.7


def self_test(device: Device) -> dict[str, Any]:
    """A small convolution on that device beside NumPy's: {"ok", "max_rel_error", "error"}, and "hangs" where there is no answer.

    A failing driver is an answer, not a crash. With the setting `timeout` at 0 a device may take for ever.
    """
    node, x = _convolution(8, 12)
    expected = op_for(node).run(node, [x, *(v.data for v in node.inputs[1:])], Region.whole(node.output.shape))[0]
    try:
        found = in_time(lambda: _computed(device, node, x), _limit_s())
    except TimedOut:
        return {"ok": False, "max_rel_error": None, "error": f"no answer after {SELF_TEST_S:g} s", "hangs": True}
    except CoexecError as error:
        return {"ok": False, "max_rel_error": None, "error": str(error)}
    gap = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    return {"ok": gap < 1e-4, "max_rel_error": gap, "error": "" if gap < 1e-4 else f"the result is off by {gap:.3g} of its peak"}


class Habits(NamedTuple):
    """How a driver behaves. waiting_core: the share of its core that a thread takes while it waits for the device; None where the device was
    too quick to tell. clock: what is wrong with the times of its events, "" where they are true.
    """

    waiting_core: float | None
    clock: str


def habits_of(device: Device) -> Habits | None:
    """What the driver of an asynchronous device does while work runs; None where it has none, or fails."""
    if not device.asynchronous:
        return None
    try:
        return in_time(lambda: _watched(device), _limit_s())
    except (TimedOut, CoexecError):
        return None


def problems_of(name: str, habits: Habits) -> Iterator[Problem]:
    """What there is to say of them."""
    if habits.waiting_core is not None and habits.waiting_core > BUSY:
        yield Problem(
            f"the driver of {name} keeps a core busy while it waits",
            f"a thread that waited for the device took {habits.waiting_core:.0%} of its core meanwhile, which the CPU's part of the work needs",
            "export COEXEC_WAIT=poll (sleeps for as long as the work is expected to take)",
            "warning",
        )
    if habits.clock:
        yield Problem(
            f"the times that {name} tells of its work are not used",
            f"{habits.clock}; profiles and traces take the host's clock instead, which counts the way to the device as work",
            "update the driver; where that does not help, give measuring more time: coexec profile --full",
            "note",
        )


def _limit_s() -> float:
    return SELF_TEST_S if settings.get("timeout") else 0.0


def _convolution(channels: int, size: int) -> tuple[Node, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, channels, size, size)).astype(np.float32)
    weight = constant("w", (rng.standard_normal((2 * channels, channels, 3, 3)) / 9).astype(np.float32))
    bias = constant("b", rng.standard_normal(2 * channels).astype(np.float32))
    float32 = np.dtype(np.float32)
    source, result = Value("x", TensorType(float32, x.shape)), Value("y", TensorType(float32, (1, 2 * channels, size, size)))
    attributes = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    return Node("Conv", (source, weight, bias), (result,), attributes, "self_test", activation=Activation("Relu")), x


class _Trial(NamedTuple):
    queue: Queue
    timer: Timer | None
    kernel: Kernel
    result: TensorView


@contextmanager
def _ready(device: Device, node: Node, x: np.ndarray, is_timed: bool = False) -> Iterator[_Trial]:
    """The convolution with its input in place, within a run."""
    start = -(-x.nbytes // 4096) * 4096
    buffer = device.allocate(start + node.output.type.nbytes)
    queue = device.queue(1)
    try:
        timer = timed(queue) if is_timed else None
        source = TensorView.contiguous(buffer, x.dtype, Region.whole(x.shape))
        result = TensorView.contiguous(buffer, node.output.dtype, Region.whole(node.output.shape), start)
        source.array[...] = x
        result.array[...] = np.nan  # a kernel that never ran must not look right
        kernel = queue.compile(node, result.region, [source, *node.inputs[1:]], [result])
        queue.seal()
        queue.upload(source).wait()
        queue.upload(result).wait()
        queue.begin_run()
        try:
            yield _Trial(queue, timer, kernel, result)
        finally:
            queue.end_run()
    finally:
        queue.close()
        buffer.close()


def _computed(device: Device, node: Node, x: np.ndarray) -> np.ndarray:
    with _ready(device, node, x) as trial:
        trial.kernel.start().wait()
        trial.queue.finish()
        trial.queue.download(trial.result).wait()
        return trial.result.array.copy()


def _watched(device: Device) -> Habits:
    with _ready(device, *_convolution(32, 56), is_timed=True) as trial:
        trial.kernel.start().wait()  # compiles
        begun = time.perf_counter()
        trial.kernel.start().wait()
        once_s = max(1e-6, time.perf_counter() - begun)
        clock = _clock_problem(trial)
        for _ in range(max(1, min(MOST_KERNELS, round(WATCHED_S / once_s)))):
            trial.kernel.start()
        trial.queue.flush()
        begun, own = time.perf_counter(), time.thread_time()
        trial.queue.finish()
        waited_s, busy_s = time.perf_counter() - begun, time.thread_time() - own
        return Habits(busy_s / waited_s if waited_s > WATCHED_S / 10 else None, clock)


def _clock_problem(trial: _Trial) -> str:
    timer = trial.timer
    if timer is None or not timer.own_clock:
        return clocks.NONE_GIVEN
    before, begun = clocks.read(timer), time.perf_counter_ns()
    event, read = timer.start(trial.kernel)
    event.wait()
    done, stretches, after = time.perf_counter_ns(), read(), clocks.read(timer)
    mapping, why = clocks.mapping_of(before, after)
    if mapping is None or not stretches:
        return why or clocks.NONE_GIVEN
    return "" if mapping.holds(stretches[0].start_ns, stretches[-1].stop_ns, begun, done) else clocks.OUTSIDE
