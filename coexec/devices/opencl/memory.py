"""Buffers that the host and an OpenCL device both address, and copying a strided window of one where they do not share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from ...errors import DeviceError
from ..base import Buffer, HostBuffer, TensorView

ALIGNMENT = 64
#: So many bytes are set to zero together, if they are not.
PART = 1 << 16


class _Window:
    """Lets NumPy see an SVM allocation, and keeps it alive as long as any view."""

    def __init__(self, allocation: cl.SVMAllocation, nbytes: int):
        self.allocation = allocation
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (allocation.svm_ptr, False)}


class SvmBuffer(Buffer):
    """Fine-grain shared virtual memory, zeroed: one allocation, the same bytes for host and device. `handle` is a kernel argument."""

    shared = True

    def __init__(self, context: cl.Context, nbytes: int):
        flags = cl.svm_mem_flags.READ_WRITE | cl.svm_mem_flags.SVM_FINE_GRAIN_BUFFER
        self.nbytes = nbytes
        self.handle = allocate(context, lambda n: cl.SVMAllocation(context, n, ALIGNMENT, flags), nbytes)
        self.host = np.asarray(_Window(self.handle, nbytes)) if nbytes else np.empty(0, np.uint8)
        for at in range(0, nbytes, PART):  # looking at new pages costs no memory, writing zeros to them would
            part = self.host[at:at + PART]
            if part.any():
                part[:] = 0

    def close(self) -> None:
        self.handle, self.host = None, np.empty(0, np.uint8)


class CopyBuffer(Buffer):
    """A host array and a device buffer of the same size, both zeroed, that are brought in step by upload and download."""

    shared = False

    def __init__(self, context: cl.Context, nbytes: int):
        self.nbytes = nbytes
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR

        def make(_: int) -> cl.Buffer:
            self.host = HostBuffer(nbytes).host
            return cl.Buffer(context, flags, hostbuf=self.host if nbytes else np.zeros(ALIGNMENT, np.uint8))

        self.handle = allocate(context, make, nbytes)

    def close(self) -> None:
        self.handle, self.host = None, np.empty(0, np.uint8)


def allocate(context: cl.Context, make: Callable[[int], Any], nbytes: int) -> Any:
    """make(nbytes), at least 64 bytes of it. Raises DeviceError where the device has not enough memory."""
    nbytes, limit = max(nbytes, ALIGNMENT), context.devices[0].max_mem_alloc_size
    hint = "use a smaller batch or input, or run on the cpu"
    if nbytes > limit:  # asked for more, some drivers end the process
        raise DeviceError("the OpenCL device cannot allocate memory", found=f"{nbytes / 2**20:.1f} MiB refused",
                          expected=f"at most {limit / 2**20:.0f} MiB in one piece", hint=hint)
    try:
        return make(nbytes)
    except (cl.Error, MemoryError) as error:
        raise DeviceError("the OpenCL device cannot allocate memory", hint=hint,
                          found=f"{nbytes / 2**20:.1f} MiB refused ({error})") from error


class Rect(NamedTuple):
    """A box of bytes: `shape` rows of contiguous bytes innermost last, `pitches` the byte distance of the outer dimensions."""

    offset: int
    shape: tuple[int, ...]
    pitches: tuple[int, ...]


def rects(view: TensorView) -> Iterator[Rect]:
    """The fewest simple boxes (at most three dimensions, legal for every driver) that cover a strided window, in bytes."""
    if not view.region.size:
        return
    size = view.dtype.itemsize
    dims = [(e, s * size) for e, s in zip(view.shape, view.strides) if e > 1]
    yield from _boxes(view.offset_bytes, _merge([*dims, (size, 1)]))


def _merge(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for extent, stride in reversed(dims):
        if merged and merged[0][0] * merged[0][1] == stride:
            merged[0] = (merged[0][0] * extent, merged[0][1])
        else:
            merged.insert(0, (extent, stride))
    return merged


def _boxes(offset: int, dims: list[tuple[int, int]]) -> Iterator[Rect]:
    row = dims[-1][0]
    pitches = [s for _, s in dims[:-1]]
    legal = len(dims) <= 3 and all(p >= row for p in pitches)
    if len(dims) == 3:  # a slice must hold whole rows
        legal = legal and pitches[0] % pitches[1] == 0 and pitches[0] >= dims[1][0] * pitches[1]
    if legal:
        yield Rect(offset, tuple(e for e, _ in dims), tuple(pitches))
        return
    extent, stride = dims[0]
    for i in range(extent):
        yield from _boxes(offset + i * stride, dims[1:])


def transfer(queue: cl.CommandQueue, view: TensorView, to_host: bool) -> cl.Event | None:
    """Enqueues the copy of a CopyBuffer's window between its two sides; the last event, None for an empty window."""
    event = None
    buffer = view.buffer
    for rect in rects(view):
        if len(rect.shape) == 1:
            part = buffer.host[rect.offset:rect.offset + rect.shape[0]]
            ends, where = ((part, buffer.handle), "src_offset") if to_host else ((buffer.handle, part), "dst_offset")
            event = cl.enqueue_copy(queue, *ends, is_blocking=False, **{where: rect.offset})
            continue
        pitch, step = rect.pitches[-1], rect.pitches[0] if len(rect.pitches) == 2 else 0
        plane, rest = divmod(rect.offset, step) if step else (0, rect.offset)
        origin = (rest % pitch, rest // pitch, plane)
        ends = (buffer.host, buffer.handle) if to_host else (buffer.handle, buffer.host)
        box = (*reversed(rect.shape), *(1,) * (3 - len(rect.shape)))
        event = cl.enqueue_copy(queue, *ends, buffer_origin=origin, host_origin=origin, region=box, buffer_pitches=(pitch, step),
                                host_pitches=(pitch, step), is_blocking=False)
    return event
