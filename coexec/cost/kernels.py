"""Which kernel a piece runs by, and what that kernel spends its time on: the same decisions as the devices', from shapes alone.

Every rule returns a Case: the kernel's name, its features (counts of what it loops over; a fit gives each a time), and the sizes that
a fit's correction may depend on. A planner has no device, so the rules are written a second time here; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..graph.ir import Node
from .geometry import Array, Facts, Plain, Products, Windowed, up

M, K = 1e-6, 1e-3
#: Depth of a block of the inner dimension, and bytes of partial sums, in the CPU's matrix kernels.
DEPTH, SUMS_BYTES = 192, 256 << 10
#: A CPU piece of less than both stays on one thread.
SPLIT_FLOPS, SPLIT_BYTES = 1_000_000, 256 << 10
WINOGRAD_LEAST, WINOGRAD_BLOCK = 16, 2 << 20
STRIP_BYTES, STRIP_VECTORS = 24 << 10, 4
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
    return "compute" if kernel.startswith(("conv/", "product/")) and "depthwise" not in kernel else "memory"


Parts = Sequence[tuple[Array, Array]]


def cases(node: Node, parts: Parts, unit: str, facts: Facts) -> Iterator[Case]:
    """The kernels that pieces of a native node run by on `cpu` or `gpu`. parts: (starts, stops) of pieces, int64 (pieces, rank) each.

    Within a part, pieces differ along one axis and lie in order, so that what changes in proportion need not be computed for each.
    """
    start, stop = (np.concatenate([p[i] for p in parts]) for i in (0, 1)) if len(parts) > 1 else parts[0]
    if not len(start):
        return
    plain = all(v is None or v.dtype == np.float32 for v in (*node.inputs, *node.outputs)) and node.domain in ("", "coexec")
    rank, kind = len(node.output.shape), node.op_type
    weights = kind == "Conv" and node.inputs[1].is_constant and (node.operand(2) is None or node.operand(2).is_constant)
    if plain and weights and rank in (3, 4):
        g = Windowed(node, start, stop)
        found = (_cpu_conv if unit == "cpu" else _gpu_conv)(g, facts)
        size = g.n * g.oc * g.oh * g.ow
        flops = size * (2.0 * g.icg * g.taps)
    elif plain and kind in ("MaxPool", "AveragePool") and rank in (3, 4) and len([o for o in node.outputs if o is not None]) == 1:
        g = Windowed(node, start, stop)
        found = _cpu_pool(g, facts, kind) if unit == "cpu" else _gpu_strip(g, facts, f"{kind.lower()}_strip")
        size = g.n * g.oc * g.oh * g.ow
        flops = size * float(g.taps)
    elif plain and kind in ("Gemm", "MatMul") and min(len(v.shape) for v in node.inputs[:2]) > 1:
        p = Products(node, start, stop)
        found = (_cpu_product if unit == "cpu" else _gpu_product)(p, facts)
        size = p.rows * p.columns * p.count
        flops = size * (2.0 * p.depth)
    else:
        p = Plain(node, parts)
        found = _plain(p, facts, node, unit)
        size, flops = p.elements, p.flops
    tail = {"mflop": flops * M, **_tail(node, size)}
    for case in found:
        yield case._replace(terms={**case.terms, **{k: v[case.at] for k, v in tail.items()}})


def _tail(node: Node, size: Array) -> dict[str, Array]:
    found = {}
    kind = node.activation.kind if node.activation else None
    if node.residual:
        found["residual_melem"] = size * M
    if kind in _CHEAP:
        found["cheap_melem"] = size * M
    elif kind is not None and kind not in _FREE:
        found["slow_melem"] = size * M
    return found


def _pick(case: Case, keep: Array) -> Case | None:
    at = np.flatnonzero(keep)
    if not len(at):
        return None
    cut = {k: np.broadcast_to(v, keep.shape)[at] for k, v in case.terms.items()}
    return Case(case.kernel, at, cut, {k: np.broadcast_to(v, keep.shape)[at] for k, v in case.sizes.items()})


def _strips(columns: Array, lanes: int) -> tuple[Array, Array, Array, Array]:
    """Full strips of three vectors, and whether the rest takes 1, 2 or 3 vectors: counts of strips by width, and the rest's columns."""
    full, rest = columns // (3 * lanes), columns % (3 * lanes)
    vectors = up(rest, lanes)
    return full + (vectors == 3), (vectors == 2) * 1, (vectors == 1) * 1, rest


