"""Pad in its four modes, and every other copy whose source index is a function of each coordinate by itself (Tile)."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import DeviceError
from ...ops.pad import pad_widths
from .builder import ClOperand, Compile, builds, ctype, int8
from .nd import MAX_RANK, as_bits, ndrange

_MODES = {"constant": {}, "reflect": {"REFLECT": 1}, "edge": {"EDGE": 1}, "wrap": {"WRAP": 1}}


@builds("Pad")
def build(c: Compile) -> None:
    mode = c.node.attr("mode", "constant")
    c.implementation = f"b{8 * c.node.output.dtype.itemsize}_pad_{mode}"
    value = c.input(2) if mode == "constant" and c.has(2) and c.node.operands[2].type.size else None
    mapped(c, mode, pad_widths(c.node), value)


def mapped(c: Compile, mode: str, widths: Sequence[tuple[int, int]], value: ClOperand | None = None) -> None:
    """Enqueues y[o] = x[map(o - before)] with the map of a Pad mode, along every axis that is not copied straight.

    `widths`: elements added before and after, for each axis; negative ones crop first, and the map sees what is left.
    """
    x, y, source = as_bits(c.input(0)), as_bits(c.output()), c.node.operands[0].shape
    read = c.in_regions[0]
    dims: list[tuple[int, ...]] = []  # innermost first: extent, x stride, y stride, is mapped, begin, whole extent, first, held
    for d in reversed(range(len(y.shape))):
        low, left = max(-widths[d][0], 0), source[d] - max(-widths[d][0], 0) - max(-widths[d][1], 0)
        begin, first = c.region[d].start - max(widths[d][0], 0), read[d].start - low
        straight = begin == first and y.shape[d] == read[d].size and begin + y.shape[d] <= left
        if straight and y.shape[d] == 1:
            continue
        row = (y.shape[d], x.strides[d], y.strides[d], not straight, begin, left, first, read[d].size)
        if straight and dims and not dims[-1][3] and row[1] == dims[-1][0] * dims[-1][1] and row[2] == dims[-1][0] * dims[-1][2]:
            dims[-1] = (dims[-1][0] * y.shape[d], *dims[-1][1:])
        else:
            dims.append(row)
    dims = dims or [(1, 1, 1, False, 0, 1, 0, 1)]
    if len(dims) > MAX_RANK:
        raise DeviceError("too many dimensions", where=c.where, found=len(dims), expected=f"at most {MAX_RANK}")
    shape, x_strides, y_strides, is_mapped, begin, extent, first, held = zip(*dims)
    size, local, steps = ndrange(c, shape, 1)
    mask = sum(1 << k for k, m in enumerate(is_mapped) if m)
    defines = {**_MODES[mode], "T": ctype(y.dtype), "RANK": len(dims), "MASK": mask,
               "MOVES": " ".join(f"MOVE_({k}, i{k})" for k in range(1, len(dims))), **({"VALUE": 1} if value is not None else {})}
    c.launch(["nd.clh", "pad.cl"], "pad", defines, size, local, x, int8(x_strides), y, int8(y_strides), int8(shape, 1), *steps,
             int8(begin), int8(extent, 1), int8(first), int8(held, 1), as_bits(value) if value is not None else None, numbers_last=True)
