"""Which kernel a piece runs by, and what that kernel spends its time on: the same decisions as the devices', from shapes alone.

Every rule returns a Case: the kernel's name, its features (counts of what it loops over; a fit gives each a time), and the sizes that
a fit's correction may depend on. A planner has no device, so the rules are written a second time here; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..graph.ir import Node
from . import shapes
from .geometry import Array, Facts, Plain, Products, Windowed, up

M, K = 1e-6, 1e-3
#: Depth of a block of the inner dimension, and bytes of partial sums, in the CPU's matrix kernels.
DEPTH, SUMS_BYTES = 192, 256 << 10
#: A CPU piece of less than both stays on one thread.
SPLIT_FLOPS, SPLIT_BYTES = 1_000_000, 256 << 10
WINOGRAD_LEAST, WINOGRAD_BLOCK, BLOCKS_BAND = 16, 2 << 20, 6 << 20
#: Pixels of the largest small map, and output channels of the convolutions that are made straight from the input, on the CPU.
MOST_SMALL, MOST_FEW = 256, 4
#: What reading a weight costs the CPU in multiply-adds of one lane, and packing a pixel of a small map in those of one output channel.
WEIGHT_COST, PIXEL_COST = 16, 15
#: Outputs of a row that the CPU's kernel of narrow depthwise maps sums at a time.
LANES_WIDTH = 8
#: On the GPU: bytes of a strip, vectors and elements a work-item makes of it, bytes of a panel.
STRIP_BYTES, STRIP_VECTORS, STRIP_ITEM, PANEL_BYTES = 24 << 10, 4, 4096, 192 << 10
#: Activations that a clamp computes for nothing, and those of a few multiplications; all others take tens of operations.
_FREE, _CHEAP = {"Relu", "Clip"}, {"LeakyRelu", "HardSigmoid", "HardSwish"}


class Case(NamedTuple):
    """Pieces of one kernel. `at`: which of the pieces asked for; terms, sizes: arrays of one entry for each of them."""

    kernel: str
    at: Array
    terms: dict[str, Array]
    sizes: dict[str, Array]


def bound_by(kernel: str) -> str:
    """What a kernel's time is mostly spent on, `compute` or `memory`: what a busy neighbour slows down differs."""
    return "compute" if kernel.startswith(("conv/", "product/", "shape/")) and "depthwise" not in kernel else "memory"


#: Beginnings of kernels' names that do much the same by the same features, and so cost much the same.
_KIN = {"plain": ("plain/",), "rows": ("conv/depthwise_3", "conv/depthwise_5", "pool/maxpool_2", "pool/maxpool_3"),
        "planes": ("conv/depthwise_planes", "pool/maxpool_planes", "pool/averagepool_planes"),
        "strips": ("pool/maxpool_strip", "pool/averagepool_strip", "conv/conv_depthwise", "conv/conv_depthwise_any")}


def kin(kernel: str) -> str:
    """The group of kernels that a kernel is like; its own name where it is like no other."""
    return next((group for group, names in _KIN.items() if kernel.startswith(names)), kernel)


Parts = Sequence[tuple[Array, Array]]


def cases(node: Node, parts: Parts, unit: str, facts: Facts) -> Iterator[Case]:
    """The kernels that pieces of a native node run by on `cpu` or `gpu`. parts: (starts, stops) of pieces, int64 (pieces, rank) each.

    Within a part, pieces differ along one axis and lie in order, so that what changes in proportion need not be computed for each.
    """
    start, stop = (np.concatenate([p[i] for p in parts]) for i in (0, 1)) if len(parts) > 1 else parts[0]
    if not len(start):
        return
    others = shapes.sizes_of(node, start, stop) if facts.blocks else None
    if others is not None:
        name, told = others
        yield Case(name, np.arange(len(start)), shapes.terms(told, dict(facts.blocks)), shapes.sizes(told))
        return
    plain = all(v is None or v.dtype == np.float32 for v in (*node.inputs, *node.outputs)) and node.domain in ("", "coexec")
    rank, kind = len(node.output.shape), node.op_type
    weights = kind == "Conv" and node.inputs[1].is_constant and (node.operand(2) is None or node.operand(2).is_constant)
    if plain and weights and rank in (3, 4):
        g = Windowed(node, start, stop)
        found = (_cpu_conv if unit == "cpu" else _gpu_conv)(g, facts)
        size = g.n * g.oc * g.oh * g.ow
        flops, lines = size * (2.0 * g.icg * g.taps), g.n * g.oc
    elif plain and kind in ("MaxPool", "AveragePool") and rank in (3, 4) and len([o for o in node.outputs if o is not None]) == 1:
        g = Windowed(node, start, stop)
        found = _cpu_pool(g, facts, kind) if unit == "cpu" else _gpu_strip(g, facts, f"{kind.lower()}_strip")
        size = g.n * g.oc * g.oh * g.ow
        flops, lines = size * float(g.taps), g.n * g.oc
    elif plain and kind in ("Gemm", "MatMul") and min(len(v.shape) for v in node.inputs[:2]) > 1:
        p = Products(node, start, stop)
        found = (_cpu_product if unit == "cpu" else _gpu_product)(p, facts)
        size = p.rows * p.columns * p.count
        flops, lines = size * (2.0 * p.depth), p.rows * p.count
    else:
        p = Plain(node, parts)
        found = _plain(p, facts, node, unit)
        # What is fused behind has features of its own, and a clamp costs nothing.
        size, flops, lines = p.elements, p.flops - p.elements * (node.residual + (node.activation is not None)), p.rows
    tail = {"mflop": flops * M, **_tail(node, size, lines)}
    for case in found:
        every = len(case.at) == len(start)
        yield case._replace(terms={**case.terms, **(tail if every else {k: v[case.at] for k, v in tail.items()})})


def _tail(node: Node, size: Array, lines: Array) -> dict[str, Array]:
    found = {}
    kind = node.activation.kind if node.activation else None
    if node.residual:
        found["residual_melem"] = size * M
    if kind in _CHEAP:
        found |= {"cheap_melem": size * M, "cheap_lines_k": lines * K}
    elif kind is not None and kind not in _FREE:
        found |= {"slow_melem": size * M, "slow_lines_k": lines * K}
    return found


def _pick(case: Case, keep: Array) -> Case | None:
    at = np.flatnonzero(keep)
    if not len(at):
        return None
    every = len(at) == len(keep)

    def picked(told: dict[str, Array]) -> dict[str, Array]:
        whole = {k: v if np.shape(v) == keep.shape else np.broadcast_to(v, keep.shape) for k, v in told.items()}
        return whole if every else {k: v[at] for k, v in whole.items()}

    return Case(case.kernel, at, picked(case.terms), picked(case.sizes))


def _strips(columns: Array, lanes: int) -> tuple[Array, Array, Array, Array]:
    """How many strips of three, two and one vectors, and the columns of the last vector: two strips of two replace one of three and one."""
    vectors = up(columns, lanes)
    s1 = (vectors == 1) * 1
    s2 = np.where(vectors % 3 == 2, 1, np.where((vectors % 3 == 1) & (vectors > 1), 2, 0))
    return (vectors - s1 - 2 * s2) // 3, s2, s1, columns % lanes


def _last_strip(columns: Array, lanes: int) -> Array:
    """Columns of the last strip where it is not whole vectors (it is copied element by element), else 0."""
    vectors = up(columns, lanes)
    last = np.where(vectors % 3 == 0, 3, np.where((vectors % 3 == 1) & (vectors > 1), 2, vectors % 3))
    return np.where(columns % lanes == 0, 0, columns - (vectors - last) * lanes)


