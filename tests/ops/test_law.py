"""The law itself: it must catch operators that break it."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.ops.base import SplitAxis
from coexec.ops.conv import Conv
from coexec.ops.normalization import LayerNormalization
from coexec.ops.softmax import Softmax
from coexec.regions import Region

from .law import Const, assert_close, assert_law, legal_bounds, make_node


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    return make_node("Conv", [rng.standard_normal((1, 2, 8, 8)).astype(np.float32),
                              Const(rng.standard_normal((4, 2, 3, 3)).astype(np.float32))], {"pads": [1, 1, 1, 1]})


def breaks(node, arrays, match):
    with pytest.raises(AssertionError, match=match):
        assert_law(node, np.random.default_rng(1), arrays)


def test_a_correct_operator_passes(example):
    assert_law(*example[:1], np.random.default_rng(1))


def test_an_axis_that_may_not_be_cut():
    node, arrays = make_node("Softmax", [np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Softmax, "split_axes", lambda self, node: (SplitAxis("channel", 1, 6),))
        breaks(node, arrays, "cut along channel")


def test_an_input_region_outside_the_input(example, monkeypatch):
    correct = Conv.input_regions
    monkeypatch.setattr(Conv, "input_regions", lambda self, node, out: (Region.whole((1, 2, 9, 8)), *correct(self, node, out)[1:]))
    breaks(*example, "leaves")


def test_a_piece_that_depends_on_where_it_lies(example, monkeypatch):
    correct = Conv.compute

    def shifted(self, node, inputs, out):
        return [correct(self, node, inputs, out)[0] + np.float32(out[2].start)]

    monkeypatch.setattr(Conv, "compute", shifted)
    breaks(*example, "cut along height")


def test_a_piece_of_the_wrong_shape_or_type(example, monkeypatch):
    correct = Conv.compute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conv, "compute", lambda self, node, inputs, out: [correct(self, node, inputs, out)[0][:, :, :3]])
        breaks(*example, "has shape")
    monkeypatch.setattr(Conv, "compute", lambda self, node, inputs, out: [correct(self, node, inputs, out)[0].astype(np.float64)])
    breaks(*example, "has dtype float64")


def test_inputs_are_read_only(example, monkeypatch):
    def spoil(self, node, inputs, out):
        inputs[0][:] = 0

    monkeypatch.setattr(Conv, "compute", spoil)
    with pytest.raises(ValueError, match="read-only"):
        assert_law(example[0], np.random.default_rng(1), example[1])


def test_an_output_that_every_piece_writes(monkeypatch):
    rng = np.random.default_rng(0)
    x, scale = rng.standard_normal((4, 6)).astype(np.float32), np.ones(6, np.float32)
    node, arrays = make_node("LayerNormalization", [x, Const(scale)], {}, 3)
    correct = LayerNormalization.compute

    def whole_mean(self, node, inputs, out):
        return [*correct(self, node, inputs, out)[:2], np.ones((4, 1), np.float32)]

    monkeypatch.setattr(LayerNormalization, "compute", whole_mean)
    monkeypatch.setattr(LayerNormalization, "output_regions", lambda self, node, out: (out, out.replace(1, (0, 1)), Region.whole((4, 1))))
    breaks(node, arrays, "not written exactly once")


def test_cuts_are_legal_and_include_the_extremes():
    for axis in (SplitAxis("height", 2, 9), SplitAxis("channel", 1, 12, 4), SplitAxis("channel", 1, 7, 3), SplitAxis("width", 3, 2)):
        cuts = list(legal_bounds(axis, np.random.default_rng(0)))
        for cut in cuts:
            assert cut[0] == 0 and cut[-1] == axis.extent and list(cut) == sorted(cut)
            assert all(c % axis.multiple == 0 or c == axis.extent for c in cut)
        assert {(0, axis.extent), (0, 0, axis.extent), (0, axis.extent, axis.extent), (0, axis.multiple, axis.extent)} <= set(cuts)


def test_closeness_is_exact_for_integers_and_notices_small_differences():
    assert_close(np.float32([1, np.nan, np.inf]), np.float32([1 + 1e-6, np.nan, np.inf]))
    for found, expected in (([1], [2]), (np.float32([1]), np.float32([1.001])), (np.float32([np.nan]), np.float32([0]))):
        with pytest.raises(AssertionError):
            assert_close(found, expected)
