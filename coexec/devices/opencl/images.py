"""Pieces whose operands lie in images (`partition.images`): kernels that read and write images, with transforms for operands in buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyopencl as cl

from ...errors import DeviceError
from ...graph.ir import Node
from ...ops.conv import conv_input, conv_params
from ...ops.pool import average_divisors, pool_input, pool_params
from ...partition.images import PIXEL, kind_of
from ...regions import Region
from ..base import Buffer, DeviceFacts, Operand, TensorView
from ..pages import touched_bytes
from .builder import ClOperand, Compile, Unbound, int8
from .elementwise_binary import PLAIN
from .elementwise_unary import expression
from .memory import allocate, unmap

FORMAT = (cl.channel_order.RGBA, cl.channel_type.FLOAT)
#: Neighbouring outputs that a work-item of a convolution makes: so often is a weight used once it is read.
PER = 4


class ImageBuffer(Buffer):
    """An image of the device's. The host cannot address it."""

    shared = copies = False

    def __init__(self, context: cl.Context, width: int, height: int):
        self.nbytes, self.host = width * height * PIXEL * 4, np.empty(0, np.uint8)
        self.context, self.handle = context, image(context, width, height)

    def resident_bytes(self) -> int | None:
        """Pages in memory where the driver keeps images in the host's (PoCL does); elsewhere what the driver says that it takes."""
        queue = cl.CommandQueue(self.context)
        try:
            address, again = _address(queue, self.handle), _address(queue, self.handle)
        except cl.Error:
            address, again = 0, -1
        touched = touched_bytes(address, self.nbytes) if address == again else None  # else each mapping is a copy
        return self.handle.size if touched is None else touched

    def close(self) -> None:
        self.handle = None


def image(context: cl.Context, width: int, height: int) -> cl.Image:
    """An image for kernels alone. Raises DeviceError where there is not enough memory."""
    create = getattr(cl, "create_image", cl.Image)  # pyopencl before 2024.3 has the constructor alone, later ones warn of it
    return allocate(context, lambda _: create(context, cl.mem_flags.READ_WRITE, cl.ImageFormat(*FORMAT), shape=(width, height)),
                    width * height * PIXEL * 4)


def _address(queue: cl.CommandQueue, mapped: cl.Image) -> int:
    """Where an image's pixels are while it is mapped."""
    width, height = mapped.width, mapped.height
    array, *_ = cl.enqueue_map_image(queue, mapped, cl.map_flags.READ, (0, 0), (width, height), (height, width, PIXEL), np.float32)
    address = array.ctypes.data
    unmap(queue, array).wait()
    return address


def declines(facts: DeviceFacts, node: Node, regions: Sequence[Region]) -> str | None:
    """Why the node's operands, of those regions, cannot be images on such a device; None where they can."""
    limit = facts.extra.get("image2d_max")
    if not limit:
        return f"{facts.name} has no images"
    if kind_of(node) is None:
        return f"there is no image kernel for {node.qualified_type} in this form"
    for region in regions:
        width, height = pixels(region)
        if width > limit[0] or height > limit[1]:
            return f"an image of {width} x {height} pixels is larger than the {limit[0]} x {limit[1]} that {facts.name} has"
    return None


