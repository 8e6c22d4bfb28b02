"""ConvTranspose as convolutions of stride 1, one for each phase of the stride: no product is spread, nothing is added twice.

Output rows o with the same (o + pad) mod stride meet the same elements of the kernel. Each such phase is an implicit matrix product
into scratch memory, a band of rows at a time; the band's phases are then woven into the output.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ...ops.conv_transpose import conv_transpose_params
from .activations import activate
from .build import Piece, Program, builds
from .conv import conv_panels
from .jit import flat, inlined, kernel, rows_contiguous, strides
from .panels import DEPTH, NO_FLOATS, block_depth, pack_bias, pack_rows, round_up, tail_of
from .simd import LANES, PANEL, ROWS, load, store2

#: What a band of every phase may take (bytes).
BAND_BYTES = 512 * 1024


@builds("ConvTranspose")
def conv_transpose(piece: Piece) -> Program | None:
    """One or two spatial axes, one group, constant weights, no residual."""
    node, x, y = piece.node, piece.inputs[0], piece.outputs[0]
    if y.ndim not in (3, 4) or not piece.is_float32 or piece.constant(1) is None or node.residual:
        return None
    if not piece.absent(2) and piece.constant(2) is None:
        return None
    p = conv_transpose_params(node)
    if p.group != 1 or not rows_contiguous(x, y) or any(s < 0 for v in (x, y) for s in v.strides) or not x.size:
        return None
    w, out, mine = piece.inputs[1], [*piece.region[2:]], [*piece.regions[0][2:]]
    sizes, steps, spread, begins = (list(v) for v in (p.kernel, p.strides, p.dilations, p.pads_begin))
    if y.ndim == 3:
        x, y, w = x[:, :, None], y[:, :, None], w[:, :, None]
        sizes, steps, spread, begins = [1, *sizes], [1, *steps], [1, *spread], [0, *begins]
        out, mine = [type(out[0])(0, 1), *out], [type(out[0])(0, 1), *mine]
    axes = [_phases(*a) for a in zip(out, mine, sizes, steps, spread, begins)]
    (n, ic, h, width), oc, ow = x.shape, y.shape[1], y.shape[3]
    across = max(count for *_, count in axes[1])
    band = max(1, min(max(count for *_, count in axes[0]), BAND_BYTES // (4 * len(axes[0]) * len(axes[1]) * oc * across)))
    bias = None if piece.absent(2) else piece.inputs[2]

    def pack() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        phases = [(down, right) for _, down, *_ in axes[0] for _, right, *_ in axes[1]]
        starts = np.cumsum([0, *(round_up(oc, ROWS) * ic * len(down) * len(right) for down, right in phases)])
        panels = np.zeros(int(starts[-1]) + 1, np.float32)
        for (down, right), start, stop in zip(phases, starts, starts[1:]):
            part = np.ascontiguousarray(w[:, :, down][:, :, :, right].transpose(1, 0, 2, 3))
            piece.packed.later(pack_rows(part.reshape(oc, -1), panels[start:stop]))
        return panels, pack_bias(bias, oc), starts[:-1]

    key = "phases", tuple((start, tuple(taps)) for axis in axes for start, taps, *_ in axis), piece.region[1]
    a, packed_bias, starts = piece.packed.get(piece.values[1], key, pack)
    most = max(max(1, len(down) * len(right)) for _, down, *_ in axes[0] for _, right, *_ in axes[1])
    phases = np.array([[len(down), len(right), first_y, first_x, gap_y, gap_x, y0, x0, rows, columns]
                       for y0, down, first_y, gap_y, rows in axes[0] for x0, right, first_x, gap_x, columns in axes[1]], np.int64)
    plane = round_up(oc * band * across + LANES, LANES)
    scratch_floats = max(round_up(block_depth(t) * PANEL + PANEL + 2 * LANES, LANES) for t in range(1, most + 1))
    geometry = np.array([n, ic, h, width, oc, steps[0], steps[1], band, plane, scratch_floats, *strides(x)[:3], *strides(y)[:3], ow,
                         max(rows for *_, rows in axes[0])], np.int64)
    arrays = flat(x), a, packed_bias, flat(y), NO_FLOATS, starts, phases.reshape(-1)

    def bind(scratch: np.ndarray):
        return partial(transpose_phases, *arrays, scratch.view(np.float32), np.zeros((4 + 2 * sizes[1]) * PANEL, np.int64),
                       np.zeros(27, np.int64), geometry, *tail_of(node.activation))

    return Program("f32_convtranspose_phases", bind, 4 * (scratch_floats + len(phases) * plane))


def _phases(out, mine, size: int, step: int, spread: int, begin: int) -> list[tuple]:
    """Per phase of an axis: first output (within the piece), kernel elements in the order of the input rows they meet, the first of
    those rows (within the piece), their distance, and how many outputs there are."""
    found = []
    for first in range(min(step, out.size)):
        at = out.start + first + begin
        taps = [k for k in range(size - 1, -1, -1) if (at - k * spread) % step == 0]
        rows = [(at - k * spread) // step - mine.start for k in taps]
        gap = rows[1] - rows[0] if len(rows) > 1 else 1
        found.append((first, taps, rows[0] if rows else 0, gap, -(-(out.size - first) // step)))
    return found


@inlined
def weave(y, at, ow, s, even, odd):
    """A row of the output from the rows of two phases."""
    pairs = ow // 2
    whole = pairs // LANES * LANES
    for j in range(0, whole, LANES):
        store2(y, at + 2 * j, load(s, even + j), load(s, odd + j))
    for j in range(whole, pairs):
        y[at + 2 * j] = s[even + j]
        y[at + 2 * j + 1] = s[odd + j]
    if ow % 2:
        y[at + ow - 1] = s[even + pairs]


@kernel
def transpose_phases(x, a, bias, y, res, starts, phases, s, runs, g, t, kind, alpha, beta, low, high):
    n, ic, h, w, oc, step_y, step_x, band, plane, own = t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9]
    x_batch, x_channel, x_row, y_batch, y_channel, y_row, ow, most_rows = t[10], t[11], t[12], t[13], t[14], t[15], t[16], t[17]
    count = starts.size
    across = min(step_x, ow)
    for batch in range(n):
        for first in range(0, most_rows, band):
            for phase in range(count):
                p = 10 * phase
                rows = min(band, phases[p + 8] - first)
                if rows <= 0:
                    continue
                kh, kw, columns = phases[p], phases[p + 1], phases[p + 9]
                to = own + phase * plane
                if kh * kw == 0:
                    for c in range(oc):
                        for j in range(rows * columns):
                            s[to + c * rows * columns + j] = bias[c]
                        if kind != 0:
                            at = to + c * rows * columns
                            activate(s, at, rows * columns, s, at, kind, alpha, beta)
                        else:
                            for j in range(rows * columns):
                                v = s[to + c * rows * columns + j]
                                v = low if v < low else v
                                s[to + c * rows * columns + j] = high if v > high else v
                    continue
                taps = kh * kw
                g[0], g[1], g[2], g[3], g[4], g[5], g[6] = 1, 1, ic, h, w, kh, kw
                g[7], g[8], g[9], g[10] = 1, 1, phases[p + 4], phases[p + 5]
                g[11], g[12], g[13], g[14], g[15] = -phases[p + 2] - first, -phases[p + 3], oc, rows, columns
                g[16], g[17] = 1 if ic * taps <= DEPTH else 16, max(1, DEPTH // taps)
                g[18], g[19], g[20], g[21], g[22], g[23] = 0, x_channel, x_row, 0, rows * columns, columns
                g[24], g[25], g[26] = -1, -1, -1
                conv_panels(x[batch * x_batch:], a[starts[phase]:], bias, s[to:], res, s, runs, g, kind, alpha, beta, low, high)
            for c in range(oc):
                for r in range(band):
                    for py in range(count // across):
                        p = py * across
                        rows = min(band, phases[10 * p + 8] - first)
                        if r >= rows:
                            continue
                        o = phases[10 * p + 6] + (first + r) * step_y
                        at = batch * y_batch + c * y_channel + o * y_row
                        columns = phases[10 * p + 9]
                        if step_x == 2 and across == 2:
                            weave(y, at, ow, s, own + p * plane + (c * rows + r) * columns,
                                      own + (p + 1) * plane + (c * rows + r) * phases[10 * p + 19])
                        else:
                            for q in range(across):
                                x0, wide = phases[10 * (p + q) + 7], phases[10 * (p + q) + 9]
                                here = own + (p + q) * plane + (c * rows + r) * wide
                                for j in range(wide):
                                    y[at + x0 + j * step_x] = s[here + j]
