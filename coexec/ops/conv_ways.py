"""Ways to make a dense convolution on a CPU, and what each takes: which one a piece takes is a rule that device and predictor share.

A cost is counted in multiply-adds of one lane of a vector, transforms, copies and reading weights included. What those cost beside the arithmetic was
fitted to convolutions timed each way (x86-64, vectors of 16 float32, 2026-11-28): by `python tools/bench_ways.py --every 5` the rule's choice takes
1.9 % longer than the best way in the mean on the CPU, 1.5 % on PoCL. A lane's share of what is done vector by vector does not depend on how wide
vectors are; what is done element by element is as many lanes' time.

Winograd's algorithms: Lavin and Gray, arXiv:1509.09308.

Shapes are of one image of a piece: ic input channels of a group, oc output channels, oh x ow outputs; all may be arrays. lanes: float32 elements of a
vector; rows: of a tile of the matrix kernels. Convolutions of very few channels, and depthwise ones, have kernels of their own and no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

#: Scalars, or integer arrays of one shape.
Count = Any
#: Pixels of the largest map whose pixels are a tile's rows.
MOST_PIXELS = 256
#: Winograd's algorithms: fewer channels than this on either side do not pay. What transforming a lane of an input or of an output channel costs at
#: each point, what reading a weight does, and how much slower products are that are one vector wide.
LEAST_CHANNELS, INPUT_COST, OUTPUT_COST, WEIGHT_COST, NARROW = 5, 45, 25, 18, 1.1
#: Pixels as a tile's rows: packing one of them from each channel and tap where they lie side by side, in runs as long as a tile, or anyhow (lanes'
#: worths).
SIDE_BY_SIDE, RUNS, ANYHOW = 28, 65, 9
#: Pixels as a tile's vectors, for each element of the weights: its arithmetic is slower by this factor, a strip of pixels costs so much once more,
#: copying or gathering a pixel so much, a row of outputs so many lanes' worths, reading the weight so much.
SLOWER, STRIP, COPY, GATHER, ROW, FAR_WEIGHT = 1.35, 26, 17, 23, 40, 34
#: The same of kernels whose work-items own a core: transforming inputs and outputs (by outputs along a tile's side) and reading a weight for a tile,
#: transforming inputs of blocks, gathering a pixel and reading a weight for a panel.
TILE_INPUT, TILE_OUTPUT, TILE_WEIGHT, BLOCK_INPUT, PANEL_PIXEL, PANEL_WEIGHT = {2: 8, 4: 18}, {2: 16, 4: 32}, 6, 50, 20, 12
#: Outputs along a side of a tile by Winograd's algorithm, for 3x3 kernels.
TILES = (2, 4)
#: Sides of the kernels that are made of 4x4 blocks; points of a block's tile, and how many blocks there are.
SIDES, POINTS, BLOCKS = (5, 6, 7, 8), 49, 4


def up(count: Count, multiple: Count) -> Count:
    return -(-count // multiple) * multiple


def tile_rows(pixels: Count, rows: int) -> Count:
    """Pixels of a tile of at most `rows`: that many or one less, whichever leaves fewer over; one where there is but one pixel."""
    short = max(1, rows - 1)
    return np.where(pixels == 1, 1, np.where(up(pixels, rows) <= up(pixels, short), rows, short))


def pixels_as_rows(ic: Count, oc: Count, oh: Count, ow: Count, taps: int, stride: int, lanes: int, rows: int) -> Count:
    """Tiles of pixels by vectors of output channels. Infinite for maps that are too large. taps, stride: of the window, and across."""
    pixels = oh * ow
    tall = tile_rows(pixels, rows)
    padded, vectors = up(pixels, tall), up(oc, lanes)
    in_runs = (ow % tall == 0) & (stride <= 2)
    pack = np.where(in_runs, RUNS, ANYHOW * lanes) if taps > 1 or stride > 1 else SIDE_BY_SIDE
    each = padded * (vectors * np.where(vectors == lanes, NARROW, 1.0) + pack) + WEIGHT_COST * vectors
    return np.where((pixels > 0) & (pixels <= MOST_PIXELS), ic * taps * each + OUTPUT_COST * oc * pixels, np.inf)


def pixels_as_vectors(ic: Count, oc: Count, oh: Count, ow: Count, taps: int, stride: int, lanes: int, rows: int) -> Count:
    """Tiles of output channels by vectors of pixels, gathered from every tap."""
    pixels, straight = oh * ow, taps == 1 and stride == 1
    padded, tall = up(pixels, lanes), up(oc, rows)
    gather = COPY * pixels if straight else GATHER * pixels + ROW * lanes * oh
    return ic * taps * (SLOWER * tall * padded + STRIP * up(padded, 3 * lanes) / (3 * lanes) * lanes + gather + FAR_WEIGHT * tall)


def by_winograd(m: int, ic: Count, oc: Count, oh: Count, ow: Count, lanes: int, rows: int) -> Count:
    """F(m x m, 3 x 3) of a 3x3 convolution of stride 1. Infinite where there are too few channels."""
    tiles, tall = up(up(oh, m) // m * (up(ow, m) // m), lanes), up(oc, rows)
    product = ic * tall * (tiles * np.where(tiles == lanes, NARROW, 1.0) + WEIGHT_COST)
    cost = (m + 2) ** 2 * (product + tiles * (INPUT_COST * ic + OUTPUT_COST * oc))
    return np.where(np.minimum(ic, oc) < LEAST_CHANNELS, np.inf, cost)


def by_blocks(ic: Count, oc: Count, oh: Count, ow: Count, lanes: int, rows: int) -> Count:
    """F(4 x 4, 4 x 4) of the four blocks of a larger kernel of stride 1. Infinite where there are too few channels."""
    tiles, tall = up(up(oh, 4) // 4 * (up(ow, 4) // 4), lanes), up(oc, rows)
    product = BLOCKS * ic * tall * (tiles * np.where(tiles == lanes, NARROW, 1.0) + WEIGHT_COST)
    cost = POINTS * (product + 2 * tiles * (INPUT_COST * ic + OUTPUT_COST * oc))
    return np.where(np.minimum(ic, oc) < LEAST_CHANNELS, np.inf, cost)


def by_tiles(m: int, ic: Count, oc: Count, tiles: Count, width: int, tile: tuple[Count, Count]) -> Count:
    """F(m x m, 3 x 3) of so many tiles on an OpenCL device whose work-items own a core. tile: rows and columns of what one makes at a time."""
    tall, products = up(oc, tile[0]), up(tiles, width)
    cost = products * (ic * tall + TILE_INPUT[m] * ic + TILE_OUTPUT[m] * oc) + TILE_WEIGHT * ic * tall * (up(tiles, tile[1]) // tile[1])
    return np.where(np.minimum(ic, oc) < LEAST_CHANNELS, np.inf, (m + 2) ** 2 * cost)


def by_block_tiles(across: Count, ic: Count, oc: Count, tiles: Count, width: int, tile: tuple[Count, Count]) -> Count:
    """`by_blocks` there; across: tiles in a row, of which `tiles` counts one more in each."""
    tall, products, panels = up(oc, tile[0]), up(tiles, width), up(tiles, tile[1]) // tile[1]
    inputs = products + panels * (across + 2)  # each panel transforms what the next row of tiles needs of it
    cost = products * (BLOCKS * ic * tall + TILE_OUTPUT[4] * oc) + inputs * BLOCK_INPUT * ic + TILE_WEIGHT * BLOCKS * ic * tall * panels
    return np.where(np.minimum(ic, oc) < LEAST_CHANNELS, np.inf, POINTS * cost)


def by_panels(ic: Count, oc: Count, pixels: Count, taps: int, width: int, tile: tuple[Count, Count]) -> Count:
    """A convolution there from panels of gathered pixels."""
    tall = up(oc, tile[0])
    return taps * ic * (up(pixels, width) * tall + PANEL_PIXEL * pixels + PANEL_WEIGHT * tall * (up(pixels, tile[1]) // tile[1]))


class Window(NamedTuple):
    """What the ways need to know of a convolution: (height, width) of its kernel, the larger of its strides, whether all of its strides and dilations
    are 1, and whether it has one group."""

    kernel: tuple[int, int]
    stride: int
    is_plain: bool
    is_dense: bool

    @classmethod
    def of(cls, kernel: tuple[int, int], strides: Sequence[int], dilations: Sequence[int], is_dense: bool) -> Window:
        return cls(kernel, max(strides), {*strides, *dilations} == {1}, is_dense)


def costs(ic: Count, oc: Count, oh: Count, ow: Count, window: Window, lanes: int, rows: int) -> dict[str, Count]:
    """What each way takes that there is: `vectors`, `rows`, `winograd2`, `winograd4`, `blocks`. Of equal ones the first is taken."""
    (kh, kw), shape = window.kernel, (ic, oc, oh, ow)
    directly = (*shape, kh * kw, window.stride, lanes, rows)
    found = {"vectors": pixels_as_vectors(*directly)}
    if window.is_dense:
        found["rows"] = pixels_as_rows(*directly)
        if window.is_plain and (kh, kw) == (3, 3):
            found |= {f"winograd{m}": by_winograd(m, *shape, lanes, rows) for m in TILES}
        elif window.is_plain and kh == kw and kh in SIDES:
            found["blocks"] = by_blocks(*shape, lanes, rows)
    return found


def least(ic: Count, oc: Count, oh: Count, ow: Count, window: Window, lanes: int, rows: int) -> Count:
    """What the best way takes."""
    return np.min(list(costs(ic, oc, oh, ow, window, lanes, rows).values()), axis=0)


def best(ic: int, oc: int, oh: int, ow: int, window: Window, lanes: int, rows: int) -> str:
    """The best way's name."""
    found = costs(ic, oc, oh, ow, window, lanes, rows)
    return min(found, key=lambda name: float(found[name]))