def pixels(region: Region) -> tuple[int, int]:
    """Width and height of the image that holds a (batch, channel, height, width) region."""
    batch, channels, height, width = region.shape
    return -(-channels // PIXEL) * width, batch * height


@dataclass
class Staging(Unbound):
    """An image that the kernels of a queue use in turn, as large as the largest of them needs; bound when the queue is sealed."""

    width: int = 0
    height: int = 0
    handle: cl.Image | None = None
    users: list[tuple[cl.Kernel, int]] = field(default_factory=list)

    def bind(self, context: cl.Context) -> None:
        if self.handle is None or self.handle.width < self.width or self.handle.height < self.height:
            self.handle = image(context, self.width, self.height)
        for kernel, index in self.users:
            kernel.set_arg(index, self.handle)


@dataclass(frozen=True)
class Picture:
    """A window of an image, as a kernel argument: the image and its place (x0, y0, width, rows) in images.cl's words."""

    handle: Any
    region: Region
    place: tuple[int, int, int, int]

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Width, height, channel blocks, batches."""
        batch, channels, height, width = self.region.shape
        return width, height, -(-channels // PIXEL), batch

    def args(self) -> list[Any]:
        return [self.handle, int4(*self.place)]

    @classmethod
    def of(cls, view: TensorView, region: Region) -> Picture:
        """The part `region` of what an image holds."""
        held, handle = view.region, getattr(view.buffer, "handle", None)
        if handle is None or not held.covers(region) or tuple(held[:2]) != tuple(region[:2]):
            raise DeviceError("an image does not hold what the piece needs", found=held, expected=region)
        return cls(handle, region, (region[3].start - held[3].start, region[2].start - held[2].start, held.shape[3], held.shape[2]))


def int4(*values: int) -> np.ndarray:
    """Four ints as one kernel argument."""
    return np.array(values, np.int32)


def wanted(operands: Sequence[Operand]) -> bool:
    """True where an operand lies in an image."""
    return any(isinstance(v, TensorView) and isinstance(v.buffer, ImageBuffer) for v in operands)


def build(c: Compile) -> None:
    """Launches for a piece some of whose operands are in images: transforms of the others before and behind its kernel."""
    kind = kind_of(c.node)
    c.implementation = f"f32_{c.node.op_type.lower()}_image_{kind}"
    inputs = [_read(c, i) for i, v in enumerate(c.node.inputs) if v is not None and not v.is_constant]
    r = inputs.pop() if c.node.residual else None
    view = c.out_view()
    direct = isinstance(view.buffer, ImageBuffer)
    y = Picture.of(view, c.region) if direct else _staged(c, "y", c.region)
    _KINDS[kind](c, inputs, y, [*r.args()] if r is not None else [])
    if not direct:
        unpack(c, y, c.output())


def _read(c: Compile, index: int) -> Picture:
    view, region = c.in_view(index), c.in_regions[index]
    if isinstance(view.buffer, ImageBuffer):
        return Picture.of(view, region)
    x, staged = c.input(index), _staged(c, index, region)
    c.launch("images.cl", "image_pack", {"PACK": 1}, *_items(c, staged), x, int8(x.strides), *staged.args(), int4(*staged.size),
             np.int32(region.shape[1]))
    return staged


def unpack(c: Compile, x: Picture, y: ClOperand) -> None:
    """Enqueues the copy of an image's window to a buffer's."""
    c.launch("images.cl", "image_unpack", {"UNPACK": 1}, *_items(c, x), *x.args(), y, int8(y.strides), int4(*x.size), np.int32(y.shape[1]))


def _staged(c: Compile, slot: Any, region: Region) -> Picture:
    staging = c.queue.staging.setdefault(slot, Staging())
    width, height = pixels(region)
    staging.width, staging.height = max(staging.width, width), max(staging.height, height)
    return Picture(staging, region, (0, 0, region.shape[3], region.shape[2]))


def _items(c: Compile, y: Picture, per: int = 1) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Global and local size: a row of work-items at a time on a CPU's cores, squares of them on a GPU's."""
    width, height, blocks, batch = y.size
    return (-(-width // per), height, blocks * batch), ((16, 1, 1) if c.facts.emulated else (8, 8, 1))


def _lanes(array: np.ndarray, axis: int) -> np.ndarray:
    """The array with that axis cut into (blocks, 4), zeros beyond its end."""
    more = [(0, 0)] * array.ndim
    more[axis] = (0, -array.shape[axis] % PIXEL)
    padded = np.pad(array, more)
    return padded.reshape(*array.shape[:axis], -1, PIXEL, *array.shape[axis + 1:])


def _convolution(c: Compile, inputs: list[Picture], y: Picture, r: list[Any]) -> None:
    p, spans, deep = conv_params(c.node), conv_input(c.node, c.region)[1], kind_of(c.node) == "depthwise"
    if deep:
        w = c.packed(1, "image depthwise", lambda w: _lanes(w[:, 0], 0).transpose(0, 2, 3, 1))
    else:
        w = c.packed(1, "image", lambda w: _lanes(_lanes(w, 1), 0).transpose(0, 2, 4, 5, 3, 1))
    if c.has(2):
        bias = c.packed(2, "image", lambda b: _lanes(b, 0))
    else:
        bias = c.constant(np.zeros(y.size[2] * PIXEL, np.float32), "image without bias")
    form = int8((*p.kernel, *p.strides, *p.dilations, *(s.pad_begin for s in spans)))
    _launch(c, "image_conv", {"CONV": 1, "PER": PER, **({"DEPTHWISE": 1} if deep else {})}, y, [*inputs[0].args(), *y.args(), w, bias],
            [_extent(inputs[0]), form], r, PER)


def _pool(c: Compile, inputs: list[Picture], y: Picture, r: list[Any]) -> None:
    p, spans, largest = pool_params(c.node), pool_input(c.node, c.region)[1], c.node.op_type == "MaxPool"
    form = int8((*p.kernel, *p.strides, *p.dilations, *(s.pad_begin for s in spans)))
    counts = [] if largest else [np.maximum(n, 1).astype(np.float32) for n in average_divisors(c.node, c.region[2:])]
    divisors = [c.constant(n, ("divisors", n.tobytes())) for n in counts]
    _launch(c, "image_pool", {"POOL": 1, **({"LARGEST": 1} if largest else {})}, y, [*inputs[0].args(), *y.args()],
            [_extent(inputs[0]), form, *divisors], r)


def _elementwise(c: Compile, inputs: list[Picture], y: Picture, r: list[Any]) -> None:
    text = PLAIN[c.node.op_type] if c.node.op_type in PLAIN else expression(c.node)
    binary = {"BINARY": 1} if len(inputs) == 2 else {}
    _launch(c, "image_elementwise", {**binary, "EXPR(T, I)": f"({text})"}, y, [a for x in inputs for a in x.args()] + y.args(), [], r)


def _extent(x: Picture) -> np.ndarray:
    """Height, width and channel blocks of what a piece reads."""
    width, height, blocks, _ = x.size
    return int4(height, width, blocks, 0)


def _launch(c: Compile, name: str, defines: dict[str, Any], y: Picture, before: list[Any], behind: list[Any], r: list[Any], per: int = 1) -> None:
    c.launch("images.cl", name, {**defines, **c.tail_defines()}, *_items(c, y, per), *before, int4(*y.size), *behind, *r)


_KINDS: dict[str, Callable[[Compile, list[Picture], Picture, list[Any]], None]] = {
    **dict.fromkeys(("conv", "pointwise", "depthwise"), _convolution), "pool": _pool, "elementwise": _elementwise,
}
