"""Rules of the GPU's own kernels: which one a piece of a convolution, pooling or product runs by, and what that spends its time on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..ops.conv_ways import BLOCKS, SIDES, TILES, by_block_tiles, by_panels, by_tiles, costs
from .cases import Case, K, M, beyond, lanes_up, level_of, pick
from .cpu_kernels import window
from .geometry import Array, Facts, Products, Windowed, up

#: Output channels that are made without gathering panels, and vectors of columns that a work-item makes of each at most.
MOST_FEW, FEW_VECTORS = 4, 6
#: Bytes of a strip, vectors and elements a work-item makes of it, bytes of a panel.
STRIP_BYTES, STRIP_VECTORS, STRIP_ITEM, PANEL_BYTES = 24 << 10, 4, 4096, 192 << 10


@lru_cache(maxsize=8)
def _shapes(registers: int, rows: int = 0) -> tuple[tuple[int, int], ...]:
    """(rows, vectors) of the register tiles that are compiled; of so many rows alone where that is said."""
    if rows:
        return tuple((rows, v) for v in range(1, 5) if v == 1 or rows * v + v + 1 <= registers)
    shapes = []
    for vectors in range(1, 5):
        fits = [r for r in (1, 4, 6, 8, 12) if r * vectors + vectors + 1 <= registers]
        shapes += [(r, vectors) for r in dict.fromkeys((fits[-1], *([4, 1] if vectors == 4 else [])) if fits else ()) if r in fits]
    return tuple(shapes)


def _step(rows: Array, vectors: Array) -> Array:
    return np.maximum(rows * vectors, 8) / 2 + rows / 10 + vectors * vectors / 16 + 0.5


def _tile(rows: Array, columns: Array, f: Facts, most: Any = 4, common: Array | None = None) -> tuple[Array, Array]:
    """(rows, vectors) of the register tile with the fewest cycles, of at most so many vectors. common: which pieces have the CPU's rows."""
    registers = 16 if f.gpu_width == 8 else 32
    own = _best_tile(_shapes(registers), rows, columns, f, most)
    if common is None or not common.any():
        return own
    theirs = _best_tile(_shapes(registers, f.common_rows), rows, columns, f, most)
    return np.where(common, theirs[0], own[0]), np.where(common, theirs[1], own[1])


def _best_tile(shapes: Sequence[tuple[int, int]], rows: Array, columns: Array, f: Facts, most: Any) -> tuple[Array, Array]:
    wide = up(np.maximum(columns, 1), f.gpu_width)
    cycles = []
    for tall, vectors in shapes:
        full, rest = wide // vectors, wide % vectors
        last = np.where(rest > 0, _step(tall, rest if vectors < 4 else vectors), 0)
        cycles.append(np.where(vectors <= np.maximum(most, 1), up(rows, tall) * (full * _step(tall, vectors) + last), np.inf))
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
    strips = common & (g.groups == 1) & (g.ow == g.full_ow) & (left > 0)
    if strips.any():
        ways = costs(g.icg, g.oc, left, g.ow, window(g), lanes, rows)
        strips &= np.argmin(list(ways.values()), axis=0) == list(ways).index("rows")
    return common, strips


