"""What images cost on a device beside buffers: a kernel of each kind both ways, and the transforms between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..devices.base import Device
from ..errors import DeviceError
from ..graph.ir import Node, TensorType, Value
from ..partition.images import KINDS, PIXEL
from ..regions import Region
from .measure import Bench, with_constants

#: Shapes in the middle of a small network.
CHANNELS, EDGE = 64, 28
ROUNDS = 5
#: Where the lightest kernel takes so many times as long on images, no other is tried: a device without hardware for them.
HOPELESS = 8.0


class ImageCosts(NamedTuple):
    """shares: by kind of kernel that was tried, its time on images by its time on buffers. us and gbs: a transform between the two, fixed
    and by bytes.
    """

    shares: dict[str, float]
    us: float
    gbs: float


def sample(kind: str) -> Node:
    """A node of that kind, its weights without numbers."""
    x = TensorType(np.dtype(np.float32), (1, CHANNELS, EDGE, EDGE))

    def w(name: str, *shape: int) -> Value:
        return Value(name, TensorType(np.dtype(np.float32), shape))

    attributes = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    op, more, attributes = {
        "conv": ("Conv", [w("w", CHANNELS, CHANNELS, 3, 3), w("wb", CHANNELS)], attributes),
        "pointwise": ("Conv", [w("w", CHANNELS, CHANNELS, 1, 1), w("wb", CHANNELS)], {"kernel_shape": (1, 1)}),
        "depthwise": ("Conv", [w("w", CHANNELS, 1, 3, 3), w("wb", CHANNELS)], {**attributes, "group": CHANNELS}),
        "pool": ("MaxPool", [], attributes),
        "elementwise": ("Relu", [], {}),
    }[kind]
    return with_constants(Node(op, (Value("x", x), *more), (Value("y", x),), attributes, name=kind), np.random.default_rng(0))


def image_costs(device: Device) -> ImageCosts | None:
    """Measured, the ways taking turns; None where the device has no images, or its driver fails at them."""
    whole = Region.whole((1, CHANNELS, EDGE, EDGE))
    if device.declines_image(sample("elementwise"), [whole]) is not None:
        return None
    try:
        shares: dict[str, float] = {}
        for kind in sorted(KINDS, key=lambda kind: kind != "elementwise"):
            if shares.get("elementwise", 1.0) < HOPELESS:
                on_buffers, on_images = _times(device, kind, whole, ("", ""), ("x", "y"))
                shares[kind] = on_images / on_buffers
        small = Region.whole((1, PIXEL, 2, 2))
        fixed = _transform_us(device, small)
        nbytes = whole.size * 4
        return ImageCosts(shares, fixed, nbytes / max(_transform_us(device, whole) - fixed, 0.1) / 1e3)
    except (DeviceError, *device.failures):
        return None


def _transform_us(device: Device, region: Region) -> float:
    """One way, from or to a buffer: half of what a kernel takes longer that reads from one and one that writes to one."""
    inside, reading, writing = _times(device, "elementwise", region, ("x", "y"), ("", "y"), ("x", ""))
    return max(0.0, reading + writing - 2 * inside) / 2


def _times(device: Device, kind: str, region: Region, *ways: tuple[str, str]) -> list[float]:
    """Microseconds of the kernel of that kind, by way: which of its operands x and y are images. The ways take turns."""
    node, taken = sample(kind), []
    benches = [Bench(device, node, region, images=way) for way in ways]
    try:
        taken = [[bench.time(min_seconds=0.004).median_us for bench in benches] for _ in range(ROUNDS)]
    finally:
        for bench in benches:
            bench.close()
    return [max(0.1, float(us)) for us in np.median(taken, axis=0)]
