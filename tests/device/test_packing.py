"""Packed weights: every layout against its definition in NumPy, wherever the weights lie."""

import weakref

import numpy as np
import pytest
from onnx import helper, numpy_helper

from coexec import InferenceSession
from coexec.devices.cpu.matmul import pack_strips
from coexec.devices.cpu.packing import pack, pack_filters, side_by_side, strips_of
from coexec.devices.cpu.panels import pack_rows
from coexec.devices.cpu.shared import Packed, fill, packed_once
from coexec.devices.cpu.simd import LANES, PANEL, ROWS
from coexec.devices.cpu.threads import run_all
from coexec.devices.cpu.winograd import G
from coexec.devices.cpu.winograd_blocks import G as BLOCK_G
from coexec.devices.opencl import host
from coexec.devices.opencl.products import pack_columns

RNG = np.random.default_rng(1)


def array(*shape: int, shift: int = 0) -> np.ndarray:
    """Random float32, `shift` bytes off any alignment."""
    found = RNG.standard_normal(shape, dtype=np.float32)
    raw = np.zeros(found.nbytes + 8, np.uint8)
    raw[shift:shift + found.nbytes] = found.reshape(-1).view(np.uint8)
    return np.frombuffer(raw, np.float32, found.size, shift).reshape(shape)


def filled(packing) -> np.ndarray:
    packing.data[:] = np.nan
    run_all(packing.tasks[::-1], 3)
    return packing.data


def strips(matrix: np.ndarray, width: int) -> np.ndarray:
    """The definition: strips of `width` columns, zeros beyond the last column."""
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % width)))
    return np.concatenate([padded[:, at:at + width].reshape(-1) for at in range(0, padded.shape[1], width)])


