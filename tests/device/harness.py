"""Runs a node, or a piece of one, on a device, with poison around everything it may not touch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from coexec.devices.base import Device, Operand, Queue, TensorView
from coexec.graph.ir import Node, Value
from coexec.ops import op_for
from coexec.ops.base import pieces_along
from coexec.regions import Region
from tests.ops.law import assert_close, compute_whole

UNREAD, UNWRITTEN = 0xFF, 0xA5  # NaN, -1 and no bool; a pattern no kernel writes by chance


def window(device: Device, value: Value, loose: bool, fill: int) -> TensorView:
    """A view of a whole value in memory of its own, filled with a byte; `loose` leaves gaps between rows and an offset before."""
    region = Region.whole(value.shape)
    size, strides, step = value.dtype.itemsize, [], 1
    for dim, extent in reversed(list(enumerate(value.shape))):
        strides.append(step)
        step *= max(extent, 1) + (3 if loose and dim == len(value.shape) - 1 else 1 if loose else 0)
    offset = 5 * size if loose else 0
    buffer = device.allocate(offset + step * size)
    buffer.host[:] = fill
    return TensorView(buffer, value.dtype, region, offset, tuple(reversed(strides)))


def everything(view: TensorView) -> TensorView:
    """All bytes of a view's buffer as one view."""
    return TensorView.contiguous(view.buffer, np.dtype(np.uint8), Region([(0, view.buffer.nbytes)]))


def _inputs(device: Device, node: Node, loose: bool) -> list[Operand]:
    """Operands whose memory does not have their values yet: what a kernel keeps of it when it is compiled is wrong in every run."""
    return [value if value is None or value.data is not None else window(device, value, loose, UNREAD) for value in node.inputs]


def _fill(queue: Queue, node: Node, operands: Sequence[Operand], arrays: Sequence[np.ndarray | None], region: Region) -> None:
    """What that piece may read of the arrays."""
    for view, read, array in zip(operands, op_for(node).regions_read(node, region), arrays):
        if isinstance(view, TensorView):
            if read is not None:
                view.sub(read).array[...] = np.asarray(array)[read.slices]
            queue.upload(everything(view)).wait()


def run_pieces(device: Device, node: Node, arrays: Sequence[np.ndarray | None], regions: Sequence[Region],
               loose: bool = False) -> list[np.ndarray | None]:
    """Every output, merged from pieces compiled one by one into shared outputs; each piece sees only what it may read.

    Asserts that a piece writes inside its own regions only, and that nothing of the outputs' memory beside them changes.
    """
    op, queue = op_for(node), device.queue()
    try:
        outputs = [None if v is None else window(device, v, loose, UNWRITTEN) for v in node.outputs]
        for view in outputs:
            if view is not None:
                queue.upload(everything(view)).wait()
        inputs = [_inputs(device, node, loose) for _ in regions]
        kernels = [queue.compile(node, r, mine, outputs) for r, mine in zip(regions, inputs)]
        queue.seal()
        for kernel, region, mine in zip(kernels, regions, inputs):
            _fill(queue, node, mine, arrays, region)
            before = [None if v is None else v.buffer.host.copy() for v in outputs]
            event = kernel.start()
            queue.flush()
            event.wait()
            assert event.done
            for view, old, written in zip(outputs, before, op.output_regions(node, region)):
                if view is not None:
                    queue.download(everything(view)).wait()
                    _assert_untouched(view, old, written, f"{kernel.implementation} of {node} piece {region}")
        return [None if v is None else v.array.copy() for v in outputs]
    finally:
        queue.close()


def _assert_untouched(view: TensorView, before: np.ndarray, written: Region, what: str) -> None:
    touched = np.zeros(view.buffer.nbytes, bool)
    size = view.dtype.itemsize
    piece = view.sub(written)
    if written.size:
        index = np.full(written.shape, piece.offset_bytes, np.int64)
        for dim, stride in enumerate(view.strides):
            index += np.arange(written.shape[dim]).reshape([-1 if d == dim else 1 for d in range(len(written))]) * stride * size
        touched[(index.reshape(-1, 1) + np.arange(size)).ravel()] = True
    changed = (view.buffer.host != before) & ~touched
    assert not changed.any(), f"{what} wrote {changed.sum()} byte(s) outside {written}"


def run_on_device(device: Device, node: Node, arrays: Sequence[np.ndarray | None], region: Region | None = None,
                  loose: bool = False) -> list[np.ndarray | None]:
    """Every output of the piece `region` (default: the whole node), computed by one compiled kernel of the device."""
    region = Region.whole(node.output.shape) if region is None else region
    outputs = run_pieces(device, node, arrays, [region], loose)
    return [None if a is None else a[r.slices] for a, r in zip(outputs, op_for(node).output_regions(node, region))]


def cuts(node: Node, rng: np.random.Generator, limit: int = 3) -> Iterator[list[Region]]:
    """A few random legal cuts, each into two or three pieces, along different axes."""
    axes = [a for a in op_for(node).split_axes(node) if a.extent > a.multiple]
    for n, axis in enumerate(axes if len(axes) <= limit else [axes[i] for i in rng.permutation(len(axes))[:limit]]):
        points = np.arange(axis.multiple, axis.extent, axis.multiple)
        chosen = sorted(int(p) for p in rng.choice(points, min(len(points), 1 + n % 2), replace=False))
        yield pieces_along(node, axis, [0, *chosen, axis.extent])


def assert_on_device(device: Device, node: Node, arrays: Sequence[np.ndarray | None], ulps: float = 64, seed: int = 0,
                     limit: int = 3) -> None:
    """The whole node and random cuts of it, in tight and in loose memory, equal the operator's own meaning."""
    assert device.declines(node) is None, f"{node} is declined: {device.declines(node)}"
    rng = np.random.default_rng(seed)
    whole = Region.whole(node.output.shape)
    expected = compute_whole(node, arrays)
    runs = [([whole], False), ([whole], True), *((pieces, k % 2 == 0) for k, pieces in enumerate(cuts(node, rng, limit)))]
    for regions, loose in runs:
        found = run_pieces(device, node, arrays, regions, loose)
        for value, ours, theirs in zip(node.outputs, found, expected):
            if value is not None:
                assert_close(ours, theirs, f"{node}: {value} in pieces {list(map(str, regions))}, {'loose' if loose else 'tight'}", ulps)