def _level(nbytes: Array, facts: Facts) -> Array:
    """0 where it stays in the first-level cache beside other data, 1 in the second, 2 beyond."""
    return (nbytes > 0.6 * facts.l1_bytes) * 1 + (nbytes > 0.7 * facts.l2_bytes)


# CPU


def _lanes_up(n: Array, lanes: int) -> Array:
    return up(n, lanes) * lanes


def _winograd_costs(g: Windowed, f: Facts, oc: Array, oh: Array, ow: Array) -> tuple[Array, Array, Array]:
    """What the CPU's rule compares: direct, m = 2, m = 4; infinite where there are too few channels."""
    direct = 9.0 * _lanes_up(oh * ow, f.lanes) * (1 + 2 / np.maximum(oc, 1))
    few = np.minimum(g.icg, oc) < WINOGRAD_LEAST
    found = [direct]
    for m in (2, 4):
        cost = (m + 2) ** 2 * _lanes_up(up(oh, m) * up(ow, m), f.lanes) * (1 + 14 / max(g.icg, 1) + 14 / np.maximum(oc, 1))
        found.append(np.where(few, np.inf, cost))
    return tuple(found)  # type: ignore[return-value]


def _square(g: Windowed) -> bool:
    return (g.kh, g.kw) == (3, 3) and {g.sh, g.sw, g.dh, g.dw} == {1}


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
        pairs = g.icg * _lanes_up(oc, f.tile_rows)
        each = g.taps * _lanes_up(oh * g.ow, f.lanes) * (1 + 2 / np.maximum(oc, 1))
        if _square(g) and not grouped:
            each = np.min(_winograd_costs(g, f, oc, oh, g.ow), axis=0)
        return pairs * (g.n * each + 16 * g.taps)

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
    implicit = ~depthwise & (winograd == 0)
    if depthwise.any():
        yield _pick(_cpu_depthwise(g, f, "conv_depthwise", woken), depthwise)  # type: ignore[misc]
    for choice, m in ((1, 2), (2, 4)):
        if (winograd == choice).any():
            yield _pick(_cpu_winograd(g, f, m, woken), ~depthwise & (winograd == choice))  # type: ignore[misc]
    if implicit.any():
        yield _pick(_cpu_implicit(g, f, woken), implicit)  # type: ignore[misc]


