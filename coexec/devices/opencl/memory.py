"""Buffers that the host and an OpenCL device both address: seen by both at once, handed over by mapping, or copied window by window."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from ...errors import DeviceError
from ..base import Buffer, HostBuffer, TensorView

ALIGNMENT, PAGE = 64, 4096
#: So many bytes are set to zero together, if they are not.
PART = 1 << 16


class _Window:
    """Lets NumPy see a driver's allocation, and keeps it alive as long as any view."""

    def __init__(self, allocation: Any, address: int, nbytes: int):
        self.allocation = allocation
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (address, False)}


class SvmBuffer(Buffer):
    """Fine-grain shared virtual memory, zeroed: one allocation, the same bytes for host and device. `handle` is a kernel argument."""

    shared = True

    def __init__(self, context: cl.Context, nbytes: int):
        flags = cl.svm_mem_flags.READ_WRITE | cl.svm_mem_flags.SVM_FINE_GRAIN_BUFFER
        self.nbytes = nbytes
        self.handle = allocate(context, lambda n: cl.SVMAllocation(context, n, ALIGNMENT, flags), nbytes)
        self.host = np.asarray(_Window(self.handle, self.handle.svm_ptr, nbytes)) if nbytes else np.empty(0, np.uint8)
        for at in range(0, nbytes, PART):  # looking at new pages costs no memory, writing zeros to them would
            part = self.host[at:at + PART]
            if part.any():
                part[:] = 0

    def close(self) -> None:
        self.handle, self.host = None, np.empty(0, np.uint8)


class MappedBuffer(Buffer):
    """One allocation, zeroed, at one address of the host's, that each side hands to the other by mapping and unmapping: nothing is copied.

    The host keeps its pointer meanwhile. OpenCL promises less than that where kernels and the host work on parts of one buffer at once, so
    a device is tried before it is used so (`sharing.works`).
    """

    shared = False
    copies = False
    handle: Any

    def move(self, queue: cl.CommandQueue, view: TensorView, to_host: bool) -> cl.Event | None:
        """Enqueues the handing over of a window, by the smallest range of bytes that holds it; None for an empty one."""
        if not view.region.size:
            return None
        length = view.dtype.itemsize + sum((extent - 1) * stride for extent, stride in zip(view.shape, view.strides)) * view.dtype.itemsize
        return self._hand_over(queue, view.offset_bytes, length, cl.map_flags.READ if to_host else cl.map_flags.WRITE)

    def _hand_over(self, queue: cl.CommandQueue, start: int, length: int, flags: int) -> cl.Event:
        raise NotImplementedError

    def close(self) -> None:
        self.handle, self.host = None, np.empty(0, np.uint8)


class CoarseSvmBuffer(MappedBuffer):
    """Coarse-grain shared virtual memory (OpenCL 2.0)."""

    def __init__(self, context: cl.Context, nbytes: int):
        self.nbytes = nbytes
        self.handle = allocate(context, lambda n: cl.SVMAllocation(context, n, ALIGNMENT, cl.svm_mem_flags.READ_WRITE), nbytes)
        self.host = np.asarray(_Window(self.handle, self.handle.svm_ptr, nbytes)) if nbytes else np.empty(0, np.uint8)
        if nbytes:
            queue = cl.CommandQueue(context)
            mapped = cl.SVM(self.host).map(queue, flags=cl.map_flags.WRITE)
            self.host[:] = 0
            mapped.release(queue).wait()

    def _hand_over(self, queue: cl.CommandQueue, start: int, length: int, flags: int) -> cl.Event:
        return cl.SVM(self.host[start:start + length]).map(queue, flags=flags, is_blocking=False).release(queue)


