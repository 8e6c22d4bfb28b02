"""The rule that says by which way a convolution is made: as timings had it where ways are far apart, the same of arrays as of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.ops.conv_ways import Window, best, by_panels, by_tiles, costs, least

LANES, ROWS = 16, 8
SQUARE, POINTWISE, LARGE = (Window((k, k), 1, True, True) for k in (3, 1, 5))
#: (in, out, height, width): what took at most two thirds of the time of the next best, on a server's cores.
FASTEST = [
    (SQUARE, (512, 16, 7, 7), "winograd2"), (SQUARE, (32, 32, 10, 10), "winograd2"), (SQUARE, (128, 256, 14, 14), "winograd4"),
    (SQUARE, (8, 8, 56, 56), "winograd4"), (SQUARE, (256, 256, 2, 7), "rows"), (POINTWISE, (832, 32, 7, 7), "rows"),
    (POINTWISE, (512, 8, 14, 14), "vectors"), (POINTWISE, (64, 64, 56, 56), "vectors"), (LARGE, (16, 16, 56, 56), "blocks"),
    (LARGE, (24, 64, 4, 7), "rows"), (Window((3, 3), 2, False, True), (128, 64, 7, 7), "rows"),
    (Window((3, 3), 1, True, False), (32, 32, 14, 14), "vectors"),
]


@pytest.mark.parametrize("window, shape, way", FASTEST, ids=[f"{s[0]}-{s[1]} {s[2]}x{s[3]} {w}" for _, s, w in FASTEST])
def test_the_way_that_was_far_faster_is_taken(window, shape, way):
    assert best(*shape, window, LANES, ROWS) == way


def test_arrays_are_told_what_numbers_are():
    shapes = np.array([(8, 8, 7, 7), (512, 40, 1, 1), (3, 300, 20, 5), (16, 17, 33, 40), (4, 64, 14, 14)]).T
    for window in (SQUARE, POINTWISE, LARGE):
        every = costs(*shapes, window, LANES, ROWS)
        for i, shape in enumerate(shapes.T):
            one = {name: float(cost) for name, cost in costs(*map(int, shape), window, LANES, ROWS).items()}
            assert one == {name: float(cost[i]) for name, cost in every.items()}
            assert float(least(*shapes, window, LANES, ROWS)[i]) == min(one.values()) == one[best(*map(int, shape), window, LANES, ROWS)]
            assert all(cost > 0 for cost in one.values())


def test_work_items_that_own_a_core_take_tiles_that_fill_vectors():
    tile = (8, 48)

    def fastest(ic: int, oc: int, size: int) -> int:
        tiles = {m: by_tiles(m, ic, oc, (-(-size // m)) ** 2, LANES, tile) for m in (2, 4)}
        works = {0: by_panels(ic, oc, size * size, 9, LANES, tile), **tiles}
        return min(works, key=lambda m: float(works[m]))

    assert fastest(512, 160, 14) == 4, "sixteen tiles are a vector"
    assert fastest(512, 160, 7) == 2, "four tiles are a quarter of one, sixteen smaller ones fill it"
    assert fastest(4, 64, 56) == 0, "few channels do not pay for transforms"
