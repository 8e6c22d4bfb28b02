"""Made-up phones: convolution shapes of known networks, and latencies by laws that the predictors do not know.

No phone was measured for these tables: they are simulated. Each law has what real kernels have and a line in FLOPs has not: blocks of
channels and pixels, waves of work-groups or shares of threads, floors of starting a kernel, caches that end, and algorithms that change
with the shape. A fit that wins on all of them was not tuned to one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from coexec.profiling.sampler import row
from coexec.profiling.table import Measurement

Shape = tuple[int, int, int, int, int, int]  # input channels, map, output channels, kernel, stride, groups


def network_shapes() -> list[Shape]:
    """Distinct convolutions of VGG, ResNet, MobileNet, SqueezeNet, GoogLeNet, EfficientNet, YOLO and pose-estimation kinds of networks."""
    found: list[Shape] = [(3, 224, c, k, s, 1) for c, k, s in ((64, 7, 2), (32, 3, 2), (16, 3, 2), (24, 3, 2), (64, 3, 1), (64, 3, 2))]
    for c, hw, oc in ((64, 224, 64), (64, 112, 128), (128, 112, 128), (128, 56, 256), (256, 56, 256), (256, 28, 512),
                      (512, 28, 512), (512, 14, 512)):
        found.append((c, hw, oc, 3, 1, 1))
    for base, hw in ((64, 56), (128, 28), (256, 14), (512, 7)):
        found += [(base, hw, base, 3, 1, 1), (base, hw, 4 * base, 1, 1, 1), (4 * base, hw, base, 1, 1, 1)]
        if hw > 7:
            found += [(base, hw, 2 * base, 3, 2, 1), (base, hw, 2 * base, 1, 2, 1), (4 * base, hw, 2 * base, 1, 1, 1),
                      (4 * base, hw, 8 * base, 1, 2, 1), (2 * base, hw, 2 * base, 3, 2, 1)]
    for c, hw, oc, s in ((32, 112, 64, 1), (64, 112, 128, 2), (128, 56, 128, 1), (128, 56, 256, 2), (256, 28, 256, 1), (256, 28, 512, 2),
                         (512, 14, 512, 1), (512, 14, 1024, 2), (1024, 7, 1024, 1)):
        found += [(c, hw, c, 3, s, c), (c, hw // s, oc, 1, 1, 1)]
    for c, hw, oc, t, s, k in ((16, 112, 24, 6, 2, 3), (24, 56, 24, 6, 1, 3), (24, 56, 32, 6, 2, 3), (32, 28, 32, 6, 1, 3), (32, 28, 64, 6, 2, 3),
                               (64, 14, 64, 6, 1, 3), (64, 14, 96, 6, 1, 3), (96, 14, 96, 6, 1, 3), (96, 14, 160, 6, 2, 3),
                               (160, 7, 160, 6, 1, 3),
                               (160, 7, 320, 6, 1, 3), (24, 56, 40, 3, 2, 5), (40, 28, 40, 3, 1, 5), (40, 28, 80, 6, 2, 3), (80, 14, 112, 6, 1, 5),
                               (112, 14, 112, 6, 1, 5), (112, 14, 192, 6, 2, 5), (192, 7, 192, 6, 1, 5), (192, 7, 320, 6, 1, 3),
                               (48, 65, 48, 4, 1, 3),
                               (56, 48, 72, 5, 2, 5), (72, 24, 72, 5, 1, 3), (16, 160, 16, 4, 2, 3), (8, 112, 16, 3, 2, 3), (48, 33, 88, 4, 2, 5)):
        found += [(c, hw, t * c, 1, 1, 1), (t * c, hw, t * c, k, s, t * c), (t * c, -(-hw // s), oc, 1, 1, 1)]
    for c, hw, squeeze, expand in ((64, 55, 16, 64), (128, 55, 32, 128), (256, 27, 32, 128), (256, 27, 48, 192),
                                   (384, 27, 64, 256), (512, 13, 64, 256)):
        found += [(c, hw, squeeze, 1, 1, 1), (squeeze, hw, expand, 1, 1, 1), (squeeze, hw, expand, 3, 1, 1)]
    for c, hw, a, b, d, e, f in ((192, 28, 64, 96, 128, 16, 32), (256, 28, 128, 128, 192, 32, 96), (480, 14, 192, 96, 208, 16, 48),
                                 (512, 14, 160, 112, 224, 24, 64), (512, 14, 128, 128, 256, 24, 64), (528, 14, 256, 160, 320, 32, 128),
                                 (832, 7, 384, 192, 384, 48, 128)):
        found += [(c, hw, a, 1, 1, 1), (c, hw, b, 1, 1, 1), (b, hw, d, 3, 1, 1), (c, hw, e, 1, 1, 1), (e, hw, f, 5, 1, 1)]
    for c, hw in ((32, 208), (64, 104), (128, 52), (256, 26), (512, 13)):
        found += [(c, hw, 2 * c, 3, 1, 1), (2 * c, hw, c, 1, 1, 1), (c, 2 * hw, 2 * c, 3, 2, 1)]
    for c, hw in ((128, 32), (128, 64), (256, 32), (64, 128), (149, 32)):
        found += [(c, hw, 128, 7, 1, 1), (c, hw, 128, 1, 1, 1), (c, hw, 21, 1, 1, 1), (c, hw, 256, 3, 1, 1)]
    for hw in (10, 20, 40, 80, 160):
        found += [(256, hw, oc, 3, 1, 1) for oc in (6, 12, 64, 128, 256)] + [(c, hw, 256, 1, 1, 1) for c in (512, 1024)[:1 + (hw < 80)]]
    for stage, hw in ((64, 56), (128, 28), (256, 14), (512, 7)):
        found += [(stage + 32 * i, hw, 128, 1, 1, 1) for i in (1, 3, 6)] + [(128, hw, 32, 3, 1, 1), (116, hw, 116, 1, 1, 1), (58, hw, 58, 3, 1, 58)]
    return list(dict.fromkeys(found))


def up(n: int, d: int) -> int:
    return -(-n // d)


def _gpu_image(c: int, hw: int, oc: int, k: int, s: int, g: int) -> float:
    """Channels by four in textures, work-items of 4 channels x 4 pixels in waves over 9 cores; pointwise weights that leave the cache cost."""
    o = up(hw, s)
    cores, clock = 9, 0.65e3
    if g == c and c > 1:
        items = up(c, 4) * up(o, 2) * o
        mac, nbytes = items * k * k * 8, 4 * c * (o * o + hw * hw)
        return 38 + up(items, 64 * cores) * (k * k * 26 + 60) / clock * 1.4 + 0.2 * mac / (cores * 64 * clock) + nbytes / 17e3
    items = up(oc, 4) * up(o, 4) * o
    steps = up(c, 4) * k * k
    tile = 64 if o >= 14 else 32
    waves = up(items, tile * cores)
    weights = oc * c * k * k * 2
    slow = 1.0 + 0.45 * (weights > 1 << 20) + 0.18 * (steps * 8 * 64 > 128 << 10)
    return 38 + waves * (steps * (20 if k == 1 else 27 if s == 1 else 33) + 130) / clock * slow + (weights + 2 * oc * o * o) / 14e3


def _gpu_winograd(c: int, hw: int, oc: int, k: int, s: int, g: int) -> float:
    """Half precision, Winograd for deep 3x3 convolutions, else a product of 8 x 8 tiles in groups of 16 x 4, on 12 cores."""
    o = up(hw, s)
    if g == c and c > 1:
        return 95 + up(c * up(o, 4) * up(o, 2), 2304) * k * k * 0.055 + 2 * c * (hw * hw + o * o) / 24e3 + (0.012 * c if s == 2 else 0)
    if k == 3 and s == 1 and c >= 32 and oc >= 32 and o >= 12:
        tiles = up(o, 4) ** 2
        move = 36 * tiles * (c + oc) * 2 / 15e3
        return 240 + move + 36 * up(up(oc, 16) * up(tiles, 8), 24) * (up(c, 4) * 0.026 + 0.12)
    rows, columns, depth = up(oc, 8), up(o * o, 8), c * k * k
    groups = up(rows, 4) * up(columns, 16)
    miss = 1 + 0.5 / (1 + (3e5 / (depth * 64)) ** 2)
    return 95 + up(groups, 12) * (depth * 0.031 * miss + 1.3) * (1.0 if k == 1 else 1.22) + 2 * (c * hw * hw + oc * o * o) / 24e3


def _cpu_big(c: int, hw: int, oc: int, k: int, s: int, g: int) -> float:
    """Four big cores: Winograd of 2, 4 or 6 by its own estimate, products of 12 x 8 shared out whole, bytes beyond a cache of 2 MB."""
    o = up(hw, s)
    memory = max(0.0, 4 * (c * hw * hw + oc * o * o + oc * (c // g) * k * k) - (2 << 20)) / 13e3
    if g == c and c > 1:
        wide, slow = (4, 1.0) if s == 1 else (2, 1.5)
        return 6 + up(up(c, 4), 4) * 4 * up(o, wide) * wide * o * k * k / 3.9e3 * slow + memory * 0.8

    def product(rows: int, columns: int, depth: int) -> float:
        return up(up(columns, 12) * up(rows, 8), 4) * (depth * 12 * 8 / 30e3 * (1 + 0.25 * (depth * 96 > 48 << 10)) + 0.09)

    if k == 3 and s == 1 and min(c, oc) >= 8:
        plain = product(oc, o * o, 9 * c)
        ways = [((m + 2) ** 2 * product(oc, up(o, m) ** 2, c) + (m + 2) ** 2 * up(o, m) ** 2 * (1.8 * c + 1.4 * oc) / 6e3, m) for m in (2, 4, 6)]
        cost, m = min(ways)
        if cost < 0.9 * plain:
            return 14 + cost + memory
    packing = c * k * k * o * o / 9e3 if k > 1 or s > 1 else c * o * o / 22e3
    return 10 + product(oc, o * o, c * k * k) + packing + memory


def _cpu_little(c: int, hw: int, oc: int, k: int, s: int, g: int) -> float:
    """One small core without much cache: direct convolution by 16 channels and 2 pixels, small channels waste lanes."""
    o = up(hw, s)
    nbytes = 4 * (c * hw * hw + oc * o * o)
    slow = 1 + 0.7 / (1 + (3e5 / max(1, (c // g) * k * k * 16 * 4 * 16)) ** 3) + 0.35 * (c * hw * 4 * k > 512 << 10)
    if g == c and c > 1:
        return 3 + up(c, 8) * 8 * o * (up(o, 2) * 2 * k * k / 1.5e3 + 0.02) * (1 + 0.35 * (k == 5)) + nbytes / 4e3
    return 3 + up(oc, 16) * o * up(o, 2) * (up(c, 2) * 2 * k * k * 32 / 7.2e3 * slow + 0.012) + nbytes / 5e3


def _gpu_small(c: int, hw: int, oc: int, k: int, s: int, g: int) -> float:
    """Four cores, half of every tile of 8 channels wasted on thin layers, groups of 32 pixels in a row, bandwidth shared with the CPU."""
    o = up(hw, s)
    if g == c and c > 1:
        return 160 + max(up(c, 4) * up(o, 8) * o * 8 * k * k * 4 / 11e3, 2 * c * (hw * hw + o * o) / 5.5e3) + 30 * (o % 8 != 0)
    items = up(oc, 8) * up(o, 32 if o >= 28 else 8) * (32 if o >= 28 else 8) * o
    compute = up(items, 256) * 256 * up(c, 4) * 4 * k * k * 8 / 41e3
    bytes_ = up(oc, 8) * c * hw * hw * k * 2 / (28e3 if c * hw * hw * 2 < 1 << 19 else 13e3)
    return 160 + (compute ** 4 + bytes_ ** 4) ** 0.25


LAWS: dict[str, tuple[str, Callable[..., float], float]] = {
    "gpu_image": ("gpu", _gpu_image, 0.02), "gpu_winograd": ("gpu", _gpu_winograd, 0.03), "gpu_small": ("gpu", _gpu_small, 0.05),
    "cpu_big": ("cpu", _cpu_big, 0.03), "cpu_little": ("cpu", _cpu_little, 0.01),
}


def table(law: str, seed: int = 0, repeats: int = 1) -> list[Measurement]:
    """The rows of one made-up processor, with noise; one timing in fifty was disturbed."""
    unit, latency, noise = LAWS[law]
    rng = np.random.default_rng(seed)
    rows = []
    for c, hw, oc, k, s, g in network_shapes():
        for _ in range(repeats):
            us = latency(c, hw, oc, k, s, g) * float(np.exp(rng.normal(0, noise))) * (1.25 if rng.random() < 0.02 else 1.0)
            made = row("Conv", 1, c, hw, hw, oc, k, s, g)
            rows.append(replace(made, device=law, unit=unit, threads=4, latency_us=us, busy_other=None))
    return rows