class HostPointerBuffer(MappedBuffer):
    """A buffer in the host's memory: the driver's own (`by_driver`, CL_MEM_ALLOC_HOST_PTR), or ours that it uses (CL_MEM_USE_HOST_PTR)."""

    def __init__(self, context: cl.Context, nbytes: int, by_driver: bool):
        self.nbytes = nbytes
        flags = cl.mem_flags.READ_WRITE
        if by_driver:
            self.handle = allocate(context, lambda n: cl.Buffer(context, flags | cl.mem_flags.ALLOC_HOST_PTR, n), nbytes)
            self.host = self._at_its_address(cl.CommandQueue(context)) if nbytes else np.empty(0, np.uint8)
        else:
            pages = np.zeros(max(nbytes, ALIGNMENT) + PAGE, np.uint8)  # drivers copy what does not begin a page
            own = pages[-pages.ctypes.data % PAGE:][:max(nbytes, ALIGNMENT)]
            self.handle = allocate(context, lambda _: cl.Buffer(context, flags | cl.mem_flags.USE_HOST_PTR, hostbuf=own), nbytes)
            self.host = own[:nbytes]

    def _at_its_address(self, queue: cl.CommandQueue) -> np.ndarray:
        array, _ = cl.enqueue_map_buffer(queue, self.handle, cl.map_flags.WRITE, 0, (self.nbytes,), np.uint8)
        array[:] = 0
        address = array.ctypes.data
        unmap(queue, array).wait()
        return np.asarray(_Window(self.handle, address, self.nbytes))

    def _hand_over(self, queue: cl.CommandQueue, start: int, length: int, flags: int) -> cl.Event:
        array, _ = cl.enqueue_map_buffer(queue, self.handle, flags, start, (length,), np.uint8, is_blocking=False)
        moved = array.ctypes.data - self.host.ctypes.data != start
        event = unmap(queue, array)
        if moved:
            raise DeviceError("the driver maps the buffer at another address each time", hint="COEXEC_SHARING=copy")
        return event


def unmap(queue: cl.CommandQueue, array: np.ndarray) -> cl.Event:
    """Gives a mapping back."""
    mapping = array.base
    try:
        return mapping.release(queue)
    except cl.Error:
        # Letting go of a mapping unmaps it once more, and what that raises ends the process (pyopencl's destructor): this one is kept for ever.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(mapping))
        raise


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

    def move(self, queue: cl.CommandQueue, view: TensorView, to_host: bool) -> cl.Event | None:
        """Enqueues the copy of a window between the two sides; the last event, None for an empty window."""
        return transfer(queue, view, to_host)

    def resident_bytes(self) -> int | None:
        mine = super().resident_bytes()
        return None if mine is None else mine + self.handle.size  # the device's side: what its driver says

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
    for rect in rects(view):
        event = _copy(queue, view.buffer, rect, to_host)
    return event


def _copy(queue: cl.CommandQueue, buffer: CopyBuffer, rect: Rect, to_host: bool) -> cl.Event:
    """Enqueues the copy of a box; its last event.

    A driver that refuses one gets its halves, down to single rows. NVIDIA's wants the gap behind the last row inside the buffer, too.
    """
    if len(rect.shape) == 1:
        part = buffer.host[rect.offset:rect.offset + rect.shape[0]]
        ends, where = ((part, buffer.handle), "src_offset") if to_host else ((buffer.handle, part), "dst_offset")
        return cl.enqueue_copy(queue, *ends, is_blocking=False, **{where: rect.offset})
    pitches = rect.pitches[-1], rect.pitches[0] if len(rect.pitches) == 2 else 0
    ends = (buffer.host, buffer.handle) if to_host else (buffer.handle, buffer.host)
    plane, rest = divmod(rect.offset, pitches[1]) if pitches[1] else (0, rect.offset)
    origin = rest % pitches[0], rest // pitches[0], plane
    box = (*reversed(rect.shape), *(1,) * (3 - len(rect.shape)))
    try:
        return cl.enqueue_copy(queue, *ends, buffer_origin=origin, host_origin=origin, region=box, buffer_pitches=pitches, host_pitches=pitches,
                               is_blocking=False)
    except cl.LogicError:
        first, second = _halves(rect)
        _copy(queue, buffer, first, to_host)
        return _copy(queue, buffer, second, to_host)


def _halves(rect: Rect) -> Iterator[Rect]:
    """A box of two or three dimensions parted along the outermost."""
    middle = rect.shape[0] // 2
    for skipped, count in ((0, middle), (middle, rect.shape[0] - middle)):
        offset = rect.offset + skipped * rect.pitches[0]
        yield Rect(offset, rect.shape[1:], rect.pitches[1:]) if count == 1 else Rect(offset, (count, *rect.shape[1:]), rect.pitches)
