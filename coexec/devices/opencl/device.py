"""OpenCLDevice and OpenCLQueue: the device contract on one OpenCL device and one in-order command queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyopencl as cl

from ... import settings
from ...errors import DeviceError, UsageError
from ...graph.ir import Graph, Node, TensorType, Value
from ...ops import op_for
from ...ops.fallback import is_fallback
from ...ops.narrow import is_narrow
from ...partition.plan import Plan
from ...regions import Region
from ..base import DONE, Buffer, Call, Device, Event, Operand, Queue, TensorView
from . import builder, cores, host, images, platform
from .handshake import ClHandshake, possible
from .handshake import works as handshake_works
from .launch import ClEvent, ClKernel, failed, function
from .memory import ALIGNMENT, allocate
from .nd import MAX_RANK
from .sharing import WAYS, works

_INT_MAX = 2**31 - 1
#: Smaller constants are copied to the device in any case.
SHARED_BYTES = 64 << 10
_contexts: dict[int, cl.Context] = {}  # one a device for the life of the process: programs belong to a context


class OpenCLDevice(Device):
    """An OpenCL device. `sharing` is how its memory is shared with the host, one of `sharing.WAYS`.

    Default: the setting, else fine-grain shared memory or copies; the other ways are for whoever measured that they are faster. Raises
    UsageError where the device cannot share that way.
    """

    name = "gpu"
    asynchronous = True
    failures = (cl.Error,)

    def __init__(self, device: cl.Device, sharing: str = "", waiting: str = ""):
        self.device = device
        self.waiting = settings.get("wait") or waiting or "event"
        self.facts = platform.facts(device)
        self.sharing = sharing or settings.get("sharing") or ("svm" if "svm" in self.facts.sharing else "copy")
        if self.sharing not in self.facts.sharing:
            raise UsageError(f"{self.facts.name} cannot share memory that way", found=self.sharing,
                             expected=" or ".join(self.facts.sharing))
        if device.int_ptr not in _contexts:
            _contexts[device.int_ptr] = cl.Context([device])
        self.context = _contexts[device.int_ptr]
        if not works(device, self.context, self.sharing):
            raise UsageError(f"{self.facts.name} cannot share memory that way",
                             found=f"{self.sharing}: what one side writes does not reach the other",
                             hint="COEXEC_SHARING=copy works everywhere")

    def used_by(self, sharing: str = "", waiting: str = "", cores: Iterable[int] = ()) -> Device:
        asked = settings.get("sharing") or sharing or self.sharing, settings.get("wait") or waiting or self.waiting
        return self if asked == (self.sharing, self.waiting) else OpenCLDevice(self.device, *asked)

    def declines(self, node: Node) -> str | None:
        family = builder.find(node)
        if family is None:
            return f"there is no OpenCL kernel for {node.qualified_type}"
        if is_fallback(op_for(node)):
            return f"{node.qualified_type} in this form is computed by the reference only"
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        for value in values:
            if value.dtype.name not in self.facts.dtypes:
                return f"{self.facts.name} has no {value.dtype.name}"
            if is_narrow(value.dtype) and not family.narrow:
                return f"its {node.op_type} kernel does not take {value.dtype.name}"
            if value.type.size > _INT_MAX:
                return f"{value.name} has more than 2**31 elements"
            if sum(e > 1 for e in value.shape) > MAX_RANK:
                return f"{value.name} has more than {MAX_RANK} dimensions"
        if not family.tail and (node.residual or node.activation):
            return f"its {node.op_type} kernel has no fused tail"
        return family.declines(node, self.facts) if family.declines else None

    @property
    def operators(self) -> frozenset[tuple[str, str]]:
        return builder.built_ops()

    def tune(self, graph: Graph, plan: Plan, budget_s: float, progress: Callable[[int, int, str], None] | None = None) -> int:
        from .tuning import tune_graph  # it opens queues of this device itself

        return tune_graph(self, graph, plan, budget_s, progress)

    def allocate(self, nbytes: int) -> Buffer:
        return WAYS[self.sharing](self.context, nbytes)

    def taken_bytes(self, nbytes: int) -> int:
        return 2 * nbytes if self.sharing == "copy" else nbytes

    def declines_image(self, node: Node, regions: Sequence[Region]) -> str | None:
        return images.declines(self.facts, node, regions)

    def picture(self, width: int, height: int) -> Buffer:
        return images.ImageBuffer(self.context, width, height)

    def queue(self, threads: int = 1) -> OpenCLQueue:
        return OpenCLQueue(self)


class _Scratch(builder.Unbound):
    """Working memory that every kernel of a queue uses in turn; `handle` is there once the queue is sealed."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.handle: cl.Buffer | None = None
        self.users: list[tuple[cl.Kernel, int]] = []


