"""The ways in which an OpenCL device shares memory with the host, and whether one of them really works on a device: it is tried.

A run cuts one output in two: while the device writes its rows, the host writes its own in between, then each reads what the other wrote.
Drivers that keep a copy of mapped memory, or whose caches do not see each other, lose rows that way; only trying tells.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pyopencl as cl

from ...errors import DeviceError
from ...regions import Region
from ..base import Buffer, TensorView
from .memory import CoarseSvmBuffer, CopyBuffer, HostPointerBuffer, SvmBuffer
from .program import build, compose, kernel

WAYS: dict[str, Callable[[cl.Context, int], Any]] = {
    "svm": SvmBuffer, "coarse-svm": CoarseSvmBuffer, "alloc-host": partial(HostPointerBuffer, by_driver=True),
    "use-host": partial(HostPointerBuffer, by_driver=False), "copy": CopyBuffer,
}
#: By OpenCL's word these need no trial: fine-grain memory is one for both, and a copy is a copy.
PROMISED = frozenset({"svm", "copy"})
#: Rows whose ends lie inside of cache lines, on several pages.
ROWS, WIDTH, ROUNDS = 64, 37, 3
_works: dict[tuple[int, str], bool] = {}


def works(device: cl.Device, context: cl.Context, way: str) -> bool:
    """True where both sides find what the other wrote. Tried once a process, device and way."""
    key = device.int_ptr, way
    if key not in _works:
        _works[key] = way in PROMISED or _tried(context, way)
    return _works[key]


def _tried(context: cl.Context, way: str) -> bool:
    size = ROWS * WIDTH
    queue = buffer = None
    try:
        queue, buffer = cl.CommandQueue(context), WAYS[way](context, 2 * size * 4)
        program = build(context, compose(["sharing.cl"], {}))
        write, read = kernel(program, "write_odd_rows"), kernel(program, "read_rows")
        return all(_round(queue, buffer, write, read, 1000 * (n + 1)) for n in range(ROUNDS))
    except (cl.Error, DeviceError, MemoryError):
        return False
    finally:
        if buffer is not None:
            with suppress(cl.Error):  # a trial that was given up has work under way, which would write to memory that is freed
                queue.finish()
            buffer.close()


def _round(queue: cl.CommandQueue, buffer: Buffer, write: cl.Kernel, read: cl.Kernel, value: int) -> bool:
    size, numbers = ROWS * WIDTH, np.arange(ROWS * WIDTH, dtype=np.int32).reshape(ROWS, WIDTH)
    whole = TensorView.contiguous(buffer, np.dtype(np.int32), Region.whole((ROWS, WIDTH)))
    behind = TensorView.contiguous(buffer, np.dtype(np.int32), Region.whole((ROWS, WIDTH)), size * 4)
    rows = [TensorView(buffer, whole.dtype, Region.whole((ROWS // 2, WIDTH)), first * WIDTH * 4, (2 * WIDTH, 1)) for first in (0, 1)]
    for bound, number in ((write, WIDTH), (read, size)):
        bound.set_arg(0, buffer.handle)  # type: ignore[attr-defined]
        bound.set_arg(1, np.int32(number))
        bound.set_arg(2, np.int32(value))
    cl.enqueue_nd_range_kernel(queue, write, (size // 2,), None)
    queue.flush()
    rows[0].array[...] = numbers[0::2] + value + 1
    buffer.move(queue, rows[0], False)  # type: ignore[attr-defined]
    cl.enqueue_nd_range_kernel(queue, read, (size,), None)
    for view in (rows[1], behind):
        buffer.move(queue, view, True).wait()  # type: ignore[attr-defined]
    expected = numbers + value
    expected[0::2] += 1
    return np.array_equal(whole.array, expected) and np.array_equal(behind.array, expected - value)