def _cpu_implicit(g: Windowed, f: Facts, woken: Array) -> Case:
    rows, depth = g.ocg, g.icg * g.taps
    blocks = up(rows, f.tile_rows)
    padded = blocks * f.tile_rows
    one = (g.ow == g.full_ow) | (g.oh == 1)
    pixels = np.where(one, g.pixels, g.ow)
    outer = g.n * g.groups * np.where(one, 1, g.oh)
    s3, s2, s1, rest = _strips(pixels, f.lanes)
    strips = s3 + s2 + s1
    whole = rest % f.lanes == 0
    unit = max(1, DEPTH // g.taps)
    kblocks = up(g.icg, unit)
    steps = blocks * depth * outer * M
    block_bytes = padded * min(depth, unit * g.taps) * 4
    level = _level(block_bytes, f)
    stream = outer * strips * padded * depth * 4 * M
    group = np.where(kblocks == 1, 1, np.clip(SUMS_BYTES // (padded * f.panel * 4), 1, 16))
    weights = padded * depth * 4
    passes = np.where(weights > 0.7 * f.l2_bytes, up(strips, group), 1)
    vectors = (s3 * 3 + s2 * 2 + s1) * outer
    left = rows % f.tile_rows
    edge = outer * (np.where(whole, 0, rest) * rows + np.where(left > 1, left, 0) * (pixels - np.where(whole, 0, rest)))
    terms = {
        "fixed": np.ones(len(g.n)), "woken": woken * 1.0, "mtile3": steps * s3, "mtile2": steps * s2, "mtile1": steps * s1,
        "mb_weights_l2": stream * (level == 1), "mb_weights_l3": stream * (level == 2), "mb_cold": weights * g.groups * passes * M,
        "edge_melem": edge * M, "mb_out": g.n * g.oc * g.pixels * 4 * M, "mb_sums": g.n * g.oc * g.pixels * (kblocks - 1) * 4 * M,
        "mb_in": g.n * g.groups * g.icg * g.ih * g.iw * 4 * M,
    }
    sizes = {"rows": rows, "pixels": pixels, "depth": np.full(len(rows), depth), "outer": outer, "ow": g.ow}
    if g.taps == 1 and g.sh == g.sw == 1 and not g.padded:
        terms |= {"copy_mvec": depth * vectors * M, "copy_melem": depth * outer * np.where(whole, 0, rest) * M}
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


def _cpu_depthwise(g: Windowed, f: Facts, name: str, woken: Array) -> Case:
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
        "mb": nbytes * M, "mb_l3": nbytes * (nbytes > 0.7 * f.l2_bytes) * M,
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    return Case(f"conv/{name}" + ("" if g.taps == 9 else "_any"), np.arange(len(images)), terms, sizes)


def _cpu_pool(g: Windowed, f: Facts, kind: str) -> Iterator[Case]:
    woken = np.zeros(len(g.n), bool)
    if f.threads > 1:
        woken = 4.0 * g.n * g.oc * (g.ih * g.iw + g.pixels) >= SPLIT_BYTES
        g = g.resized(np.where(woken, up(g.oc, f.threads), g.oc), g.oh)
    case = _cpu_depthwise(g, f, kind.lower(), woken)
    yield case._replace(kernel=f"pool/{kind.lower()}")


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
    blocks = rows // f.tile_rows + (left > 1)
    s3, s2, s1, rest = _strips(columns, f.lanes)
    strips = s3 + s2 + s1
    whole = rest % f.lanes == 0
    padded = up(rows, f.tile_rows) * f.tile_rows
    stream = count * strips * padded * depth * 4 * M
    level = _level(padded * min(depth, DEPTH) * 4, f)
    kblocks = up(depth, DEPTH)
    b = columns * depth * (1 if p.flat_b else count) * 4.0
    edge = count * (np.where(whole, 0, rest) * rows + np.where(left > 1, left, 0) * (columns - np.where(whole, 0, rest)))
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
        turned = np.ones(len(rows), bool) if p.b_turned else ~whole
        terms["pack_mvec"] = depth * count * (columns - np.where(turned, rest, 0)) / f.lanes * M * (0 if p.b_turned else 1)
        terms["pack_melem"] = depth * count * (columns if p.b_turned else np.where(turned, rest, 0)) * M
    sizes = {"rows": rows, "columns": columns, "depth": np.full(len(rows), depth), "count": count}
    yield Case("product/strips" if p.b_fixed else "product/packed", np.arange(len(rows)), terms, sizes)


# GPU


def _gpu_tile(rows: Array, columns: Array, depth: int, f: Facts, choices: Sequence[int] = (1, 4, 8, 12)) -> tuple[Array, Array]:
    """Rows and vectors of the register tile; narrower where a panel of two vectors would not fit."""
    columns = np.maximum(columns, 1)
    wide = up(columns, 2 * f.gpu_width) * 2 <= up(columns, f.gpu_width) * 1.15
    vectors = np.where(wide & (8 * depth * f.gpu_width <= f.local_bytes // 2), 2, 1)
    return _gpu_rows(rows, vectors, f, choices), vectors


def _gpu_rows(rows: Array, vectors: Array, f: Facts, choices: Sequence[int] = (1, 4, 8, 12)) -> Array:
    fits = sorted({*(r for r in choices if r < f.gpu_rows), f.gpu_rows})
    waste = [up(rows, r) * (np.maximum(r, 8 / vectors) + 0.3) for r in fits]
    return np.choose(np.argmin(waste, axis=0), fits)


def _strip_elements(g: Windowed, height: Array, width: Array, columns: Array, w: int) -> Array:
    rows = np.minimum(height, (columns - 2) // width + 2)
    phase = ((width - 1) * g.sw + (g.kw - 1) * g.dw) // g.sw + 1 + w
    single = ((np.minimum(columns, width) - 1) * g.sw + (g.kw - 1) * g.dw) // g.sw + 1 + w
    high = (g.kh - 1) * g.dh + 1
    crossing = np.where((width % columns > 0) | ((height == 1) & (width < columns)), ((rows - 1) * g.sh + high) * phase, 0)
    return np.maximum(np.where(height > 1, crossing, 0), high * single) * g.sw + w


def _gpu_winograd(g: Windowed, f: Facts) -> dict[str, Array]:
    across, down, w, ic = up(g.ow, 4), up(g.oh, 4), f.gpu_width, g.icg
    tiles = across * down
    wide = up(tiles, 2 * w) * 2 <= up(tiles, w) * 1.15
    freq = 36 * 4 * ic * w
    staged = freq > f.local_bytes * 3 // 4
    vectors = np.where(wide & (staged or freq * 2 <= f.local_bytes // 2), 2, 1)
    rows = _gpu_rows(g.ocg, vectors, f, (8, 12))
    columns = vectors * w
    tile_rows = np.minimum(down, (columns - 2) // across + 2)
    strip = 4 * np.where(down == 1, np.minimum(across, columns), across) + 4 * (1 + w)
    local = 4 * (36 * rows * columns + w) + 4 * 16 * columns + 4 * ((tile_rows - 1) * 4 + 6) * strip + 4 * w
    return {"rows": rows, "vectors": vectors, "columns": columns, "panels": up(tiles, columns), "tiles": tiles, "across": across,
            "staged": np.full(len(g.n), staged), "bytes": local + (0 if staged else freq * vectors), "strip_rows": (tile_rows - 1) * 4 + 6}


def _gpu_conv(g: Windowed, f: Facts) -> Iterator[Case]:
    depthwise = (g.icg == 1) & (g.ocg == 1) & (g.groups > 1)
    if depthwise.any():
        if f.local_bytes:
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
    rows, vectors = _gpu_tile(g.ocg, g.pixels, depth, f)
    columns = vectors * f.gpu_width
    fits = 4 * (depth * columns + f.gpu_width + _strip_elements(g, height, width, columns, f.gpu_width)) <= f.local_bytes
    direct = fits & (g.ocg == 1) & (depth < 8)
    winograd = np.zeros(len(g.n), bool)
    if _square(g):
        cut = _gpu_winograd(g, f)
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
        yield _pick(_gpu_panel(g, f, flat, rows, vectors), keep)  # type: ignore[misc]


def _gpu_panel(g: Windowed, f: Facts, flat: Array, rows: Array, vectors: Array) -> Case:
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
        "fma_m": steps * rows * vectors, "step_m": steps, "row_step_m": steps * rows,
        "mb_weights_l2": stream * (level == 1), "mb_weights_l3": stream * (level == 2), "mb_cold": g.groups * weights * M,
        "panel_mvec": stacks * panels * depth * vectors * M, "strip_melem": indirect * strip_rows * strip_row * M,
        "strip_rows_m": indirect * strip_rows * g.sw * M, "taps_m": indirect * g.taps * crossing * M,
        "out_mvec": stacks * panels * g.ocg * vectors * M, "partial_melem": lanes_left * M,
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


def _gpu_strip(g: Windowed, f: Facts, name: str) -> Iterator[Case]:
    """Depthwise convolutions and poolings where a work-item owns a core: strips of rows of one channel."""
    images = g.n * g.oc
    tail, halo = (g.kw - 1) * g.dw // g.sw, (g.kh - 1) * g.dh // g.sh
    pitch, step = g.ow + tail, f.gpu_width * STRIP_VECTORS
    rows = np.clip(STRIP_BYTES // (4 * pitch * (g.sh * g.sw + 1)) - halo, 1, np.maximum(1, g.oh))
    strips = up(g.oh, rows)
    in_rows = (g.oh - 1) * g.sh + strips * ((g.kh - 1) * g.dh + 1)
    runs = up(np.minimum(rows, g.oh) * pitch, step)
    nbytes = images * (g.ih * g.iw + g.pixels) * 4
    terms = {
        "fixed": np.ones(len(images)), "strips_k": images * strips * K, "in_rows_k": images * in_rows * g.sw * K,
        f"in{min(g.sw, 3)}_melem": images * in_rows * pitch * g.sw * M, "fma_m": images * strips * runs * STRIP_VECTORS * g.taps * M,
        "runs_m": images * strips * runs * M, "out_rows_k": images * g.oh * K, "out_melem": images * g.pixels * M,
        "mb": nbytes * M, "mb_l3": nbytes * M * (nbytes > 0.7 * f.l2_bytes),
    }
    sizes = {"images": images, "oh": g.oh, "ow": g.ow, "taps": np.full(len(images), g.taps), "stride": np.full(len(images), g.sw)}
    yield Case(f"{'conv' if name.startswith('conv') else 'pool'}/{name}", np.arange(len(images)), terms, sizes)


def _gpu_product(p: Products, f: Facts) -> Iterator[Case]:
    rows, columns, count, depth = p.rows, p.columns, p.count, p.depth
    if p.flat_b:
        rows, count = rows * count, np.ones_like(count)
    n = len(rows)
    panel = np.full(n, f.local_bytes > 0 and depth > 0) & (p.b_fixed | (4 * depth * f.gpu_width <= f.local_bytes))
    wide = up(columns, 2 * f.gpu_width) * 2 <= up(np.maximum(columns, 1), f.gpu_width) * 1.15
    vectors = np.where(wide, 2, 1)
    if p.b_fixed:
        vectors = np.where(rows <= 2, np.maximum(vectors, np.minimum(8 // np.maximum(rows, 1), up(columns, f.gpu_width))), vectors)
    else:
        vectors = np.where(8 * depth * f.gpu_width > f.local_bytes, 1, vectors)
    tile = _gpu_rows(rows, vectors, f)
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
    elements, rows, chunks, read, written = p.elements, p.rows, p.chunks, p.read, p.written
    woken = np.zeros(len(elements), bool)
    if unit == "cpu" and f.threads > 1:
        woken = (p.flops >= SPLIT_FLOPS) | (read + written >= SPLIT_BYTES)
        share = np.where(woken, f.threads, 1)
        elements, rows, chunks, read, written = (v / share for v in (elements, rows, chunks, read, written))
    total = read + written
    level = _level(total, f)
    terms = {
        "fixed": np.ones(len(elements)), "woken": woken * 1.0, "out_kelem": elements * K, "in_kelem": read / 4 * K, "rows_k": rows * K,
        "chunks_k": chunks * K, "mb_l2": total * M * (level == 1), "mb_l3": total * M * (level == 2),
    }
    dtype = "" if node.output.dtype == np.float32 else f"_{node.output.dtype.name}"
    sizes = {"elements": elements, "inner": p.inner, "read": read, "chunks": chunks}
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
