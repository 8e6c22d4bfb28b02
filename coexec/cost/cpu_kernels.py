"""Rules of the CPU's own kernels: which one a piece of a convolution, pooling or product runs by, and what that spends its time on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..ops.conv_ways import TILES, Window, costs, least, tile_rows
from .cases import SPLIT_BYTES, SPLIT_FLOPS, Case, K, M, beyond, lanes_up, last_strip, level_of, pick, row_tiles, strips_of
from .geometry import Array, Facts, Products, Windowed, up

#: Depth of a block of the inner dimension, and bytes of partial sums, in the matrix kernels.
DEPTH, SUMS_BYTES = 192, 256 << 10
WINOGRAD_BLOCK, BLOCKS_BAND = 2 << 20, 6 << 20
#: Output channels of the convolutions that are made straight from the input.
MOST_FEW = 4
#: What makes threads share rows rather than channels (`devices.cpu.conv`), and how uneven shares of a channel-wise operator may be.
ALL_INPUT_COST, ELEMENT_COST, FAIR_SHARE = 1.13, 32, 1.15
#: Outputs of a row that the kernel of narrow depthwise maps sums at a time.
LANES_WIDTH = 8


def window(g: Windowed) -> Window:
    """What the ways to make these convolutions need to know, where they have one group."""
    return Window.of((g.kh, g.kw), (g.sh, g.sw), (g.dh, g.dw), is_dense=True)


#: Heights, widths and strides of the depthwise kernels that run down strips of columns.
STRIPS = frozenset({(3, 3, 1, 1), (3, 3, 2, 2), (5, 5, 1, 1), (5, 5, 2, 2), (7, 7, 1, 1)})


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
    grouped, per = g.grouped, g.ocg if g.grouped else 1

    known = window(g)._replace(is_dense=not grouped)

    def cost(oc: Array, oh: Array) -> Array:
        return g.n * least(g.icg, oc, oh, g.ow, known, f.lanes, f.tile_rows)

    channels = [(_largest(g.oc, f.threads, a * per), g.oh) for a in (1, *(() if grouped else (f.tile_rows,)))]
    rows = [(g.oc, _largest(g.oh, f.threads, a)) for a in (1, 2, 4)]
    if g.depthwise:  # along channels, at whole vectors where that is fair
        vectors = _largest(g.oc, f.threads, int(f.lanes)), g.oh
        oc, oh = rows[0]
        for way in (channels[0], vectors):
            fair = way[0] * f.threads <= FAIR_SHARE * g.oc
            oc, oh = (np.where(fair, way[i], (oc, oh)[i]) for i in (0, 1))
    else:
        read = g.n * g.groups * g.icg * g.ih * g.iw
        each_read = np.where((g.taps == 1) & (read > g.n * g.oc * g.pixels), ELEMENT_COST * read, 0.0)
        costs = [cost(*o) * (1 if g.taps == 1 else ALL_INPUT_COST) + each_read for o in channels]
        costs += [cost(*o) + each_read / np.maximum(1, up(g.oh, o[1])) for o in rows]
        best = np.argmin(costs, axis=0)
        oc, oh = (np.choose(best, [o[i] for o in (*channels, *rows)]) for i in (0, 1))
    return g.resized(np.where(split, oc, g.oc), np.where(split, oh, g.oh)), split


def conv(g: Windowed, f: Facts) -> Iterator[Case]:
    """Convolutions with constant weights, of the slowest thread."""
    g, woken = _conv_share(g, f)
    depthwise = (g.icg == 1) & (g.groups > 1)
    ways = costs(g.icg, g.oc, g.oh, g.ow, window(g), f.lanes, f.tile_rows)
    best = np.where(g.groups == 1, np.argmin(list(ways.values()), axis=0), 0)
    way = {name: ~depthwise & (best == number) for number, name in enumerate(ways)}
    implicit = way["vectors"] | way["rows"]
    if depthwise.any():
        narrow = depthwise & (g.ocg == 1) & (g.ow > LANES_WIDTH // 2) & (g.ow <= np.minimum(LANES_WIDTH, f.lanes // 2)) & (g.oc >= f.lanes)
        narrow &= (g.ow == g.full_ow) & (g.ih * g.iw >= f.lanes) & (g.dh == 1) & (g.dw == 1)
        if narrow.any():
            yield pick(_lanes(g, f, woken), narrow)  # type: ignore[misc]
        strips = g.dh == g.dw == 1 and (g.kh, g.kw, g.sh, g.sw) in STRIPS
        found = _rows(g, f, f"conv/depthwise_{g.kh}", woken) if strips else _planes(g, f, "conv/depthwise_planes", woken)
        if (depthwise & ~narrow).any():
            yield pick(found, depthwise & ~narrow)  # type: ignore[misc]
    wide = (6 if f.lanes == 16 else 3) * f.lanes
    few = implicit & (g.groups == 1) & (g.oc <= MOST_FEW) & (g.taps > 1) & (g.sh == g.sw == 1) & (g.ow >= wide)
    if few.any():
        yield pick(_few(g, f, woken, wide), few)  # type: ignore[misc]
    shallow = implicit & ~few & (g.groups == 1) & (g.icg <= MOST_FEW) & (g.taps > 1) & (g.icg * g.taps <= 512) & (g.ow >= f.lanes)
    if shallow.any():
        yield pick(_shallow(g, f, woken), shallow)  # type: ignore[misc]
    few = few | shallow
    small = way["rows"] & ~few & ((g.ow == g.full_ow) | (g.oh == 1))
    if small.any():
        yield pick(_small(g, f, woken, tile_rows(g.pixels, f.tile_rows)), small)  # type: ignore[misc]
    implicit &= ~few & ~small
    for m in TILES:
        if f"winograd{m}" in way and way[f"winograd{m}"].any():
            yield pick(_winograd(g, f, m, woken), way[f"winograd{m}"])  # type: ignore[misc]
    if "blocks" in way and way["blocks"].any():
        yield pick(_blocks(g, f, woken), way["blocks"])  # type: ignore[misc]
    if implicit.any():
        yield pick(_implicit(g, f, woken), implicit)  # type: ignore[misc]


def _small(g: Windowed, f: Facts, woken: Array, rows: Array) -> Case:
    """Tiles of pixels by vectors of output channels."""
    depth = g.icg * g.taps
    tiles = up(g.pixels, rows)
    s3, s2, s1, _ = strips_of(g.oc, f.lanes)
    steps = g.n * tiles * rows * depth * M
    weights = lanes_up(g.oc, f.lanes) * depth * 4
    packed = g.n * tiles * rows * depth
    straight = g.taps == 1 and g.sh == g.sw == 1 and not g.padded
    runs = (not straight) and g.sw <= 2
    by_run = runs * (g.ow % rows == 0)
    terms = {
        "fixed": np.ones(len(tiles)), "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        "mb_weights": weights * M, "mb_weights_l3": weights * M * (weights > 0.7 * f.l2_bytes),
        "mb_pixels_l2": up(s3 + s2 + s1, 1) * packed * 4 * M * (f.tile_rows * np.minimum(depth, DEPTH) * 4 * tiles > 0.6 * f.l1_bytes),
        "out_melem": g.n * g.oc * g.pixels * M, "sums_melem": g.n * g.oc * g.pixels * (up(depth, DEPTH) - 1) * M,
        "mb_in": g.n * g.icg * g.ih * g.iw * 4 * M,
    }
    if straight:
        terms["pack_mtile"] = g.n * tiles * depth * M
    else:
        terms |= {"pack_run_mtile": g.n * tiles * depth * by_run * M, "pack_melem": packed * (1 - by_run) * M}
    sizes = {"oc": g.oc, "pixels": g.pixels, "depth": depth, "rows": rows}
    return Case("conv/small" if straight else "conv/small_columns", np.arange(len(tiles)), terms, sizes)


def _few(g: Windowed, f: Facts, woken: Array, wide: int) -> Case:
    """Few output channels: each element of the kernel is a shift of one padded plane."""
    depth, tiles = g.icg * g.taps, g.n * g.oh * up(g.ow, wide)
    copied = g.n * g.icg * (g.oh + (g.kh - 1) * g.dh) * (g.ow + (g.kw - 1) * g.dw + f.lanes)
    terms = {
        "fixed": np.ones(len(tiles)), "woken": woken * 1.0, "shift_m": tiles * depth * M, "sum_m": tiles * depth * g.oc * M,
        "row_m": tiles * g.icg * g.kh * M,
        "tiles_k": tiles * K, "out_melem": g.n * g.oc * g.pixels * M, "mb_copied": copied * 4 * M, "rows_k": g.n * g.icg * g.ih * K,
    }
    sizes = {"oc": g.oc, "pixels": g.pixels, "depth": depth, "ow": g.ow, "taps": np.full(len(tiles), g.taps)}
    return Case("conv/few", np.arange(len(tiles)), terms, sizes)


def _shallow(g: Windowed, f: Facts, woken: Array) -> Case:
    """Few input channels: matrix tiles read the shifts of padded planes, row by row of the output."""
    depth = g.icg * g.taps
    blocks, partial = row_tiles(g.oc, f.tile_rows)
    s3, s2, s1, rest = strips_of(g.ow, f.lanes)
    steps = g.n * g.oh * (blocks + partial) * depth * M
    pitch = lanes_up(g.ow, f.lanes) + (g.kw - 1) * g.dw // g.sw + f.lanes
    band = np.clip((256 << 10) // (4 * g.icg * g.sw * pitch) // g.sh, 1, np.maximum(1, g.oh))
    rows = g.n * g.icg * (g.oh * g.sh + up(g.oh, band) * ((g.kh - 1) * g.dh + 1))
    terms = {
        "fixed": np.ones(len(g.n)), "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        f"copy{min(g.sw, 3)}_mvec": rows * g.sw * up(g.iw, f.lanes * g.sw) * M, "in_rows_k": rows * g.sw * K,
        "mb_out": g.n * g.oc * g.pixels * 4 * M, "edge_melem": g.n * g.oc * g.oh * rest * M,
    }
    sizes = {"oc": g.oc, "oh": g.oh, "ow": g.ow, "depth": depth, "stride": np.full(len(g.n), g.sw)}
    return Case("conv/shallow", np.arange(len(g.n)), terms, sizes)


def _rows(g: Windowed, f: Facts, kernel: str, woken: Array) -> Case:
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
        "mb_beyond": beyond(nbytes, f), "mb_far": beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "stride": np.full(len(images), g.sw), "bytes": nbytes}
    return Case(kernel, np.arange(len(images)), terms, sizes)


def _lanes(g: Windowed, f: Facts, woken: Array) -> Case:
    """Narrow maps of depthwise filters: lanes are channels, turned on the way in and out; LANES_WIDTH sums of a row at a time."""
    groups = g.n * up(g.oc, f.lanes)
    turned = up(g.ih * g.iw, f.lanes) + up(g.pixels, f.lanes)
    nbytes = g.n * g.oc * (g.ih * g.iw + g.pixels) * 4
    rows = np.minimum(g.oh * g.kh, g.ih * up(g.kh, g.sh))  # of the kernel, those that lie inside
    terms = {
        "fixed": np.ones(len(groups)), "woken": woken * 1.0, "groups_k": groups * K, "turn_k": groups * turned * K,
        "place_m": groups * g.ih * g.iw * M, "fma_mvec": groups * rows * g.kw * LANES_WIDTH * M, "rows_k": groups * g.oh * K, "mb": nbytes * M,
        "mb_l3": nbytes * (nbytes > 0.7 * f.l2_bytes) * M, "mb_beyond": beyond(nbytes, f),
    }
    sizes = {"images": g.n * g.oc, "oh": g.oh, "ow": g.ow, "taps": np.full(len(groups), g.taps), "stride": np.full(len(groups), g.sw)}
    return Case("conv/depthwise_lanes", np.arange(len(groups)), terms, sizes)


def _implicit(g: Windowed, f: Facts, woken: Array) -> Case:
    rows, depth = g.ocg, g.icg * g.taps
    blocks, partial = row_tiles(rows, f.tile_rows)
    padded = up(rows, f.tile_rows) * f.tile_rows
    one = (g.ow == g.full_ow) | (g.oh == 1)
    pixels = np.where(one, g.pixels, g.ow)
    outer = g.n * g.groups * np.where(one, 1, g.oh)
    s3, s2, s1, rest = strips_of(pixels, f.lanes)
    strips = s3 + s2 + s1
    whole = rest == 0
    unit = max(1, DEPTH // g.taps)
    kblocks = up(g.icg, unit)
    steps = (blocks + partial) * depth * outer * M
    block_bytes = padded * np.minimum(depth, unit * g.taps) * 4
    level = level_of(block_bytes, f)
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
    sizes = {"rows": rows, "pixels": pixels, "depth": depth, "outer": outer, "ow": g.ow}
    if g.taps == 1 and g.sh == g.sw == 1 and not g.padded:
        terms |= {"copy_mvec": depth * vectors * M, "copy_melem": depth * outer * last_strip(pixels, f.lanes) * M}
        return Case("conv/pointwise", np.arange(len(rows)), terms, sizes)
    runs = outer * np.where(one, strips + g.oh - 1, strips)
    name = f"gather{min(g.sw, 3)}_mvec"
    moved = depth * (outer * pixels / f.lanes + 0.5 * runs) * (f.lanes if g.sw > 2 else 1)
    terms |= {name: moved * M, "runs_m": depth * runs * M}
    sizes |= {"taps": np.full(len(rows), g.taps), "stride": np.full(len(rows), g.sw)}
    return Case("conv/pointwise_strided" if g.taps == 1 else "conv/columns", np.arange(len(rows)), terms, sizes)


def _panels(columns: Array, lanes: int) -> tuple[Array, Array, Array]:
    """How many strips of three, two and one vectors a block of tiles has: all but the last are of three, whatever is left."""
    vectors = up(columns, lanes)
    return vectors // 3, (vectors % 3 == 2) * 1, (vectors % 3 == 1) * 1


def _winograd(g: Windowed, f: Facts, m: int, woken: Array) -> Case:
    points, ic, oc = (m + 2) ** 2, g.icg, g.oc
    padded = up(oc, f.tile_rows) * f.tile_rows
    across, down = up(g.ow, m), up(g.oh, m)
    tiles = across * down
    full = np.maximum(f.panel, WINOGRAD_BLOCK // (4 * points * (ic + padded)) // f.panel * f.panel)
    blocks = np.maximum(1, np.rint(tiles / full)).astype(np.int64)
    block = lanes_up(up(tiles, blocks), 1)
    block = np.where(blocks > 1, up(block, f.panel) * f.panel, lanes_up(block, f.lanes))
    blocks = up(tiles, block)
    last = lanes_up(tiles - (blocks - 1) * block, f.lanes)
    s3, s2, s1 = (a * (blocks - 1) + b for a, b in zip(_panels(block, f.lanes), _panels(last, f.lanes)))
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
    return Case(f"conv/winograd{m}", np.arange(len(oc)), terms, {"oc": oc, "ic": ic, "tiles": tiles, "ow": g.ow, "n": g.n})


def _blocks(g: Windowed, f: Facts, woken: Array) -> Case:
    """Winograd by 4x4 blocks of the kernel: bands of rows of tiles, 49 products of four times the depth."""
    ic, oc, ones = g.icg, g.oc, np.ones(len(g.oc))
    padded = up(oc, f.tile_rows) * f.tile_rows
    across, down = up(g.ow, 4), up(g.oh, 4)
    bands = np.maximum(1, np.rint(49 * 4 * (ic * (across + 1) + padded * across) * down / BLOCKS_BAND)).astype(np.int64)
    band = up(down, bands)
    bands = up(down, band)
    a3, a2, a1, _ = strips_of(band * across, f.lanes)
    b3, b2, b1, _ = strips_of((down - (bands - 1) * band) * across, f.lanes)
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
    sizes = {"oc": oc, "ic": ic, "tiles": across * down, "ow": g.ow, "n": g.n}
    return Case("conv/winograd_blocks", np.arange(len(oc)), terms, sizes)


def _planes(g: Windowed, f: Facts, name: str, woken: Array) -> Case:
    images, vectors = g.n * g.oc, up(g.ow, f.lanes)
    rows = (g.oh - 1) * g.sh + (g.kh - 1) * g.dh + 1
    pitch = lanes_up(g.ow, f.lanes) + (g.kw - 1) * g.dw // g.sw + f.lanes
    plane = 4 * rows * pitch * g.sw
    per_row = up(g.iw, f.lanes) if g.sw == 1 else 2 * up(up(g.iw, 2), f.lanes) if g.sw == 2 else g.iw
    fma = images * g.oh * vectors * g.taps
    nbytes = images * (g.ih * g.iw + g.pixels) * 4
    terms = {
        "fixed": np.ones(len(images)), "woken": woken * 1.0, "images_k": images * K, "in_rows_k": images * g.ih * g.sw * K,
        f"copy{min(g.sw, 3)}_mvec": images * g.ih * per_row * M, "fma_mvec": fma * M, "out_mvec": images * g.oh * vectors * M,
        "out_rows_k": images * g.oh * K, "partial_m": images * g.oh * (g.ow % f.lanes > 0) * M, "fma_l2_mvec": fma * (plane > 0.8 * f.l1_bytes) * M,
        "mb": nbytes * M, "mb_l3": nbytes * (nbytes > 0.7 * f.l2_bytes) * M, "mb_beyond": beyond(nbytes, f),
        "mb_far": beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    return Case(name, np.arange(len(images)), terms, sizes)


def pool(g: Windowed, f: Facts, kind: str) -> Iterator[Case]:
    """Poolings: MaxPool or AveragePool, of the slowest thread."""
    woken = np.zeros(len(g.n), bool)
    if f.threads > 1:
        woken = 4.0 * g.n * g.oc * (g.ih * g.iw + g.pixels) >= SPLIT_BYTES
        channels = up(g.oc, f.threads)
        fair = channels * f.threads <= FAIR_SHARE * g.oc
        g = g.resized(np.where(woken & fair, channels, g.oc), np.where(woken & ~fair, up(g.oh, f.threads), g.oh))
    direct = kind == "MaxPool" and (g.kh, g.sh) in ((3, 1), (3, 2), (2, 2)) and (g.kw, g.sw, g.dh, g.dw) == (g.kh, g.sh, 1, 1)
    yield _rows(g, f, f"pool/maxpool_{g.kh}", woken) if direct else _planes(g, f, f"pool/{kind.lower()}_planes", woken)


def product(p: Products, f: Facts) -> Iterator[Case]:
    """Matrix products, of the slowest thread."""
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
    blocks, partial = row_tiles(rows, f.tile_rows)
    blocks = blocks + np.where(left == 1, 0, partial)
    s3, s2, s1, rest = strips_of(columns, f.lanes)
    strips = s3 + s2 + s1
    whole = rest == 0
    padded = up(rows, f.tile_rows) * f.tile_rows
    stream = count * strips * padded * depth * 4 * M
    level = level_of(padded * np.minimum(depth, DEPTH) * 4, f)
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
        slowly = columns if p.b_turned else last_strip(columns, f.lanes)
        terms["pack_mvec"] = depth * count * (columns - slowly) / f.lanes * M
        terms["pack_melem"] = depth * count * slowly * M
    sizes = {"rows": rows, "columns": columns, "depth": depth, "count": count}
    yield Case("product/strips" if p.b_fixed else "product/packed", np.arange(len(rows)), terms, sizes)