def _winograd(g: Windowed, f: Facts, common: Array, side: int, blocks: int) -> dict[str, Array]:
    """How Winograd's algorithm is cut, with tiles of so many outputs along a side and so many blocks of the kernel, and its `work`."""
    more, w, ic, points = int(blocks > 1), f.gpu_width, g.icg, (side + 2 + (blocks > 1)) ** 2
    across, down = up(g.ow, side) + more, up(g.oh, side)
    tiles, beyond = across * down, more * (across + 1)

    def held(vectors: Any) -> Array:
        return points * 4 * (ic * up(vectors * w + beyond, w) + 1) * w

    staged = held(1) > f.local_bytes * 4 // 5
    most = np.select([staged | (held(3) <= f.local_bytes // 2), held(2) <= f.local_bytes // 2], [3, 2], 1)
    rows, vectors = _tile(g.ocg, tiles, f, most, common)
    columns = vectors * w
    tile_rows = np.minimum(down + more, (columns + beyond - 2) // across + 2)
    strip = side * (np.where((down == 1) & (more == 0), np.minimum(across, columns), across) + 1 + np.maximum(w, 16 // side))
    reach = side + 2 + more
    local = 4 * (points * rows * columns + w) + 4 * side**2 * columns + 4 * ((tile_rows - 1) * side + reach) * strip + 4 * w
    nbytes = local + np.where(staged, 0, held(vectors))
    shape = ic, g.ocg, tiles, w, (rows, columns)
    work = np.where(nbytes <= f.local_bytes, by_block_tiles(across - 1, *shape) if blocks > 1 else by_tiles(side, *shape), np.inf)
    return {"rows": rows, "vectors": vectors, "columns": columns, "panels": up(tiles, columns), "tiles": tiles, "across": across,
            "staged": staged, "work": work, "held": held(vectors), "beyond": beyond}


def conv(g: Windowed, f: Facts) -> Iterator[Case]:
    """Convolutions with constant weights."""
    depthwise = (g.icg == 1) & (g.ocg == 1) & (g.groups > 1)
    if depthwise.any():
        small = max(g.kh, g.kw) <= 5 and max(g.sh, g.sw) <= 2 and {g.dh, g.dw} == {1}
        if f.local_bytes and small:
            yield pick(_rows(g, f), depthwise)  # type: ignore[misc]
        elif f.local_bytes:
            for case in strips(g, f, "conv_depthwise" if g.taps == 9 else "conv_depthwise_any"):
                yield pick(case, depthwise)  # type: ignore[misc]
        else:
            yield pick(_loops(g, f, "conv_items"), depthwise)  # type: ignore[misc]
    rest = ~depthwise
    if not rest.any():
        return
    if not f.local_bytes:
        yield pick(_loops(g, f, "conv_tiled"), rest)  # type: ignore[misc]
        return
    depth = g.icg * g.taps
    flat = (g.taps == 1) & (g.sh == g.sw == 1) & (not g.padded) & (g.ow == g.full_ow)
    height, width = np.where(flat, 1, g.oh), np.where(flat, g.pixels, g.ow)
    common, by_strips = _in_common(g, f)
    rows, vectors = _tile(g.ocg, g.pixels, f, 4, common)
    columns = vectors * f.gpu_width
    step = 4 * g.taps * columns
    unit = np.where(step * g.icg <= PANEL_BYTES, g.icg, np.maximum(1, PANEL_BYTES // step))
    unit = up(g.icg, up(g.icg, unit))
    sums = np.where(unit < g.icg, 4 * up(g.ocg, rows) * rows * columns, 64)
    fits = unit * step + 4 * (f.gpu_width + _strip_elements(g, height, width, columns, f.gpu_width)) + sums <= f.local_bytes
    vector = fits & flat & (g.groups == 1) & (g.full_oh * g.full_ow == 1)
    if (rest & vector).any():
        for case in product(Products.of_vectors(g.n, g.oc, g.icg), f):
            yield pick(case, rest & vector)  # type: ignore[misc]
        rest &= ~vector
        if not rest.any():
            return
    direct = fits & (g.ocg == 1) & (depth < 8)
    few = fits & ~direct & (g.groups == 1) & (g.oc <= MOST_FEW) & (g.taps > 1) & (g.sw == 1) & (g.ow >= f.gpu_width)
    if (rest & few).any():
        yield pick(_few(g, f), rest & few)  # type: ignore[misc]
        rest &= ~few
    winograd = np.zeros(len(g.n), bool)
    if g.kh == g.kw and window(g).is_plain and (g.kh == 3 or g.kh in SIDES):
        ways = [(side, 1) for side in TILES] if g.kh == 3 else [(4, BLOCKS)]
        cuts = {way: _winograd(g, f, common, *way) for way in ways}
        works = [by_panels(g.icg, g.ocg, g.pixels, g.taps, f.gpu_width, (rows, columns)), *(cut["work"] for cut in cuts.values())]
        best = np.where(fits & ~direct, np.argmin(works, axis=0), 0)
        winograd = best > 0
        for number, (way, cut) in enumerate(cuts.items(), 1):
            for staged in (False, True):
                if ((best == number) & (cut["staged"] == staged)).any():
                    yield pick(_winograd_case(g, f, cut, *way, staged), rest & (best == number) & (cut["staged"] == staged))  # type: ignore[misc]
    for name, keep in (("conv_direct", direct), ("conv_tiled", ~fits)):
        if (rest & keep).any():
            yield pick(_loops(g, f, name), rest & keep)  # type: ignore[misc]
    keep = rest & fits & ~direct & ~winograd
    if keep.any():
        yield pick(_panel(g, f, flat, rows, vectors, up(g.icg, unit), by_strips), keep)  # type: ignore[misc]


def _few(g: Windowed, f: Facts) -> Case:
    """Few output channels: rows of the input are shifted under each row of the kernel, columns of an output row at a time."""
    registers = 16 if f.gpu_width == 8 else 32
    vectors = np.minimum(np.minimum(FEW_VECTORS, g.ow // f.gpu_width), (registers - 1) // (g.oc + 1))
    items = g.n * g.oh * up(g.ow, np.maximum(vectors, 1) * f.gpu_width)
    shifts = items * g.icg * g.taps * vectors * M
    terms = {
        "fixed": np.ones(len(items)), "items_k": items * K, "shift_m": shifts, "sum_m": shifts * g.oc, "row_m": items * g.icg * g.kh * M,
        "out_melem": g.n * g.oc * g.pixels * M, "mb_in": g.n * g.icg * g.ih * g.iw * 4 * M,
    }
    sizes = {"oc": g.oc, "pixels": g.pixels, "depth": g.icg * g.taps, "ow": g.ow, "tile": vectors}
    return Case("conv/few_items", np.arange(len(items)), terms, sizes)


def _panel(g: Windowed, f: Facts, flat: Array, rows: Array, vectors: Array, blocks: Array, by_strips: Array) -> Case:
    depth, w = g.icg * g.taps, f.gpu_width
    columns, stacks = vectors * w, g.n * g.groups
    panels = up(g.pixels, columns)
    tiles = up(g.ocg, rows)
    steps, done, whole = stacks * panels * tiles * depth * M, stacks * _computed(g.pixels, vectors, w) * M, stacks * up(g.pixels, w) * M
    width, height = np.where(flat, g.pixels, g.ow), np.where(flat, 1, g.oh)
    weights = tiles * rows * depth * 4
    level = level_of(weights, f)
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
        "fma_m": done * tiles * depth * rows, "step_m": steps, "row_step_m": steps * rows, "common_step_m": steps * by_strips,
        "mb_weights_l2": stream * (level == 1), "mb_weights_l3": stream * (level == 2), "mb_cold": g.groups * weights * M,
        "panel_mvec": whole * depth, "strip_melem": indirect * strip_rows * strip_row * M,
        "strip_rows_m": indirect * strip_rows * g.sw * M, "taps_m": indirect * g.taps * crossing * M,
        "out_mvec": done * g.ocg, "partial_melem": lanes_left * M, "sums_mvec": done * tiles * rows * (blocks - 1),
        "mb_in": stacks * g.icg * g.ih * g.iw * 4 * M, "mb_out": g.n * g.oc * g.pixels * 4 * M,
    }
    sizes = {"oc": g.ocg, "depth": depth, "pixels": g.pixels, "width": width, "tile": rows * vectors}
    if g.taps == 1 and g.sw == 1:
        return Case("conv/panel_pointwise", np.arange(len(panels)), terms, {**sizes, "stacks": stacks})
    sizes |= {"taps": np.full(len(panels), g.taps), "stride": np.full(len(panels), g.sw)}
    return Case("conv/panel", np.arange(len(panels)), terms, {**sizes, "stacks": stacks})


def _computed(columns: Array, vectors: Array, width: int) -> Array:
    """Vectors of so many columns that register tiles of `vectors` compute: of the last panel one, where it has no more, or all (EACH_WIDTH in
    gemm_tile.clh).
    """
    full = (columns - 1) // (vectors * width)
    narrow = (columns - full * vectors * width <= width) & (vectors < 4)
    return full * vectors + np.where(narrow, 1, vectors)


def _winograd_case(g: Windowed, f: Facts, cut: dict[str, Array], side: int, blocks: int, staged: bool) -> Case:
    reach = side + 2 + (blocks > 1)
    points = reach**2
    stacks, panels, vectors, rows = g.n * g.groups, cut["panels"], cut["vectors"], cut["rows"]
    tiles, depth = up(g.ocg, rows), g.icg * blocks
    steps, whole = stacks * panels * tiles * points * depth * M, stacks * up(cut["tiles"], f.gpu_width) * M
    read = stacks * up(cut["tiles"] + panels * cut["beyond"], f.gpu_width) * M
    weights = tiles * rows * points * depth * 4
    passes = np.where(weights > 0.7 * f.l2_bytes, panels, 1)
    across = cut["across"]
    runs = np.minimum(up(g.oh, side) + (blocks > 1), up(cut["columns"] + cut["beyond"], across) + (across % cut["columns"] > 0))
    rows_in = (runs - 1) * side + reach
    terms = {
        "fixed": np.ones(len(panels)), "panels_k": stacks * panels * K,
        "fma_m": stacks * _computed(cut["tiles"], vectors, f.gpu_width) * tiles * points * depth * rows * M, "step_m": steps,
        "row_step_m": steps * rows, "mb_cold": weights * M * (1 if staged else passes),
        "in_mvec": read * g.icg, "in_rows_m": stacks * panels * g.icg * rows_in * M,
        "in_melem": stacks * panels * g.icg * rows_in * np.minimum(across, cut["columns"] + cut["beyond"]) * side * M,
        "in_runs_m": stacks * panels * g.icg * runs * points * M,
        "out_mvec": whole * g.ocg, "out_runs_m": stacks * panels * g.ocg * runs * side * M,
        "mb_between": cut["held"] * panels * stacks * M, "mb_in": stacks * g.icg * g.ih * g.iw * 4 * M, "mb_out": g.n * g.oc * g.pixels * 4 * M,
    }
    name = ("conv/blocks" if blocks > 1 else "conv/winograd" + "_2x2" * (side == 2)) + "_staged" * staged
    return Case(name, np.arange(len(panels)), terms, {"oc": g.ocg, "ic": g.icg, "tiles": cut["tiles"], "ow": g.ow,
                                                      "tile": rows * vectors, "stacks": stacks})


def _loops(g: Windowed, f: Facts, name: str) -> Case:
    """Kernels whose time is arithmetic and bytes: blocks of a tiled product, or one output a work-item."""
    depth, tiled = g.icg * g.taps, name == "conv_tiled"
    outer = g.n * g.groups
    blocks = outer * (up(g.ocg, 64) * up(g.pixels, 32) * 64 * 32 if tiled else g.ocg * g.pixels)
    nbytes = (outer * g.icg * g.ih * g.iw + g.oc * depth + g.n * g.oc * g.pixels) * 4
    terms = {"fixed": np.ones(len(outer)), "mac_m": blocks * depth * M, "out_melem": g.n * g.oc * g.pixels * M, "mb": nbytes * M}
    return Case(f"conv/{name}", np.arange(len(outer)), terms, {"oc": g.ocg, "pixels": g.pixels, "depth": depth,
                                                               "ow": g.ow, "outer": outer})


def _rows(g: Windowed, f: Facts) -> Case:
    """Small depthwise filters where a work-item owns a core: down strips of one vector of columns, each input row read once."""
    images = g.n * g.oc
    width = np.clip(2 ** np.ceil(np.log2(np.maximum(g.ow, 1))), 4, f.gpu_width)
    vectors = up(g.ow, width.astype(np.int64))
    many = np.clip(STRIP_ITEM // np.maximum(1, g.oh * g.ow), 1, np.maximum(1, g.oc))
    nbytes = images * (g.ih * g.iw + g.pixels) * 4
    terms = {
        "fixed": np.ones(len(images)), "images_k": images * K, "items_k": g.n * up(g.oc, many) * K, "strips_k": images * vectors * K,
        f"in{g.sw}_mvec": images * vectors * g.ih * g.kw * M, "fma_m": images * vectors * g.oh * g.taps * M,
        "out_mvec": images * vectors * g.oh * M, "mb": nbytes * M, "mb_l3": nbytes * M * (nbytes > 0.7 * f.l2_bytes), "mb_beyond": beyond(nbytes, f),
        "mb_far": beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    return Case("conv/conv_depthwise_rows", np.arange(len(images)), terms, sizes)


def pool(g: Windowed, f: Facts, kind: str) -> Iterator[Case]:
    """Poolings: MaxPool or AveragePool, by `strips`."""
    return strips(g, f, f"{kind.lower()}_strip")


def strips(g: Windowed, f: Facts, name: str) -> Iterator[Case]:
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
        "mb": nbytes * M, "mb_l3": nbytes * M * (nbytes > 0.7 * f.l2_bytes), "mb_beyond": beyond(nbytes, f),
        "mb_far": beyond(nbytes, f, 4),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    yield Case(f"{'conv' if name.startswith('conv') else 'pool'}/{name}", np.arange(len(images)), terms, sizes)


def product(p: Products, f: Facts) -> Iterator[Case]:
    """Matrix products."""
    rows, columns, count, depth = p.rows, p.columns, p.count, p.depth
    if p.flat_b:
        rows, count = rows * count, np.ones_like(count)
    n = len(rows)
    panel = (f.local_bytes > 0) & (depth > 0) & (p.b_fixed | (4 * depth * f.gpu_width <= f.local_bytes))
    tile, vectors = _tile(rows, columns, f, 4 if p.b_fixed else f.local_bytes // np.maximum(1, 4 * depth * f.gpu_width))
    if p.b_fixed:
        flat = rows <= 2
        vectors = np.where(flat, np.maximum(vectors, np.minimum(8 // np.maximum(rows, 1), up(columns, f.gpu_width))), vectors)
        tile = np.where(flat, 1, tile)
    wide_columns = vectors * f.gpu_width
    panels, tiles = up(columns, wide_columns), up(rows, tile)
    steps, done = count * panels * tiles * depth * M, count * _computed(columns, vectors, f.gpu_width) * M
    b = columns * depth * (1 if p.flat_b else count) * 4.0
    common = {"fixed": np.ones(n), "mb_b": b * M, "mb_b_l3": b * M * (b > 0.7 * f.l2_bytes), "mb_out": rows * columns * count * 4 * M,
              "mb_a": rows * depth * count * 4 * M}
    terms = {**common, "panels_k": count * panels * K, "fma_m": done * tiles * depth * tile, "step_m": steps, "row_step_m": steps * tile,
             "mb_a_stream": count * panels * rows * depth * 4 * M, "out_mvec": done * rows,
             "partial_melem": count * rows * (columns % wide_columns) * M}
    if not p.b_fixed:
        terms["pack_melem"] = count * depth * panels * wide_columns * M
    sizes = {"rows": rows, "columns": columns, "depth": depth, "count": count, "tile": tile * vectors}
    if panel.any():
        yield pick(Case("product/panel" if p.b_fixed else "product/panel_copied", np.arange(n), terms, sizes), panel)  # type: ignore[misc]
    if not panel.all():
        blocks = count * up(rows, 64) * up(columns, 32) * 64 * 32
        yield pick(Case("product/tiled", np.arange(n), {**common, "mac_m": blocks * depth * M}, sizes), ~panel)  # type: ignore[misc]