def _row_tiles(rows: Array, tile: int) -> tuple[Array, Array]:
    """Whole tiles of rows (what is more than half of one too), and the weight of the smaller tile that is left."""
    left = rows % tile
    return rows // tile + (left > tile // 2), np.where(left == 1, 0.3, np.where((left > 1) & (left <= tile // 2), 0.6, 0.0))


def _level(nbytes: Array, facts: Facts) -> Array:
    """0 where it stays in the first-level cache beside other data, 1 in the second, 2 beyond."""
    return (nbytes > 0.6 * facts.l1_bytes) * 1 + (nbytes > 0.7 * facts.l2_bytes)


def _beyond(nbytes: Array, facts: Facts, times: float = 0.5) -> Array:
    """Millions of bytes that are more than so many times the second-level cache: that part is not in it."""
    return np.maximum(0.0, nbytes - times * facts.l2_bytes) * M


# CPU


def _lanes_up(n: Array, lanes: int) -> Array:
    return up(n, lanes) * lanes


def _winograd_costs(g: Windowed, f: Facts, oc: Array, oh: Array, ow: Array) -> tuple[Array, Array, Array]:
    """What the CPU's rule compares: direct, m = 2, m = 4; infinite where there are too few channels."""
    def lanes(count: Array) -> Array:
        return _lanes_up(count, f.lanes) * np.where(count <= f.lanes, 1.5, 1.0)

    pixels = oh * ow
    directly = np.where((pixels <= MOST_SMALL) & (oc >= 2 * f.lanes), pixels, _lanes_up(pixels, f.lanes))
    found = [9.0 * (directly * (1 + 2 / np.maximum(oc, 1)) + 8)]
    few = np.minimum(g.icg, oc) < WINOGRAD_LEAST
    for m in (2, 4):
        cost = (m + 2) ** 2 * (lanes(up(oh, m) * up(ow, m)) * (1 + 14 / max(g.icg, 1) + 14 / np.maximum(oc, 1)) + 8)
        found.append(np.where(few, np.inf, cost))
    return tuple(found)  # type: ignore[return-value]


def _block_costs(g: Windowed, f: Facts, oc: Array, oh: Array, ow: Array) -> tuple[Array, Array]:
    """What the CPU's rule for larger kernels compares: direct, and by 4x4 blocks; infinite where there are too few channels."""
    pixels, tiles = oh * ow, up(oh, 4) * up(ow, 4)
    directly = np.where((pixels <= MOST_SMALL) & (oc >= 2 * f.lanes), pixels, _lanes_up(pixels, f.lanes))
    vectors = _lanes_up(tiles, f.lanes) * np.where(tiles <= f.lanes, 1.5, 1.0)
    cost = 49 * (vectors * (4 + 28 / max(g.icg, 1) + 28 / np.maximum(oc, 1)) + 4 * 8)
    few = np.minimum(g.icg, oc) < WINOGRAD_LEAST
    return g.taps * (directly * (1 + 2 / np.maximum(oc, 1)) + 8.0), np.where(few, np.inf, cost)


def _square(g: Windowed) -> bool:
    return (g.kh, g.kw) == (3, 3) and {g.sh, g.sw, g.dh, g.dw} == {1}


def _larger(g: Windowed) -> bool:
    return g.kh == g.kw and 5 <= g.kh <= 8 and {g.sh, g.sw, g.dh, g.dw} == {1}


def _largest(extent: Array, parts: int, align: int) -> Array:
    """The largest of near-equal shares at multiples of `align`."""
    return np.minimum(extent, up(up(extent, align), parts) * align)


def _conv_share(g: Windowed, f: Facts) -> tuple[Windowed, Array]:
    """The slowest thread's share of each piece, and where there is more than one."""
    flops = 2.0 * g.n * g.oc * g.pixels * g.icg * g.taps
    nbytes = 4.0 * (g.n * g.groups * g.icg * g.ih * g.iw + g.n * g.oc * g.pixels + g.oc * g.icg * g.taps)
    split = (flops >= SPLIT_FLOPS) | (nbytes >= SPLIT_BYTES)
    if f.threads == 1:
        return g, np.zeros(len(g.n), bool)
    grouped = g.ocg is not g.oc
    per = int(g.ocg[0]) if grouped else 1

    def cost(oc: Array, oh: Array) -> Array:
        pixels, padded = oh * g.ow, _lanes_up(oc, f.tile_rows)
        pairs = g.icg * padded
        each = g.taps * _lanes_up(pixels, f.lanes) * (1 + 2 / np.maximum(oc, 1))
        suits, sums = _small_maps(g, oc, pixels, f)
        each = np.where(suits, g.taps * sums / np.maximum(padded, 1) * (1 + PIXEL_COST / np.maximum(oc, 1)), each)
        if _square(g) and not grouped:
            each = np.min(_winograd_costs(g, f, oc, oh, g.ow), axis=0)
        elif _larger(g) and not grouped:
            each = np.min(_block_costs(g, f, oc, oh, g.ow), axis=0)
        return pairs * (g.n * each + WEIGHT_COST * g.taps)

    options = [(_largest(g.oc, f.threads, a * per), g.oh) for a in (1, *(() if grouped else (f.tile_rows,)))]
    options += [(g.oc, _largest(g.oh, f.threads, a)) for a in (1, 2, 4)]
    if g.icg == 1 and grouped:  # the first axis that can be cut fairly
        axes = [options[0], options[1]] if g.full_oc // per >= g.h // g.sh else [options[1], options[0]]
        fair = axes[0][0] * axes[0][1] * f.threads <= 1.15 * g.oc * g.oh
        oc, oh = (np.where(fair, axes[0][i], axes[1][i]) for i in (0, 1))
    else:
        best = np.argmin([cost(*o) for o in options], axis=0)
        oc, oh = (np.choose(best, [o[i] for o in options]) for i in (0, 1))
    return g.resized(np.where(split, oc, g.oc), np.where(split, oh, g.oh)), split


