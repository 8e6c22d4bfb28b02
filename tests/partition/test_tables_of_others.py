"""Tables of kernels that others wrote and timed: fits by shapes alone, judged beside what others predict by. The tables are simulated."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from coexec.cost.compose import CostModel
from coexec.cost.geometry import Block, Facts
from coexec.cost.model import ShapeModel
from coexec.cost.shapes import FORMS, sizes, terms
from coexec.errors import UsageError
from coexec.profiles import from_yaml, to_yaml
from coexec.profiling.baselines import BASELINES, predictions
from coexec.profiling.fit import of_coexec, shapes_of
from coexec.profiling.from_table import fit_profile_from_table
from coexec.profiling.judging import held_out_accuracy, processors
from coexec.profiling.sampler import row
from coexec.profiling.table import node_of
from coexec.regions import Region
from tests.partition.phones import LAWS, network_shapes, table


def test_the_tables_are_as_large_as_those_of_real_phones():
    assert 250 <= len(network_shapes()) <= 350
    for law in LAWS:
        assert not of_coexec(table(law)) and all(r.latency_us > 0 for r in table(law))


@pytest.mark.parametrize("law", ["cpu_big", "gpu_image"])
def test_shapes_are_predicted_ten_points_better_than_by_extra_trees_on_the_same_folds(law):
    rows, unit = table(law), LAWS[law][0]
    ours, theirs = held_out_accuracy(rows, 3)[unit], held_out_accuracy(rows, 3, partial(predictions, "extra_trees"))[unit]
    assert ours["count"] == theirs["count"] == len(rows)
    assert ours["within_10pct"] >= theirs["within_10pct"] + 0.1, (ours, theirs)


def test_nothing_leaks_between_folds():
    rng = np.random.default_rng(0)
    noise = {r.shape_key: float(np.exp(rng.normal(0, 2))) for r in table("cpu_little")}
    rows = [replace(r, latency_us=100 * noise[r.shape_key]) for r in table("cpu_little", repeats=2)][:200]
    assert held_out_accuracy(rows)["cpu"]["within_10pct"] < 0.25, "every shape has a time of its own that nothing explains"


def test_a_profile_of_a_table_predicts_it_and_survives_a_file():
    rows = table("cpu_little") + table("gpu_image")
    profile = fit_profile_from_table(rows, "phone")
    text = to_yaml(profile)
    again = from_yaml(text)
    assert again == profile and len(text) < 300_000 and Facts.of(profile.gpu.facts).blocks
    ours, theirs = CostModel(profile), CostModel(again)
    errors = []
    for told in rows:
        node = node_of(told)
        found = ours.kernel(node, Region.whole(node.output.shape), told.unit)
        assert found == theirs.kernel(node, Region.whole(node.output.shape), told.unit) and not found.estimated
        errors.append(abs(found.us / told.latency_us - 1))
    assert np.median(errors) < 0.03
    node = node_of(row("Conv", 1, 64, 56, 56, 128, 3))
    half = ours.kernel(node, Region.whole(node.output.shape).replace(1, (0, 64)), "cpu").us
    assert 0.3 < half / ours.kernel(node, Region.whole(node.output.shape), "cpu").us < 0.8, "pieces of a cut are predicted too"


def test_blocks_are_found_where_they_decide():
    rows = [replace(r, latency_us=5 + -(-r.out_channels // 16) * 16 * r.out_height * r.out_width * r.in_channels * r.kernel_h ** 2 / 1e4)
            for r in table("cpu_big") if r.groups == 1]
    _, told = shapes_of(rows)["shape/conv"]
    model = ShapeModel().fit(told, np.array([r.latency_us for r in rows]))
    assert {model.blocks_[f].channels for f in ("pointwise", "square")} == {16}
    assert model.error_pct_ < 1


def test_sizes_and_terms_are_finite_and_above_zero():
    for rows in (table("cpu_big"), [row("MatMul", 1, 64, 128, 1, 256, g=4), row("Gemm", 1, 64, 1, 1, 10)]):
        for _, told in shapes_of(rows).values():
            assert all(np.isfinite(v).all() and (v > 0).all() for v in sizes(told).values())
            assert all(np.isfinite(v).all() and (v >= 0).all() for v in terms(told, {}).values())
    blocks = tuple(zip(FORMS, (Block(4, 1, False), Block(8, 4, True), Block(16, 8, False), Block(1, 2, True), Block(4, 32, False))))
    assert Facts.of(Facts(blocks=blocks).told()).blocks == blocks
    with pytest.raises(UsageError, match="cannot fit"):
        ShapeModel().fit(told, np.array([1.0]))


def test_processors_and_kernels_of_a_table_are_told_apart():
    rows = table("gpu_image")[:30]
    both = rows + [replace(r, device="another", latency_us=2 * r.latency_us) for r in rows[:20]]
    assert sorted(map(len, processors(both))) == [20, 30]
    assert fit_profile_from_table(both + table("cpu_big")[:30]).gpu.name == "gpu_image", "of one device: that with more rows"
    ways = [replace(r, implementation=w, latency_us=f * r.latency_us) for r in rows for w, f in (("direct", 1.0), ("winograd", 3.0))]
    assert sorted(map(len, processors(ways))) == [30, 30]


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_learn_what_they_can_and_leave_nothing_out(name):
    rows = table("cpu_big")
    us = predictions(name, rows[::2], rows[1::2])
    measured = np.array([r.latency_us for r in rows[1::2]])
    assert (us > 0).all() and np.median(np.abs(us / measured - 1)) < 0.5
    assert (predictions(name, rows[:1], rows[:3]) > 0).all(), "one row alone is something too"