class OpenCLQueue(Queue):
    """An in-order command queue; constants are uploaded and packed once, scratch memory is shared by all its kernels."""

    def __init__(self, device: OpenCLDevice):
        self.device = device
        self.where = device.facts.name
        self.context = device.context
        self.queue = cl.CommandQueue(device.context)
        self.scratch = _Scratch()
        self.staging: dict[Any, images.Staging] = {}
        apart = cores.reserve() if device.facts.emulated else frozenset()
        self._elsewhere = cores.Elsewhere(apart)
        # A host that looks at events would take the very core that its own emulated GPU needs, where that has none to itself.
        self.poll_s = 1e-6 * settings.get("poll_us") if apart or not device.facts.emulated else 0.0
        self._handshake: ClHandshake | None = None
        self._constants: dict[Any, tuple[Any, cl.Buffer]] = {}
        self.shapes: dict[Any, tuple[tuple[int, ...], np.dtype]] = {}

    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> ClKernel:
        reason = self.device.declines(node)
        where = f"{self.where}, {node.op_type} '{node.name}'"
        if reason:
            raise DeviceError("the device has no kernel for this node", where=where, found=reason, hint="run this node on the cpu")
        compiling = builder.Compile(self, node, out_region, inputs, outputs, where)
        if any(r is not None and r.size for r in compiling.out_regions):
            try:
                build = images.build if images.wanted((*inputs, *outputs)) else builder.find(node).build
                build(compiling)
            except cl.Error as error:
                raise failed("a kernel cannot be prepared", error, compiling) from error
        return ClKernel(self.queue, where, compiling.implementation, compiling.launches, compiling.owned, self.poll_s)

    def reveal(self, picture: TensorView, view: TensorView) -> ClKernel:
        kind = TensorType(view.dtype, tuple(extent.stop for extent in view.region))
        node = Node("Identity", (Value("held", kind),), (Value("seen", kind),), name="reveal")
        compiling = builder.Compile(self, node, view.region, [picture], [view], f"{self.where}, a look into an image")
        images.unpack(compiling, images.Picture.of(picture, view.region), compiling.output())
        return ClKernel(self.queue, compiling.where, "f32_image_unpack", compiling.launches, compiling.owned, self.poll_s)

    def seal(self) -> None:
        for staging in self.staging.values():
            staging.bind(self.context)
        scratch = self.scratch
        if not scratch.users:
            return
        if scratch.handle is None or scratch.handle.size < scratch.nbytes:
            self.finish()
            scratch.handle = allocate(self.context, lambda n: cl.Buffer(self.context, cl.mem_flags.READ_WRITE, n), scratch.nbytes)
        for kernel, index in scratch.users:
            kernel.set_arg(index, scratch.handle)

    def place(self) -> cores.Elsewhere:
        return cores.Elsewhere(self._elsewhere.cores)

    def begin_run(self) -> None:
        self._elsewhere.enter()

    def end_run(self) -> None:
        self._elsewhere.leave()

    def flush(self) -> None:
        try:
            self.queue.flush()
        except cl.Error as error:
            raise failed("started work cannot be sent to the device", error, self) from error

    def flushes(self) -> Sequence[Call] | None:
        flush = function("clFlush")
        return (Call(flush, (self.queue.int_ptr,), (), self.queue),) if flush else None

    def finish(self) -> None:
        try:
            self.queue.finish()
        except cl.Error as error:
            raise failed("work failed on the device", error, self) from error

    def handshake(self, wanted: bool = False) -> ClHandshake | None:
        facts, device = self.device.facts, self.device.device
        if not (wanted or settings.get("handshake")) or self.device.sharing != "svm" or not possible(device, facts.emulated):
            return None
        if self._handshake is None:
            made = ClHandshake(self.context, self.queue, facts.emulated, self.where)
            if not handshake_works(device, made):
                made.close()
                return None
            self._handshake = made
        return self._handshake

    @property
    def kept_handshake(self) -> ClHandshake | None:
        """The handshake that was asked for and works."""
        return self._handshake

    def upload(self, view: TensorView) -> Event:
        return self._transfer(view, False)

    def download(self, view: TensorView) -> Event:
        return self._transfer(view, True)

    def _transfer(self, view: TensorView, to_host: bool) -> Event:
        if view.buffer.shared:
            return DONE
        try:
            event = view.buffer.move(self.queue, view, to_host)
        except cl.Error as error:
            raise failed("a transfer cannot be started", error, self) from error
        return DONE if event is None else ClEvent(event, view, self.poll_s)

    def constant(self, key: Any, owner: Any, make: Callable[[], np.ndarray]) -> cl.Buffer:
        """The device's copy of make(), made once per key. `owner` is kept, so that an id() in the key stays its own."""
        if key not in self._constants:
            array = np.ascontiguousarray(make())
            filled = array if array.size else np.zeros(ALIGNMENT, np.uint8)
            stays = self.uses(array)
            flags = cl.mem_flags.READ_ONLY | (cl.mem_flags.USE_HOST_PTR if stays else cl.mem_flags.COPY_HOST_PTR)
            buffer = allocate(self.context, lambda _: cl.Buffer(self.context, flags, hostbuf=filled), array.nbytes)
            self._constants[key] = (owner, filled if stays else None), buffer
        return self._constants[key][1]

    def uses(self, array: np.ndarray) -> bool:
        """Where memory is shared, large weights are used where they were packed: a copy would take as much memory and time again."""
        return "svm" in self.device.facts.sharing and array.nbytes >= SHARED_BYTES and array.ctypes.data % host.ALIGNMENT == 0

    def close(self) -> None:
        if self._handshake is not None:
            self._handshake.release()  # nothing waits for a host that has left
        try:
            self.finish()
        finally:
            if self._handshake is not None:
                self._handshake.close()
            self._constants.clear()
            self.scratch, self.staging = _Scratch(), {}