@pytest.mark.parametrize("shift", [0, 1, 6])
@pytest.mark.parametrize("depth, columns", [(1, 1), (7, PANEL), (300, 5 * PANEL + 3), (33, 4 * LANES)])
@pytest.mark.parametrize("turned", [False, True])
def test_strips(depth: int, columns: int, turned: bool, shift: int):
    matrix = array(columns, depth, shift=shift).T if turned else array(depth, columns, shift=shift)
    found = filled(pack_strips(matrix, 0.5))
    at, rest = 0, matrix * np.float32(0.5)
    while rest.shape[1]:
        left = -(-rest.shape[1] // LANES)
        width = min(3 if left != 4 else 2, left) * LANES
        assert np.array_equal(found[at:at + depth * width], strips(rest[:, :width], width))
        at, rest = at + depth * width, rest[:, width:]
    assert at == found.size
    assert np.array_equal(pack_columns(matrix, 12).reshape(-1), strips(matrix, 12))


@pytest.mark.parametrize("m, k", [(1, 1), (ROWS, 192), (3 * ROWS + 1, 500), (5, 700)])
def test_rows(m: int, k: int):
    stack = array(2, m, k, shift=3)
    for rows, pack_some in ((ROWS, pack_rows), (6, lambda a: host.rows(a, 6))):
        assert np.array_equal(filled(pack_some(stack)), np.concatenate([strips(a.T, rows) for a in stack]))


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("out, channels, groups, rows", [(1, 1, 1, 8), (21, 5, 1, 8), (26, 3, 2, 12)])
def test_filters(m: int, out: int, channels: int, groups: int, rows: int):
    w, g, points = array(out, channels, 3, 3, shift=2), G[m], (m + 2) ** 2
    transformed = np.einsum("ab,ocbd,ed->aeoc", g, w.astype(np.float64), g).reshape(points, groups, out // groups, channels)
    padded = np.pad(transformed, ((0, 0), (0, 0), (0, -(out // groups) % rows), (0, 0)))
    tiled = padded.reshape(points, groups, -1, rows, channels)  # point, group, tile, row, channel
    np.testing.assert_allclose(filled(pack_filters(w, g, rows, groups)), tiled.transpose(1, 2, 0, 4, 3).reshape(-1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(filled(pack_filters(w, g, rows, groups, points_first=True)), tiled.transpose(0, 1, 2, 4, 3).reshape(-1),
                               rtol=1e-6, atol=1e-7)
    cpu = filled(pack_filters(w, g, rows, groups))
    assert np.array_equal(filled(host.filters(w, m, rows, groups)), cpu)  # both devices multiply by the very same numbers


@pytest.mark.parametrize("side", [5, 7, 8])
def test_filters_in_blocks(side: int):
    out, channels, rows = 11, 3, 8
    w = array(out, channels, side, side, shift=2)
    whole = np.pad(w.astype(np.float64), ((0, 16 - out), (0, 0), (0, 8 - side), (0, 8 - side))).reshape(2, rows, channels, 2, 4, 2, 4)
    wanted = np.einsum("ai,trcpiqj,bj->abtpqcr", BLOCK_G, whole, BLOCK_G)
    found = filled(pack_filters(w, BLOCK_G, rows, points_first=True, blocks=2))
    np.testing.assert_allclose(found, wanted.reshape(-1), rtol=1e-6, atol=1e-7)


def test_large_weights_are_many_tasks_that_any_thread_may_run():
    matrix = array(1500, 1000)
    packing = pack(matrix, side_by_side(strips_of(1500, 1000, 16, 1000, 1), 1, 0), 1000, 1)
    assert len(packing.tasks) > 2
    assert np.array_equal(filled(packing), strips(matrix, 16))


def test_what_a_task_raises_comes_out():
    def fail() -> None:
        raise ValueError("no")

    done: list[int] = []
    with pytest.raises(ValueError, match="no"):
        run_all([fail, *(lambda i=i: done.append(i) for i in range(20))], 3)
    run_all([], 3)


def test_what_is_packed_alike_is_packed_once():
    w, tasks = array(20, 30), []

    def make(rows: int = ROWS):
        def pack_it():
            tasks.append(rows)
            return pack_rows(w, rows=rows)
        return pack_it

    first, second = (packed_once(w, "whole", ("rows", ROWS), make()) for _ in range(2))
    other = packed_once(w, "whole", ("rows", 6), make(6))
    assert first is second and other is not first and tasks == [ROWS, 6]
    fill([second, other], threads=2)
    fill([first])  # filled already: nothing is done twice
    assert np.array_equal(first.data, strips(w.T, ROWS)) and not first.tasks
    gone = weakref.ref(first)
    del first, second
    assert gone() is None  # nobody holds it
    again = packed_once(w, "whole", ("rows", ROWS), make())
    assert tasks[-1] == ROWS and again.tasks  # never filled, and nobody takes it for the one before


@pytest.mark.parametrize("channels", [1, 16, 40, 64, 96, 144, 200, 1000])
def test_strips_lie_where_the_gpu_looks_for_them(channels: int):
    w = array(channels, 7, 1, 1)
    found, (wide, turn, narrow) = filled(host.strips(w)), host.strip_widths(channels)
    for m in range(channels):
        width, start = (wide, m // wide * wide) if m < turn else (narrow, turn + (m - turn) // narrow * narrow)
        assert np.array_equal(found[start * 7 + m - start:][:7 * width:width], w[m, :, 0, 0])


@pytest.mark.parametrize("side, pads, size, stride", [(1, 0, 40, 1), (3, 1, 40, 1), (1, 0, 14, 1), (3, 1, 14, 2)])
def test_both_sides_of_a_cut_along_height_read_one_copy(side: int, pads: int, size: int, stride: int):
    x, w = array(1, 128, size, size), array(256, 128, side, side)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[pads] * 4, strides=[stride] * 2)
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info("x", 1, x.shape)], [helper.make_tensor_value_info("y", 1, None)],
                              [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with InferenceSession(model, strategy="fixed:gpu=0.5,axis=height") as session, InferenceSession(model, strategy="cpu") as alone:
        gpu, cpu = (session._ready.queues[name] for name in ("gpu", "cpu"))
        held = [owner for (owner, _), _ in gpu._constants.values() if isinstance(owner, Packed)]
        assert bool(held) == ("svm" in session.devices["gpu"].facts.sharing), "one copy where the GPU can read the CPU's memory"
        assert all(any(p is mine for mine in cpu._packs.held) for p in held)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], alone.run(None, {"x": x})[0], rtol=1e-4, atol=3e-3)