def _cpu_conv(g: Windowed, f: Facts) -> Iterator[Case]:
    g, woken = _conv_share(g, f)
    depthwise = (g.icg == 1) & (g.groups > 1)
    winograd = np.zeros(len(g.n), np.int64)
    if _square(g):
        costs = _winograd_costs(g, f, g.oc, g.oh, g.ow)
        winograd = np.where((g.groups == 1) & (np.minimum(g.icg, g.oc) >= WINOGRAD_LEAST), np.argmin(costs, axis=0), 0)
    elif _larger(g):
        directly, blocks = _block_costs(g, f, g.oc, g.oh, g.ow)
        winograd = np.where((g.groups == 1) & (blocks < directly), 3, 0)
    implicit = ~depthwise & (winograd == 0)
    if depthwise.any():
        narrow = depthwise & (g.ocg == 1) & (g.ow > LANES_WIDTH // 2) & (g.ow <= np.minimum(LANES_WIDTH, f.lanes // 2)) & (g.oc >= f.lanes)
        narrow &= (g.ow == g.full_ow) & (g.ih * g.iw >= f.lanes) & (g.dh == 1) & (g.dw == 1)
        if narrow.any():
            yield _pick(_cpu_lanes(g, f, woken), narrow)  # type: ignore[misc]
        strips = (g.kh, g.kw) in ((3, 3), (5, 5)) and {g.dh, g.dw} == {1} and (g.sh, g.sw) in ((1, 1), (2, 2))
        found = _cpu_rows(g, f, f"conv/depthwise_{g.kh}", woken) if strips else _cpu_planes(g, f, "conv/depthwise_planes", woken)
        if (depthwise & ~narrow).any():
            yield _pick(found, depthwise & ~narrow)  # type: ignore[misc]
    wide = (6 if f.lanes == 16 else 3) * f.lanes
    few = implicit & (g.groups == 1) & (g.oc <= MOST_FEW) & (g.taps > 1) & (g.sh == g.sw == 1) & (g.ow >= wide)
    if few.any():
        yield _pick(_cpu_few(g, f, woken, wide), few)  # type: ignore[misc]
    shallow = implicit & ~few & (g.groups == 1) & (g.icg <= MOST_FEW) & (g.taps > 1) & (g.icg * g.taps <= 512) & (g.ow >= f.lanes)
    if shallow.any():
        yield _pick(_cpu_shallow(g, f, woken), shallow)  # type: ignore[misc]
    few = few | shallow
    small = implicit & ~few & _small_maps(g, g.oc, g.pixels, f)[0]
    small &= (g.ow == g.full_ow) | (g.oh == 1)
    if small.any():
        yield _pick(_cpu_small(g, f, woken, _small_rows(g.pixels, f)), small)  # type: ignore[misc]
    implicit &= ~few & ~small
    for choice, m in ((1, 2), (2, 4)):
        if (winograd == choice).any():
            yield _pick(_cpu_winograd(g, f, m, woken), ~depthwise & (winograd == choice))  # type: ignore[misc]
    if (winograd == 3).any():
        yield _pick(_cpu_blocks(g, f, woken), ~depthwise & (winograd == 3))  # type: ignore[misc]
    if implicit.any():
        yield _pick(_cpu_implicit(g, f, woken), implicit)  # type: ignore[misc]


def _small_rows(pixels: Array, f: Facts) -> Array:
    """Pixels of a tile on small maps: a tile's rows or one less, whichever leaves fewer over; one where there is but one pixel."""
    tall, short = f.tile_rows, max(1, f.tile_rows - 1)
    return np.where(pixels == 1, 1, np.where(up(pixels, tall) * tall <= up(pixels, short) * short, tall, short))


def _small_maps(g: Windowed, oc: Array, pixels: Array, f: Facts) -> tuple[Array, Array]:
    """Where so many pixels leave less over as a tile's rows than as its vectors; and the sums, those of padding counted in, that this makes."""
    rows = _small_rows(pixels, f)
    sums = up(pixels, rows) * rows * _lanes_up(oc, f.lanes)
    others = _lanes_up(pixels, f.lanes) * _lanes_up(oc, f.tile_rows)
    return (g.groups == 1) & (oc >= 2 * f.lanes) & (pixels <= MOST_SMALL) & (sums <= 1.05 * others), sums


def _cpu_small(g: Windowed, f: Facts, woken: Array, rows: Array) -> Case:
    """Tiles of pixels by vectors of output channels."""
    depth = g.icg * g.taps
    tiles = up(g.pixels, rows)
    s3, s2, s1, _ = _strips(g.oc, f.lanes)
    steps = g.n * tiles * rows * depth * M
    weights = _lanes_up(g.oc, f.lanes) * depth * 4
    packed = g.n * tiles * rows * depth
    straight = g.taps == 1 and g.sh == g.sw == 1 and not g.padded
    runs = (not straight) and g.sw <= 2
    by_run = runs * (g.ow % rows == 0)
    terms = {
        "fixed": np.ones(len(tiles)), "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        "mb_weights": weights * M, "mb_weights_l3": weights * M * (weights > 0.7 * f.l2_bytes),
        "mb_pixels_l2": up(s3 + s2 + s1, 1) * packed * 4 * M * (f.tile_rows * min(depth, DEPTH) * 4 * tiles > 0.6 * f.l1_bytes),
        "out_melem": g.n * g.oc * g.pixels * M, "sums_melem": g.n * g.oc * g.pixels * (up(depth, DEPTH) - 1) * M,
        "mb_in": g.n * g.icg * g.ih * g.iw * 4 * M,
    }
    if straight:
        terms["pack_mtile"] = g.n * tiles * depth * M
    else:
        terms |= {"pack_run_mtile": g.n * tiles * depth * by_run * M, "pack_melem": packed * (1 - by_run) * M}
    sizes = {"oc": g.oc, "pixels": g.pixels, "depth": np.full(len(tiles), depth), "rows": rows}
    return Case("conv/small" if straight else "conv/small_columns", np.arange(len(tiles)), terms, sizes)


def _cpu_few(g: Windowed, f: Facts, woken: Array, wide: int) -> Case:
    """Few output channels: each element of the kernel is a shift of one padded plane."""
    depth, tiles = g.icg * g.taps, g.n * g.oh * up(g.ow, wide)
    copied = g.n * g.icg * (g.oh + (g.kh - 1) * g.dh) * (g.ow + (g.kw - 1) * g.dw + f.lanes)
    terms = {
        "fixed": np.ones(len(tiles)), "woken": woken * 1.0, "shift_m": tiles * depth * M, "sum_m": tiles * depth * g.oc * M,
        "tiles_k": tiles * K, "out_melem": g.n * g.oc * g.pixels * M, "mb_copied": copied * 4 * M, "rows_k": g.n * g.icg * g.ih * K,
    }
    return Case("conv/few", np.arange(len(tiles)), terms, {"oc": g.oc, "pixels": g.pixels, "depth": np.full(len(tiles), depth), "ow": g.ow})


def _cpu_shallow(g: Windowed, f: Facts, woken: Array) -> Case:
    """Few input channels: matrix tiles read the shifts of padded planes, row by row of the output."""
    depth = g.icg * g.taps
    blocks, partial = _row_tiles(g.oc, f.tile_rows)
    s3, s2, s1, rest = _strips(g.ow, f.lanes)
    steps = g.n * g.oh * (blocks + partial) * depth * M
    pitch = _lanes_up(g.ow, f.lanes) + (g.kw - 1) * g.dw // g.sw + f.lanes
    band = np.clip((256 << 10) // (4 * g.icg * g.sw * pitch) // g.sh, 1, np.maximum(1, g.oh))
    rows = g.n * g.icg * (g.oh * g.sh + up(g.oh, band) * ((g.kh - 1) * g.dh + 1))
    terms = {
        "fixed": np.ones(len(g.n)), "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        f"copy{min(g.sw, 3)}_mvec": rows * g.sw * up(g.iw, f.lanes * g.sw) * M, "in_rows_k": rows * g.sw * K,
        "mb_out": g.n * g.oc * g.pixels * 4 * M, "edge_melem": g.n * g.oc * g.oh * rest * M,
    }
    sizes = {"oc": g.oc, "oh": g.oh, "ow": g.ow, "depth": np.full(len(g.n), depth), "stride": np.full(len(g.n), g.sw)}
    return Case("conv/shallow", np.arange(len(g.n)), terms, sizes)


def _cpu_rows(g: Windowed, f: Facts, kernel: str, woken: Array) -> Case:
    """Straight from the input, down strips of one vector of columns: each input row is read once."""
    images, vectors = g.n * g.oc, up(g.ow, f.lanes)
    nbytes = images * (g.ih * g.iw + g.pixels) * 4
    inner = np.maximum(0, (g.w - g.left) // (g.sw * f.lanes) - 1)
    edges = np.maximum(0, vectors - np.minimum(inner, vectors))
    terms = {
        "fixed": np.ones(len(images)), "woken": woken * 1.0, "images_k": images * K, "strips_k": images * vectors * K,
        f"in{g.sw}_mvec": images * vectors * g.ih * M, f"edge{g.sw}_mvec": images * edges * g.ih * M,
        "out_mvec": images * vectors * g.oh * M, "partial_m": images * g.oh * (g.ow % f.lanes > 0) * M,
        "narrow_m": images * g.oh * (g.ow < f.lanes) * M, "mb": nbytes * M, "mb_l3": nbytes * (nbytes > 0.7 * f.l2_bytes) * M,
        "mb_beyond": _beyond(nbytes, f), "mb_far": _beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "stride": np.full(len(images), g.sw), "bytes": nbytes}
    return Case(kernel, np.arange(len(images)), terms, sizes)


def _cpu_lanes(g: Windowed, f: Facts, woken: Array) -> Case:
    """Narrow maps of depthwise filters: lanes are channels, turned on the way in and out; LANES_WIDTH sums of a row at a time."""
    groups = g.n * up(g.oc, f.lanes)
    turned = up(g.ih * g.iw, f.lanes) + up(g.pixels, f.lanes)
    nbytes = g.n * g.oc * (g.ih * g.iw + g.pixels) * 4
    rows = np.minimum(g.oh * g.kh, g.ih * up(g.kh, g.sh))  # of the kernel, those that lie inside
    terms = {
        "fixed": np.ones(len(groups)), "woken": woken * 1.0, "groups_k": groups * K, "turn_k": groups * turned * K, "place_m": groups * g.ih * g.iw * M,
        "fma_mvec": groups * rows * g.kw * LANES_WIDTH * M, "rows_k": groups * g.oh * K, "mb": nbytes * M,
        "mb_l3": nbytes * (nbytes > 0.7 * f.l2_bytes) * M, "mb_beyond": _beyond(nbytes, f),
    }
    sizes = {"images": g.n * g.oc, "oh": g.oh, "ow": g.ow, "taps": np.full(len(groups), g.taps), "stride": np.full(len(groups), g.sw)}
    return Case("conv/depthwise_lanes", np.arange(len(groups)), terms, sizes)


def _cpu_implicit(g: Windowed, f: Facts, woken: Array) -> Case:
    rows, depth = g.ocg, g.icg * g.taps
    blocks, partial = _row_tiles(rows, f.tile_rows)
    padded = up(rows, f.tile_rows) * f.tile_rows
    one = (g.ow == g.full_ow) | (g.oh == 1)
    pixels = np.where(one, g.pixels, g.ow)
    outer = g.n * g.groups * np.where(one, 1, g.oh)
    s3, s2, s1, rest = _strips(pixels, f.lanes)
    strips = s3 + s2 + s1
    whole = rest == 0
    unit = max(1, DEPTH // g.taps)
    kblocks = up(g.icg, unit)
    steps = (blocks + partial) * depth * outer * M
    block_bytes = padded * min(depth, unit * g.taps) * 4
    level = _level(block_bytes, f)
    stream = outer * strips * padded * depth * 4 * M
    group = np.where(kblocks == 1, 1, np.clip(SUMS_BYTES // (padded * f.panel * 4), 1, 16))
    weights = padded * depth * 4
    passes = np.where(weights > 0.7 * f.l2_bytes, up(strips, group), 1)
    vectors = (s3 * 3 + s2 * 2 + s1) * outer
    edge = outer * np.where(whole, 0, rest) * rows
    terms = {
        "fixed": np.ones(len(g.n)), "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        "mb_weights_l2": stream * (level == 1), "mb_weights_l3": stream * (level == 2), "mb_cold": weights * g.groups * passes * M,
        "edge_melem": edge * M, "mb_out": g.n * g.oc * g.pixels * 4 * M, "mb_sums": g.n * g.oc * g.pixels * (kblocks - 1) * 4 * M,
        "mb_in": g.n * g.groups * g.icg * g.ih * g.iw * 4 * M,
    }
    sizes = {"rows": rows, "pixels": pixels, "depth": np.full(len(rows), depth), "outer": outer, "ow": g.ow}
    if g.taps == 1 and g.sh == g.sw == 1 and not g.padded:
        terms |= {"copy_mvec": depth * vectors * M, "copy_melem": depth * outer * _last_strip(pixels, f.lanes) * M}
        return Case("conv/pointwise", np.arange(len(rows)), terms, sizes)
    runs = outer * np.where(one, strips + g.oh - 1, strips)
    name = f"gather{min(g.sw, 3)}_mvec"
    moved = depth * (outer * pixels / f.lanes + 0.5 * runs) * (f.lanes if g.sw > 2 else 1)
    terms |= {name: moved * M, "runs_m": depth * runs * M}
    sizes |= {"taps": np.full(len(rows), g.taps), "stride": np.full(len(rows), g.sw)}
    return Case("conv/pointwise_strided" if g.taps == 1 else "conv/columns", np.arange(len(rows)), terms, sizes)


def _cpu_winograd(g: Windowed, f: Facts, m: int, woken: Array) -> Case:
    points, ic, oc = (m + 2) ** 2, g.icg, g.oc
    padded = up(oc, f.tile_rows) * f.tile_rows
    across, down = up(g.ow, m), up(g.oh, m)
    tiles = across * down
    full = np.maximum(f.panel, WINOGRAD_BLOCK // (4 * points * (ic + padded)) // f.panel * f.panel)
    blocks = np.maximum(1, np.rint(tiles / full)).astype(np.int64)
    block = _lanes_up(up(tiles, blocks), 1)
    block = np.where(blocks > 1, up(block, f.panel) * f.panel, _lanes_up(block, f.lanes))
    blocks = up(tiles, block)
    last = _lanes_up(tiles - (blocks - 1) * block, f.lanes)
    a3, a2, a1, _ = _strips(block, f.lanes)
    b3, b2, b1, _ = _strips(last, f.lanes)
    s3, s2, s1 = (a * (blocks - 1) + b for a, b in ((a3, b3), (a2, b2), (a1, b1)))
    steps = g.n * points * ic * (padded // f.tile_rows) * M
    done = (block * (blocks - 1) + last) / f.lanes
    runs = down + blocks - 1
    run = tiles / runs
    held = 4 * points * (ic + padded) * block
    traffic = g.n * points * (ic + padded) * done * f.lanes * 4 * M
    weights = points * padded * ic * 4
    terms = {
        "fixed": np.ones(len(oc)), "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        "in_mvec": g.n * ic * done * M, "in_rows_mvec": g.n * ic * runs * up(run * m + 2, f.lanes) * (m + 2) * M,
        "out_mvec": g.n * oc * done * M, "out_rows_mvec": g.n * oc * runs * m * up(run * m, f.lanes) * M,
        "runs_m": g.n * (ic + oc) * runs * M, "mb_between": traffic, "mb_between_l3": traffic * (held > 0.8 * f.l2_bytes),
        "mb_cold": weights * M * np.where(weights > 0.7 * f.l2_bytes, blocks, 1),
        "mb_in": g.n * ic * g.ih * g.iw * 4 * M, "mb_out": g.n * oc * g.pixels * 4 * M,
    }
    return Case(f"conv/winograd{m}", np.arange(len(oc)), terms, {"oc": oc, "ic": np.full(len(oc), ic), "tiles": tiles, "ow": g.ow, "n": g.n})


def _cpu_blocks(g: Windowed, f: Facts, woken: Array) -> Case:
    """Winograd by 4x4 blocks of the kernel: bands of rows of tiles, 49 products of four times the depth."""
    ic, oc, ones = g.icg, g.oc, np.ones(len(g.oc))
    padded = up(oc, f.tile_rows) * f.tile_rows
    across, down = up(g.ow, 4), up(g.oh, 4)
    bands = np.maximum(1, np.rint(49 * 4 * (ic * (across + 1) + padded * across) * down / BLOCKS_BAND)).astype(np.int64)
    band = up(down, bands)
    bands = up(down, band)
    a3, a2, a1, _ = _strips(band * across, f.lanes)
    b3, b2, b1, _ = _strips((down - (bands - 1) * band) * across, f.lanes)
    s3, s2, s1 = (a * (bands - 1) + b for a, b in ((a3, b3), (a2, b2), (a1, b1)))
    steps = g.n * 49 * 4 * ic * (padded // f.tile_rows) * M
    done = s3 * 3 + s2 * 2 + s1
    rows = down + bands
    weights = 49 * 4 * padded * ic * 4
    terms = {
        "fixed": ones, "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        "in_mvec": g.n * ic * rows * up(across + 1, f.lanes) * M, "in_rows_mvec": g.n * ic * rows * up(4 * across + 7, f.lanes) * M,
        "gather_mvec": g.n * 49 * 4 * ic * down * up(across, f.lanes) * M, "gather_runs_m": g.n * 49 * 4 * ic * (down + s3 + s2 + s1) * M,
        "out_mvec": g.n * oc * done * M, "out_rows_mvec": g.n * oc * g.oh * up(g.ow, f.lanes) * M,
        "mb_between": g.n * 49 * (ic + padded) * done * f.lanes * 4 * M, "mb_cold": g.n * weights * bands * M,
        "mb_in": g.n * ic * g.ih * g.iw * 4 * M, "mb_out": g.n * oc * g.pixels * 4 * M,
    }
    sizes = {"oc": oc, "ic": np.full(len(oc), ic), "tiles": across * down, "ow": g.ow, "n": g.n}
    return Case("conv/winograd_blocks", np.arange(len(oc)), terms, sizes)


def _cpu_planes(g: Windowed, f: Facts, name: str, woken: Array) -> Case:
    images, vectors = g.n * g.oc, up(g.ow, f.lanes)
    rows = (g.oh - 1) * g.sh + (g.kh - 1) * g.dh + 1
    pitch = _lanes_up(g.ow, f.lanes) + (g.kw - 1) * g.dw // g.sw + f.lanes
    plane = 4 * rows * pitch * g.sw
    per_row = up(g.iw, f.lanes) if g.sw == 1 else 2 * up(up(g.iw, 2), f.lanes) if g.sw == 2 else g.iw
    fma = images * g.oh * vectors * g.taps
    nbytes = images * (g.ih * g.iw / max(1, 1) + g.pixels) * 4
    terms = {
        "fixed": np.ones(len(images)), "woken": woken * 1.0, "images_k": images * K, "in_rows_k": images * g.ih * g.sw * K,
        f"copy{min(g.sw, 3)}_mvec": images * g.ih * per_row * M, "fma_mvec": fma * M, "out_mvec": images * g.oh * vectors * M,
        "out_rows_k": images * g.oh * K, "partial_m": images * g.oh * (g.ow % f.lanes > 0) * M, "fma_l2_mvec": fma * (plane > 0.8 * f.l1_bytes) * M,
        "mb": nbytes * M, "mb_l3": nbytes * (nbytes > 0.7 * f.l2_bytes) * M, "mb_beyond": _beyond(nbytes, f),
        "mb_far": _beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    return Case(name, np.arange(len(images)), terms, sizes)


def _cpu_pool(g: Windowed, f: Facts, kind: str) -> Iterator[Case]:
    woken = np.zeros(len(g.n), bool)
    if f.threads > 1:
        woken = 4.0 * g.n * g.oc * (g.ih * g.iw + g.pixels) >= SPLIT_BYTES
        g = g.resized(np.where(woken, up(g.oc, f.threads), g.oc), g.oh)
    direct = kind == "MaxPool" and (g.kh, g.sh) in ((3, 1), (3, 2), (2, 2)) and (g.kw, g.sw, g.dh, g.dw) == (g.kh, g.sh, 1, 1)
    yield _cpu_rows(g, f, f"pool/maxpool_{g.kh}", woken) if direct else _cpu_planes(g, f, f"pool/{kind.lower()}_planes", woken)


def _cpu_product(p: Products, f: Facts) -> Iterator[Case]:
    woken = np.zeros(len(p.rows), bool)
    if f.threads > 1:
        flops = 2.0 * p.rows * p.columns * p.count * p.depth
        nbytes = 4.0 * (p.rows * p.depth * p.count + p.columns * p.depth * (1 if p.flat_b else p.count) + p.rows * p.columns * p.count)
        woken = (flops >= SPLIT_FLOPS) | (nbytes >= SPLIT_BYTES)
        dims = [p.rows, p.columns, p.count]
        first = np.argmax(dims, axis=0)
        shares = [np.where(woken & (first == i), up(d, f.threads), d) for i, d in enumerate(dims)]
        p = p.resized(*shares)
    rows, columns, count, depth = p.rows, p.columns, p.count, p.depth
    left = rows % f.tile_rows
    blocks, partial = _row_tiles(rows, f.tile_rows)
    blocks = blocks + np.where(left == 1, 0, partial)
    s3, s2, s1, rest = _strips(columns, f.lanes)
    strips = s3 + s2 + s1
    whole = rest == 0
    padded = up(rows, f.tile_rows) * f.tile_rows
    stream = count * strips * padded * depth * 4 * M
    level = _level(padded * min(depth, DEPTH) * 4, f)
    kblocks = up(depth, DEPTH)
    b = columns * depth * (1 if p.flat_b else count) * 4.0
    edge = count * np.where(whole, 0, rest) * rows
    steps = depth * count * M
    terms = {
        "fixed": np.ones(len(rows)), "woken": woken * 1.0, "mtile3": steps * blocks * s3, "mtile2": steps * blocks * s2,
        "mtile1": steps * blocks * s1, "mrow": steps * (left == 1) * (s3 * 3 + s2 * 2 + s1), "mb_rows_l2": stream * (level == 1),
        "mb_rows_l3": stream * (level == 2), "mb_b": b * M, "mb_b_l3": b * M * (b > 0.7 * f.l2_bytes), "edge_melem": edge * M,
        "mb_out": rows * columns * count * 4 * M, "mb_sums": rows * columns * count * (kblocks - 1) * 4 * M, "matrices_k": count * K,
        "bias_melem": rows * columns * count * M * p.biased,
    }
    if not p.a_fixed:
        terms["pack_rows_melem"] = rows * depth * count * M
    if not p.b_fixed:
        slowly = columns if p.b_turned else _last_strip(columns, f.lanes)
        terms["pack_mvec"] = depth * count * (columns - slowly) / f.lanes * M
        terms["pack_melem"] = depth * count * slowly * M
    sizes = {"rows": rows, "columns": columns, "depth": np.full(len(rows), depth), "count": count}
    yield Case("product/strips" if p.b_fixed else "product/packed", np.arange(len(rows)), terms, sizes)


# GPU


@lru_cache(maxsize=8)
def _gpu_shapes(registers: int, rows: int = 0) -> tuple[tuple[int, int], ...]:
    """(rows, vectors) of the register tiles that are compiled; of so many rows alone where that is said."""
    if rows:
        return tuple((rows, v) for v in range(1, 5) if v == 1 or rows * v + v + 1 <= registers)
    shapes = []
    for vectors in range(1, 5):
        fits = [r for r in (1, 4, 6, 8, 12) if r * vectors + vectors + 1 <= registers]
        shapes += [(r, vectors) for r in dict.fromkeys((fits[-1], *([4, 1] if vectors == 4 else [])) if fits else ()) if r in fits]
    return tuple(shapes)


def _gpu_step(rows: Array, vectors: Array) -> Array:
    return np.maximum(rows * vectors, 8) / 2 + rows / 10 + vectors * vectors / 16 + 0.5


def _gpu_tile(rows: Array, columns: Array, f: Facts, most: Any = 4, common: Array | None = None) -> tuple[Array, Array]:
    """(rows, vectors) of the register tile with the fewest cycles, of at most so many vectors. common: which pieces have the CPU's rows."""
    registers = 16 if f.gpu_width == 8 else 32
    own = _best_tile(_gpu_shapes(registers), rows, columns, f, most)
    if common is None or not common.any():
        return own
    theirs = _best_tile(_gpu_shapes(registers, f.common_rows), rows, columns, f, most)
    return np.where(common, theirs[0], own[0]), np.where(common, theirs[1], own[1])


def _best_tile(shapes: Sequence[tuple[int, int]], rows: Array, columns: Array, f: Facts, most: Any) -> tuple[Array, Array]:
    wide = up(np.maximum(columns, 1), f.gpu_width)
    cycles = []
    for tall, vectors in shapes:
        full, rest = wide // vectors, wide % vectors
        last = np.where(rest > 0, _gpu_step(tall, rest if vectors < 4 else vectors), 0)
        cycles.append(np.where(vectors <= np.maximum(most, 1), up(rows, tall) * (full * _gpu_step(tall, vectors) + last), np.inf))
    best = np.argmin(cycles, axis=0)
    return np.array([t for t, _ in shapes])[best], np.array([v for _, v in shapes])[best]


def _strip_elements(g: Windowed, height: Array, width: Array, columns: Array, w: int) -> Array:
    rows = np.minimum(height, (columns - 2) // width + 2)
    phase = ((width - 1) * g.sw + (g.kw - 1) * g.dw) // g.sw + 1 + w
    single = ((np.minimum(columns, width) - 1) * g.sw + (g.kw - 1) * g.dw) // g.sw + 1 + w
    high = (g.kh - 1) * g.dh + 1
    crossing = np.where((width % columns > 0) | ((height == 1) & (width < columns)), ((rows - 1) * g.sh + high) * phase, 0)
    return np.maximum(np.where(height > 1, crossing, 0), high * single) * g.sw + w


def _in_common(g: Windowed, f: Facts) -> tuple[Array, Array]:
    """Which pieces read the weights that the CPU packs for the other rows of a map; and which of them as strips of channels, as small maps have
    them, of which a tile's rows are a part only.
    """
    if not f.common_rows:
        return (np.zeros(len(g.n), bool),) * 2
    common = (g.oc == g.full_oc) & ((g.oh < g.full_oh) | (g.ow < g.full_ow)) & (g.ocg >= f.common_rows)
    lanes, rows, left = f.gpu_width, f.common_rows, np.maximum(g.full_oh - g.oh, 0)
    host, pixels = replace(f, lanes=lanes, tile_rows=rows), left * g.ow
    padded = np.minimum(up(pixels, rows) * rows, np.where(pixels == 1, 1, up(pixels, rows - 1) * (rows - 1))) * _lanes_up(g.oc, lanes)
    strips = common & (g.groups == 1) & (g.ow == g.full_ow) & (g.oc >= 2 * lanes) & (pixels > 0) & (pixels <= MOST_SMALL)
    strips &= padded <= 1.05 * _lanes_up(pixels, lanes) * up(g.oc, rows) * rows
    if _square(g) and strips.any():
        strips &= np.argmin(_winograd_costs(g, host, g.oc, left, g.ow), axis=0) == 0
    return common, strips & (not _larger(g))


def _gpu_winograd(g: Windowed, f: Facts, common: Array) -> dict[str, Array]:
    across, down, w, ic = up(g.ow, 4), up(g.oh, 4), f.gpu_width, g.icg
    tiles = across * down
    freq = 36 * 4 * ic * w
    staged = freq > f.local_bytes * 3 // 4
    rows, vectors = _gpu_tile(g.ocg, tiles, f, 3 if staged else max(1, min(3, f.local_bytes // 2 // max(freq, 1))), common)
    columns = vectors * w
    tile_rows = np.minimum(down, (columns - 2) // across + 2)
    strip = 4 * np.where(down == 1, np.minimum(across, columns), across) + 4 * (1 + w)
    local = 4 * (36 * rows * columns + w) + 4 * 16 * columns + 4 * ((tile_rows - 1) * 4 + 6) * strip + 4 * w
    return {"rows": rows, "vectors": vectors, "columns": columns, "panels": up(tiles, columns), "tiles": tiles, "across": across,
            "staged": np.full(len(g.n), staged), "bytes": local + (0 if staged else freq * vectors), "strip_rows": (tile_rows - 1) * 4 + 6}


def _gpu_conv(g: Windowed, f: Facts) -> Iterator[Case]:
    depthwise = (g.icg == 1) & (g.ocg == 1) & (g.groups > 1)
    if depthwise.any():
        small = max(g.kh, g.kw) <= 5 and max(g.sh, g.sw) <= 2 and {g.dh, g.dw} == {1}
        if f.local_bytes and small:
            yield _pick(_gpu_rows(g, f), depthwise)  # type: ignore[misc]
        elif f.local_bytes:
            for case in _gpu_strip(g, f, "conv_depthwise" if g.taps == 9 else "conv_depthwise_any"):
                yield _pick(case, depthwise)  # type: ignore[misc]
        else:
            yield _pick(_gpu_loops(g, f, "conv_items"), depthwise)  # type: ignore[misc]
    rest = ~depthwise
    if not rest.any():
        return
    if not f.local_bytes:
        yield _pick(_gpu_loops(g, f, "conv_tiled"), rest)  # type: ignore[misc]
        return
    depth = g.icg * g.taps
    flat = (g.taps == 1) & (g.sh == g.sw == 1) & (not g.padded) & (g.ow == g.full_ow)
    height, width = np.where(flat, 1, g.oh), np.where(flat, g.pixels, g.ow)
    common, strips = _in_common(g, f)
    rows, vectors = _gpu_tile(g.ocg, g.pixels, f, 4, common)
    columns = vectors * f.gpu_width
    step = 4 * g.taps * columns
    unit = np.where(step * g.icg <= PANEL_BYTES, g.icg, np.maximum(1, PANEL_BYTES // step))
    unit = up(g.icg, up(g.icg, unit))
    sums = np.where(unit < g.icg, 4 * up(g.ocg, rows) * rows * columns, 64)
    fits = unit * step + 4 * (f.gpu_width + _strip_elements(g, height, width, columns, f.gpu_width)) + sums <= f.local_bytes
    vector = fits & flat & (g.groups == 1) & (g.full_oh * g.full_ow == 1)
    if (rest & vector).any():
        for case in _gpu_product(Products.of_vectors(g.n, g.oc, int(g.icg)), f):
            yield _pick(case, rest & vector)  # type: ignore[misc]
        rest &= ~vector
        if not rest.any():
            return
    direct = fits & (g.ocg == 1) & (depth < 8)
    winograd = np.zeros(len(g.n), bool)
    if _square(g):
        cut = _gpu_winograd(g, f, common)
        products = g.icg * g.ocg
        ours = cut["panels"] * cut["vectors"] * (18 * products + 250 * (g.icg + g.ocg))
        winograd = fits & ~direct & (np.minimum(g.icg, g.ocg) >= WINOGRAD_LEAST) & (cut["bytes"] <= f.local_bytes)
        winograd &= ours < 0.9 * up(g.pixels, f.gpu_width) * 5 * products
        for staged in (False, True):
            if (winograd & (cut["staged"] == staged)).any():
                yield _pick(_gpu_winograd_case(g, f, cut), rest & winograd & (cut["staged"] == staged))  # type: ignore[misc]
    for name, keep in (("conv_direct", direct), ("conv_tiled", ~fits)):
        if (rest & keep).any():
            yield _pick(_gpu_loops(g, f, name), rest & keep)  # type: ignore[misc]
    keep = rest & fits & ~direct & ~winograd
    if keep.any():
        yield _pick(_gpu_panel(g, f, flat, rows, vectors, up(g.icg, unit), strips), keep)  # type: ignore[misc]


def _gpu_panel(g: Windowed, f: Facts, flat: Array, rows: Array, vectors: Array, blocks: Array, strips: Array) -> Case:
    depth, w = g.icg * g.taps, f.gpu_width
    columns, stacks = vectors * w, g.n * g.groups
    panels = up(g.pixels, columns)
    tiles = up(g.ocg, rows)
    steps = stacks * panels * tiles * depth * M
    width, height = np.where(flat, g.pixels, g.ow), np.where(flat, 1, g.oh)
    weights = tiles * rows * depth * 4
    level = _level(weights, f)
    stream = stacks * panels * weights * M
    # A panel that lies in one row, away from padding, is loaded directly; the others go through a strip, element by element.
    direct = np.where((g.sw == 1) & (width >= columns), np.where(flat, 1.0, np.maximum(0, width // columns - (2 if g.padded else 0))
                                                                 * height / panels), 0.0)
    crossing = np.minimum(height, up(columns, width) + (width % columns > 0))
    strip_rows = (crossing - 1) * g.sh + (g.kh - 1) * g.dh + 1
    strip_row = np.where(crossing > 1, width, np.minimum(columns, width)) * g.sw + g.kw
    indirect = stacks * panels * (1 - direct) * g.icg
    lanes_left = (g.pixels % columns > 0) * stacks * g.ocg * (g.pixels % columns)
    terms = {
        "fixed": np.ones(len(panels)), "panels_k": stacks * panels * K,
        "fma_m": steps * rows * vectors, "step_m": steps, "row_step_m": steps * rows, "common_step_m": steps * strips,
        "mb_weights_l2": stream * (level == 1), "mb_weights_l3": stream * (level == 2), "mb_cold": g.groups * weights * M,
        "panel_mvec": stacks * panels * depth * vectors * M, "strip_melem": indirect * strip_rows * strip_row * M,
        "strip_rows_m": indirect * strip_rows * g.sw * M, "taps_m": indirect * g.taps * crossing * M,
        "out_mvec": stacks * panels * g.ocg * vectors * M, "partial_melem": lanes_left * M,
        "sums_mvec": stacks * panels * tiles * rows * vectors * (blocks - 1) * M,
        "mb_in": stacks * g.icg * g.ih * g.iw * 4 * M, "mb_out": g.n * g.oc * g.pixels * 4 * M,
    }
    sizes = {"oc": g.ocg, "depth": np.full(len(panels), depth), "pixels": g.pixels, "width": width, "tile": rows * vectors}
    if g.taps == 1 and g.sw == 1:
        return Case("conv/panel_pointwise", np.arange(len(panels)), terms, {**sizes, "stacks": stacks})
    sizes |= {"taps": np.full(len(panels), g.taps), "stride": np.full(len(panels), g.sw)}
    return Case("conv/panel", np.arange(len(panels)), terms, {**sizes, "stacks": stacks})


def _gpu_winograd_case(g: Windowed, f: Facts, cut: dict[str, Array]) -> Case:
    stacks, panels, vectors, rows = g.n * g.groups, cut["panels"], cut["vectors"], cut["rows"]
    tiles = up(g.ocg, rows)
    steps = stacks * panels * tiles * 36 * g.icg * M
    weights = tiles * rows * 36 * g.icg * 4
    passes = np.where(weights > 0.7 * f.l2_bytes, panels, 1)
    freq = 36 * 4 * g.icg * cut["columns"] * panels * stacks
    across = cut["across"]
    runs = np.minimum(up(g.oh, 4), up(cut["columns"], across) + (across % cut["columns"] > 0))
    rows_in = (runs - 1) * 4 + 6
    terms = {
        "fixed": np.ones(len(panels)), "panels_k": stacks * panels * K, "fma_m": steps * rows * vectors, "step_m": steps,
        "row_step_m": steps * rows, "mb_cold": weights * M * np.where(cut["staged"], 1, passes),
        "in_mvec": stacks * panels * vectors * g.icg * M, "in_rows_m": stacks * panels * g.icg * rows_in * M,
        "in_melem": stacks * panels * g.icg * rows_in * np.minimum(across, cut["columns"]) * 4 * M,
        "in_runs_m": stacks * panels * g.icg * runs * 36 * M,
        "out_mvec": stacks * panels * vectors * tiles * rows * M, "out_runs_m": stacks * panels * g.ocg * runs * 4 * M,
        "mb_between": freq * M, "mb_in": stacks * g.icg * g.ih * g.iw * 4 * M, "mb_out": g.n * g.oc * g.pixels * 4 * M,
    }
    name = "conv/winograd_staged" if bool(cut["staged"][0]) else "conv/winograd"
    return Case(name, np.arange(len(panels)), terms, {"oc": g.ocg, "ic": np.full(len(panels), g.icg), "tiles": cut["tiles"], "ow": g.ow,
                                                      "tile": rows * vectors, "stacks": stacks})


def _gpu_loops(g: Windowed, f: Facts, name: str) -> Case:
    """Kernels whose time is arithmetic and bytes: blocks of a tiled product, or one output a work-item."""
    depth, tiled = g.icg * g.taps, name == "conv_tiled"
    outer = g.n * g.groups
    blocks = outer * (up(g.ocg, 64) * up(g.pixels, 32) * 64 * 32 if tiled else g.ocg * g.pixels)
    nbytes = (outer * g.icg * g.ih * g.iw + g.oc * depth + g.n * g.oc * g.pixels) * 4
    terms = {"fixed": np.ones(len(outer)), "mac_m": blocks * depth * M, "out_melem": g.n * g.oc * g.pixels * M, "mb": nbytes * M}
    return Case(f"conv/{name}", np.arange(len(outer)), terms, {"oc": g.ocg, "pixels": g.pixels, "depth": np.full(len(outer), depth),
                                                               "ow": g.ow, "outer": outer})


def _gpu_rows(g: Windowed, f: Facts) -> Case:
    """Small depthwise filters where a work-item owns a core: down strips of one vector of columns, each input row read once."""
    images = g.n * g.oc
    width = np.clip(2 ** np.ceil(np.log2(np.maximum(g.ow, 1))), 4, f.gpu_width)
    vectors = up(g.ow, width.astype(np.int64))
    many = np.clip(STRIP_ITEM // np.maximum(1, g.oh * g.ow), 1, np.maximum(1, g.oc))
    nbytes = images * (g.ih * g.iw + g.pixels) * 4
    terms = {
        "fixed": np.ones(len(images)), "images_k": images * K, "items_k": g.n * up(g.oc, many) * K, "strips_k": images * vectors * K,
        f"in{g.sw}_mvec": images * vectors * g.ih * g.kw * M, "fma_m": images * vectors * g.oh * g.taps * M,
        "out_mvec": images * vectors * g.oh * M, "mb": nbytes * M, "mb_l3": nbytes * M * (nbytes > 0.7 * f.l2_bytes), "mb_beyond": _beyond(nbytes, f),
        "mb_far": _beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    return Case("conv/conv_depthwise_rows", np.arange(len(images)), terms, sizes)


def _gpu_strip(g: Windowed, f: Facts, name: str) -> Iterator[Case]:
    """Depthwise convolutions and poolings where a work-item owns a core: strips of rows of one channel."""
    images = g.n * g.oc
    tail, halo = (g.kw - 1) * g.dw // g.sw, ((g.kh - 1) * g.dh + g.sh - 1) // g.sh
    pitch, step = g.ow + tail + 1, f.gpu_width * STRIP_VECTORS
    rows = np.clip(STRIP_BYTES // (4 * pitch * (g.sh * g.sw + 1)) - halo, 1, np.maximum(1, g.oh))
    strips = up(g.oh, rows)
    many = np.clip(np.minimum(STRIP_ITEM // (rows * pitch), strips * g.oc // 4), 1, g.oc)
    in_rows = (g.oh - 1) * g.sh + strips * ((g.kh - 1) * g.dh + 1)
    runs = up(np.minimum(rows, g.oh) * pitch, step)
    nbytes = images * (g.ih * g.iw + g.pixels) * 4
    terms = {
        "fixed": np.ones(len(images)), "strips_k": images * strips * K, "items_k": g.n * strips * up(g.oc, many) * K,
        "in_rows_k": images * in_rows * g.sw * K,
        f"in{min(g.sw, 3)}_melem": images * in_rows * pitch * g.sw * M, "fma_m": images * strips * runs * STRIP_VECTORS * g.taps * M,
        "runs_m": images * strips * runs * M, "out_rows_k": images * g.oh * K, "out_melem": images * g.pixels * M,
        "mb": nbytes * M, "mb_l3": nbytes * M * (nbytes > 0.7 * f.l2_bytes), "mb_beyond": _beyond(nbytes, f),
        "mb_far": _beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    yield Case(f"{'conv' if name.startswith('conv') else 'pool'}/{name}", np.arange(len(images)), terms, sizes)


def _gpu_product(p: Products, f: Facts) -> Iterator[Case]:
    rows, columns, count, depth = p.rows, p.columns, p.count, p.depth
    if p.flat_b:
        rows, count = rows * count, np.ones_like(count)
    n = len(rows)
    panel = np.full(n, f.local_bytes > 0 and depth > 0) & (p.b_fixed | (4 * depth * f.gpu_width <= f.local_bytes))
    tile, vectors = _gpu_tile(rows, columns, f, 4 if p.b_fixed else f.local_bytes // max(1, 4 * depth * f.gpu_width))
    if p.b_fixed:
        flat = rows <= 2
        vectors = np.where(flat, np.maximum(vectors, np.minimum(8 // np.maximum(rows, 1), up(columns, f.gpu_width))), vectors)
        tile = np.where(flat, 1, tile)
    wide_columns = vectors * f.gpu_width
    panels, tiles = up(columns, wide_columns), up(rows, tile)
    steps = count * panels * tiles * depth * M
    b = columns * depth * (1 if p.flat_b else count) * 4.0
    common = {"fixed": np.ones(n), "mb_b": b * M, "mb_b_l3": b * M * (b > 0.7 * f.l2_bytes), "mb_out": rows * columns * count * 4 * M,
              "mb_a": rows * depth * count * 4 * M}
    terms = {**common, "panels_k": count * panels * K, "fma_m": steps * tile * vectors, "step_m": steps, "row_step_m": steps * tile,
             "mb_a_stream": count * panels * rows * depth * 4 * M, "out_mvec": count * panels * rows * vectors * M,
             "partial_melem": count * rows * (columns % wide_columns) * M}
    if not p.b_fixed:
        terms["pack_melem"] = count * depth * panels * wide_columns * M
    sizes = {"rows": rows, "columns": columns, "depth": np.full(n, depth), "count": count, "tile": tile * vectors}
    if panel.any():
        yield _pick(Case("product/panel" if p.b_fixed else "product/panel_copied", np.arange(n), terms, sizes), panel)  # type: ignore[misc]
    if not panel.all():
        blocks = count * up(rows, 64) * up(columns, 32) * 64 * 32
        yield _pick(Case("product/tiled", np.arange(n), {**common, "mac_m": blocks * depth * M}, sizes), ~panel)  # type: ignore[misc]


# Everything else


def _plain(p: Plain, f: Facts, node: Node, unit: str) -> Iterator[Case]:
    elements, rows, runs, chunks, read, written = p.elements, p.rows, p.runs, p.chunks, p.read, p.written
    woken = np.zeros(len(elements), bool)
    if unit == "cpu" and f.threads > 1:
        woken = (p.flops >= SPLIT_FLOPS) | (read + written >= SPLIT_BYTES)
        share = np.where(woken, f.threads, 1)
        elements, rows, runs, chunks, read, written = (v / share for v in (elements, rows, runs, chunks, read, written))
    total = read + written
    level = _level(total, f)
    terms = {
        "fixed": np.ones(len(elements)), "woken": woken * 1.0, "out_kelem": elements * K, "in_kelem": read / 4 * K, "rows_k": rows * K,
        "runs_k": runs * K, "chunks_k": chunks * K, "mb_l2": total * M * (level == 1), "mb_l3": total * M * (level == 2),
        "mb_beyond": _beyond(total, f), "mb_far": _beyond(total, f, 4),
    }
    if node.op_type == "Concat":
        terms["parts"] = p.parts * 1.0
    dtype = "" if node.output.dtype == np.float32 else f"_{node.output.dtype.name}"
    sizes = {"elements": elements, "inner": p.inner, "read": read, "run": elements / np.maximum(1, runs), "chunks": chunks}
    yield Case(f"plain/{_form(node)}{dtype}", np.arange(len(elements)), terms, sizes)


def _form(node: Node) -> str:
    """The operator, told apart where its kernels differ much: which axis moves, which is reduced, what is broadcast."""
    name, rank = node.op_type.lower(), len(node.output.shape)
    if name == "transpose":
        perm = [int(v) for v in node.attr("perm") or range(rank)[::-1]]
        return f"transpose_{'kept' if perm[-1] == rank - 1 else 'moved'}"
    if name in ("softmax", "logsoftmax"):
        return f"{name}_{'rows' if int(node.attr('axis', -1)) % rank == rank - 1 else 'lines'}"
    shapes = [v.shape for v in node.operands if v is not None]
    if len(shapes) > 1 and node.op_type in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"):
        return name if all(s == node.output.shape for s in shapes) else f"{name}_broadcast"
    return name
