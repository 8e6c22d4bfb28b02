"""The planner's rules about kernels: the same choice as the devices make, features that grow with work, fits that survive saving."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from coexec.cost import cpu_kernels
from coexec.cost.compose import CostModel
from coexec.cost.geometry import Facts, bounds
from coexec.cost.kernels import bound_by, cases
from coexec.cost.model import FEW, MOST_CENTRES, KernelModel, costs_of_kin
from coexec.devices.cpu.device import shares
from coexec.devices.cpu.simd import LANES, ROWS
from coexec.devices.opencl import conv
from coexec.devices.registry import find_devices
from coexec.errors import ProfileMismatch, UsageError
from coexec.graph.ir import Node, TensorType, Value, constant
from coexec.ops import op_for
from coexec.profiles import MAX_BYTES, from_yaml, to_yaml
from coexec.profiling.facts import board_facts
from coexec.profiling.fit import MOST_NUMBERS, KernelFits, centres_each, facts_of_rows, kernels_of
from coexec.profiling.from_table import fit_profile_from_table
from coexec.profiling.measure import Bench, with_constants
from coexec.profiling.run import profile_devices
from coexec.profiling.sampler import Sampler, draw, random_cut, whole_of
from coexec.profiling.sampler import row as sized
from coexec.profiling.table import Measurement, describe, node_of, piece_of, read_table, tail_text, whole_of_piece
from coexec.regions import Region

#: What a kernel of the rules is called by the device: the middle of `f32_conv_small_7x48`.
NAMES = {
    "conv/pointwise": "conv_pointwise", "conv/pointwise_strided": "conv_pointwise", "conv/columns": "conv_columns",
    "conv/small": "conv_small",
    "conv/small_columns": "conv_small", "conv/few": "conv_few", "conv/shallow": "conv_shallow",
    "conv/winograd2": "conv_winograd2", "conv/winograd4": "conv_winograd4", "conv/winograd_blocks": "conv_winograd_blocks",
    "conv/depthwise_3": "conv_depthwise", "conv/depthwise_5": "conv_depthwise", "conv/depthwise_7": "conv_depthwise",
    "conv/depthwise_planes": "conv_depthwise", "conv/depthwise_lanes": "_lanes",
    "pool/maxpool_2": "maxpool", "pool/maxpool_3": "maxpool", "pool/maxpool_planes": "maxpool", "pool/averagepool_planes": "averagepool",
    "product/strips": "strips", "product/packed": "packed",
    "conv/panel": "conv_panel", "conv/panel_pointwise": "conv_panel", "conv/winograd": "conv_winograd_4x4",
    "conv/winograd_staged": "conv_winograd_4x4", "conv/winograd_2x2": "conv_winograd_2x2", "conv/winograd_2x2_staged": "conv_winograd_2x2",
    "conv/few_items": "conv_few", "conv/blocks": "conv_winograd_blocks", "conv/blocks_staged": "conv_winograd_blocks",
    "conv/conv_depthwise_rows": "conv_depthwise_rows", "conv/conv_depthwise": "conv_depthwise_strip",
    "conv/conv_depthwise_any": "conv_depthwise_strip", "conv/conv_direct": "conv_direct",
    "conv/conv_tiled": "conv_tiled", "conv/conv_items": "conv_depthwise_items", "pool/maxpool_strip": "maxpool_strip",
    "pool/averagepool_strip": "averagepool_strip", "product/panel": "panel", "product/panel_copied": "panel", "product/tiled": "",
}


def few_samples(count: int):
    rng = np.random.default_rng(5)
    for family in ("conv_1x1", "conv_3x3", "conv_dense", "conv_depthwise", "conv_grouped", "gemm", "matmul", "pool"):
        for _ in range(count):
            yield draw(family, rng, (30.0, 2.0, 1 << 20))


def kernel_of(node, region, unit: str, facts: Facts) -> str:
    (case,) = cases([(node, [bounds([region], len(node.output.shape))])], unit, facts)
    return case.kernel


def test_the_rules_name_the_kernels_that_devices_build():
    """Nearly always: kernels may be tuned a little without a planner going wrong."""
    devices, wrong, count = find_devices(), [], 0
    lanes = None
    for sample in few_samples(4):
        node = with_constants(sample.node, np.random.default_rng(0))
        for unit, device in devices.items():
            with Bench(device, node, sample.region) as bench:
                built = bench.kernel.implementation
            if lanes is None:
                first = [Measurement("", "cpu", 1, "Conv", built, "float32", *(None,) * 13, latency_us=1.0)]
                assert "_pointwise_" in built or "_small_" in built, "the first sample tells the width of vectors"
                tile = re.search(r"x(\d+)$", built)
                lanes = facts_of_rows(first).lanes if "_pointwise_" in built else int(tile[1]) // 3
            rows = {16: 8, 8: 4, 4: 4}[lanes]
            facts = Facts.of({**board_facts(device), "lanes": lanes, "tile_rows": rows})
            named = kernel_of(node, sample.region, unit, facts)
            count += 1
            if NAMES[named] not in built:
                wrong.append(f"{unit}: {named} is {built} for {node} {sample.region}")
    assert count >= 32 and len(wrong) <= 0.1 * count, wrong


def test_convolutions_are_told_apart_as_both_devices_do():
    """Exactly, piece by piece: the way is one rule (`ops.conv_ways`), that few channels, grouped ones and single pixels go before."""
    devices, told, rng = find_devices(need_gpu=True), set(), np.random.default_rng(4)
    shapes = [(64, 32, 7, 1, 1), (64, 40, 14, 1, 1), (32, 24, 20, 1, 1), (32, 48, 14, 1, 2), (32, 32, 7, 3, 1), (96, 16, 10, 3, 1),
              (24, 40, 14, 3, 1), (8, 8, 28, 3, 1), (160, 160, 14, 3, 1), (48, 24, 14, 3, 2), (16, 24, 14, 5, 1), (24, 8, 7, 5, 1),
              (24, 24, 28, 7, 1), (16, 3, 40, 9, 1), (3, 16, 28, 3, 1), (64, 20, 1, 1, 1)]
    for ic, oc, size, kernel, stride in shapes:
        sample = whole_of(sized("Conv", 1, ic, size, size, oc, kernel, stride))
        node, whole = with_constants(sample.node, rng), Region.whole(sample.node.output.shape)
        high = whole.shape[2]
        for region in (whole, whole.replace(1, (0, oc // 3)), whole.replace(1, (oc // 3, oc)), whole.replace(2, (0, max(1, high // 2)))):
            for unit, device in devices.items():
                facts = Facts.of({**board_facts(device), **({"lanes": LANES, "tile_rows": ROWS} if unit == "cpu" else {})})
                with Bench(device, node, region) as bench:
                    built = bench.kernel.implementation
                named = kernel_of(node, region, unit, facts)
                told.add((unit, named))
                assert NAMES[named] in built, f"{unit}: {named} is {built} for {node} {region}"
    assert len(told) >= 10, told


def test_transposes_are_told_apart_as_the_cpu_does():
    """Exactly: by rows, by squares, element by element, or left to NumPy."""
    cpu, told = find_devices("none")["cpu"], set()
    facts = Facts.of({"lanes": LANES})

    def value(*shape: int) -> Value:
        return Value("v", TensorType(np.dtype(np.float32), shape))

    for shape, perm in (((1, 128, 4, 64), (0, 2, 1, 3)), ((1, 64, 28, 28), (0, 2, 3, 1)), ((1, 4, 20, 20), (0, 2, 3, 1)),
                        ((1, 3, 320, 320), (0, 2, 3, 1)), ((1, 28, 28, 64), (0, 3, 1, 2)), ((5, 7, 3), (2, 0, 1)), ((1, 12, 16, 5), (0, 2, 1, 3)),
                        ((4, 6), (1, 0)), ((2, 3, 4, 5, 6), (0, 4, 1, 3, 2)), ((1, 16, 5, 64), (0, 1, 3, 2)), ((1, 1, 40, 50), (0, 1, 3, 2)),
                        ((1, 20, 13, 13), (0, 2, 3, 1))):
        node = Node("Transpose", (value(*shape),), (value(*(shape[p] for p in perm)),), {"perm": list(perm)})
        axes = [a for a in op_for(node).split_axes(node) if a.extent > 1][:2]
        for region in (Region.whole(node.output.shape), *(Region.whole(node.output.shape).replace(a.dim, (0, max(1, a.extent // 2))) for a in axes)):
            with Bench(cpu, node, region) as bench:
                built = bench.kernel.implementation
            named = kernel_of(node, region, "cpu", facts)
            told.add(named)
            assert named == f"plain/transpose_{re.search('rows|squares|narrow|numpy', built)[0].replace('numpy', 'moved')}", (
                built, shape, perm, region)
    assert len(told) == 4


@pytest.mark.usefixtures("pocl")
def test_a_gpu_s_piece_cut_along_height_has_the_tile_and_the_layout_of_the_cpu_s_weights(monkeypatch):
    """Exactly: another tile, or weights as strips of channels, makes a piece take up to 1.5 times as long. And so do rows of a table tell it."""
    gpu, asked = find_devices(need_gpu=True)["gpu"], []
    facts, known, rng = Facts.of(board_facts(gpu)), conv.reads_strips, np.random.default_rng(3)
    monkeypatch.setattr(conv, "reads_strips", lambda *told: asked.append(known(*told)) or asked[-1])
    shapes = [(168, 112, 8, 1, 1), (144, 96, 7, 1, 1), (64, 184, 64, 1, 1), (512, 512, 7, 3, 1), (10, 20, 48, 3, 2), (96, 224, 12, 5, 2)]
    told = set()
    for ic, oc, size, kernel, stride in shapes:
        sample = whole_of(sized("Conv", 1, ic, size, size, oc, kernel, stride))
        node, high = with_constants(sample.node, rng), sample.node.output.shape[2]
        for rows in ((0, 1), (0, high // 2), (high // 2, high)):
            region = Region.whole(node.output.shape).replace(2, rows)
            asked.clear()
            with Bench(gpu, node, region) as bench:
                built = bench.kernel.implementation
            if "_panel_" not in built:
                continue
            tile = [int(n) for n in re.search(r"_(\d+)x(\d+)", built).groups()]
            made = Measurement("d", "gpu", None, "Conv", built, "float32", **describe(node, region), busy_other=0,
                               latency_us=1.0, **whole_of_piece(node, region))
            again, piece = piece_of(made)
            for n, r in ((node, region), (again, piece)):
                (case,) = cases([(n, [bounds([r], 4)])], "gpu", facts)
                assert case.sizes["tile"][0] == tile[0] * tile[1] // facts.gpu_width, built
                assert (case.terms["common_step_m"][0] > 0) == asked[-1], (built, region)
            told.add(asked[-1])
    assert told == {True, False}, "some of these are read as strips, some are not"


@pytest.mark.parametrize("size", [4, 7, 10, 13, 14, 20, 27, 28])
@pytest.mark.parametrize("kernel", [1, 3])
def test_what_a_gpu_s_last_panel_lacks_is_not_counted(size, kernel):
    """EACH_WIDTH of gemm_tile.clh: where a single vector is left, one is multiplied, but for tiles of four, which have no such variant."""
    facts = Facts(gpu_width=16, local_bytes=768 << 10)
    node = whole_of(sized("Conv", 1, 24, size, size, 64, kernel, 1)).node
    (case,) = cases([(node, [bounds([Region.whole(node.output.shape)], 4)])], "gpu", facts)
    side = 2 if "2x2" in case.kernel else 4
    columns, points = ((-(-size // side)) ** 2, (side + 2) ** 2) if "winograd" in case.kernel else (size * size, kernel**2)
    rows = round(case.terms["row_step_m"][0] / case.terms["step_m"][0])
    vectors = int(case.sizes["tile"][0]) // rows
    computed = 0
    for first in range(0, columns, 16 * vectors):
        left = min(16 * vectors, columns - first)
        computed += 1 if left <= 16 and vectors < 4 else vectors
    assert case.terms["fma_m"][0] == pytest.approx(computed * -(-64 // rows) * rows * points * 24 * 1e-6), (case.kernel, vectors)


@pytest.mark.parametrize("size", [16, 20, 24, 28, 36, 40])
def test_winograd_s_strips_are_counted_as_they_are_cut(size):
    """As `winograd.products` goes along a block: strips of three vectors, and what is left."""
    node = whole_of(sized("Conv", 1, 16, size, size, 32, 3, 1)).node
    (case,) = cases([(node, [bounds([Region.whole(node.output.shape)], 4)])], "cpu", Facts(lanes=16, tile_rows=8, l2_bytes=1 << 20))
    assert case.kernel == "conv/winograd4"
    count, steps = -(-(size // 4) ** 2 // 16) * 16, 36 * 16 * (32 // 8) * 1e-6
    widths = [min(48, count - start) // 16 for start in range(0, count, 48)]
    assert [case.terms[f"mtile{v}"][0] for v in (3, 2, 1)] == pytest.approx([widths.count(v) * steps for v in (3, 2, 1)])


def test_features_are_finite_and_larger_pieces_have_no_less_work():
    facts = Facts(local_bytes=768 << 10)
    for sample in few_samples(6):
        node = sample.node
        whole = np.array([node.output.shape])
        for axis in op_for(node).split_axes(node)[:2]:
            for unit in ("cpu", "gpu"):
                stop = np.repeat(whole, 2, axis=0)
                stop[0, axis.dim] = max(axis.multiple, axis.extent // 2 // axis.multiple * axis.multiple)
                found = list(cases([(node, [(stop * 0, stop)])], unit, facts))
                assert sorted(i for c in found for i in c.at) == [0, 1], "every piece has one kernel"
                for case in found:
                    assert all(np.isfinite(v).all() and (v >= 0).all() for v in case.terms.values()), case.kernel
                    assert all(np.isfinite(v).all() for v in case.sizes.values())
                    assert len(case.at) < 2 or case.terms["mflop"][0] <= case.terms["mflop"][1]
                    assert bound_by(case.kernel) in ("compute", "memory")


def test_a_batch_is_priced_like_each_piece_by_itself():
    rows = timed(120)
    profile = fit_profile_from_table(rows)
    one, batch = CostModel(profile), CostModel(profile)
    for row in rows[::9]:
        node = node_of(row)
        cuts = [random_cut(whole_of(row), np.random.default_rng(i)) for i in range(5)]
        regions = [Region.whole(node.output.shape), *(c.region for c in cuts if c)]
        batch.prepare([(node, row.unit, regions)])
        if row.op_type not in ("Conv", "MatMul", "Gemm", "MaxPool", "AveragePool"):
            continue  # bytes of other operators are interpolated between pieces
        for region in regions:
            assert batch.kernel(node, region, row.unit).us == pytest.approx(one.kernel(node, region, row.unit).us, rel=1e-12)


def timed(count: int) -> list[Measurement]:
    """Rows of an imagined CPU and GPU whose kernels take what their work and bytes say, a little uneven."""
    rows = []
    sampler = iter(Sampler())
    for _ in range(count):
        _, sample = next(sampler)
        work = op_for(sample.node).work(sample.node, sample.region)
        for unit, rate in (("cpu", 40e3), ("gpu", 60e3)):
            us = 3 + work.flops / rate + (work.bytes_read + work.bytes_written) / 12e3
            told = Measurement("imagined", unit, 1 if unit == "cpu" else None, sample.node.op_type,
                               "f32_conv_pointwise_8x48" + tail_text(sample.node), "float32", **describe(sample.node, sample.region),
                               busy_other=0, latency_us=round(us, 3))
            rows.append(told)
    return rows


def test_predictions_are_the_same_after_saving_and_files_stay_small():
    profile = fit_profile_from_table(timed(300))
    text = to_yaml(profile)
    again = from_yaml(text)
    assert again == profile and len(text) < 200_000
    assert any(fit.correction for fit in profile.cpu.latency.values()), "some correction is in the file"
    ours, theirs = CostModel(profile), CostModel(again)
    for sample in few_samples(3):
        for unit in ("cpu", "gpu"):
            assert ours.kernel(sample.node, sample.region, unit) == theirs.kernel(sample.node, sample.region, unit)


def test_tables_keep_what_is_fused_behind_a_node():
    rows = timed(200)
    fused = [r for r in rows if "+" in r.implementation]
    assert fused and all(tail_text(node_of(r)) == "+" + r.implementation.partition("+")[2] for r in fused)
    terms = {t for _, found, _ in kernels_of(fused, facts_of_rows(fused)).values() for t in found}
    assert {"residual_melem", "cheap_melem", "slow_melem"} & terms


def test_what_each_slow_activation_needs_is_told_apart():
    """Else one that takes several times as long as another, as one by `erf` may, makes both look like the middle of the two."""
    rng, rows, needs = np.random.default_rng(3), [], {"": 0.0, "+Silu": 0.2e-3, "+Tanh": 0.3e-3, "+Gelu": 1.2e-3}
    for number in range(160):
        channels, size, more = int(rng.integers(2, 40)) * 8, int(rng.integers(7, 57)), int(rng.integers(2, 40)) * 8
        shape, tail = sized("Conv", 1, channels, size, size, more, 1), list(needs)[number % len(needs)]
        us = 3 + channels * more * size * size / 40e3 + needs[tail] * more * size * size
        rows.append(replace(shape, unit="cpu", threads=1, implementation="f32_conv_pointwise_8x48" + tail, latency_us=us))
    off = {tail: [] for tail in needs}
    for row, us in zip(rows, KernelFits(rows, facts_of_rows(rows)).predict(rows)):
        off["+".join(["", *row.implementation.split("+")[1:]])].append(us / row.latency_us - 1)
    assert all(abs(np.median(errors)) < 0.05 for errors in off.values()), {tail: np.median(errors) for tail, errors in off.items()}


def test_paddings_that_repeat_what_is_inside_are_told_apart_from_others():
    x, y = (Value(name, TensorType(np.dtype(np.float32), (1, 4, size, size))) for name, size in (("x", 8), ("y", 10)))
    pads = constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    names = {mode: kernel_of(Node("Pad", (x, pads), (y,), {"mode": mode}, name="pad"), Region.whole(y.shape), "gpu", Facts())
             for mode in ("constant", "reflect", "edge", "wrap")}
    assert names["constant"] == "plain/pad" and {names[mode] for mode in ("reflect", "edge", "wrap")} == {"plain/pad_inside"}


def test_what_few_samples_have_costs_nothing_of_its_own():
    rng = np.random.default_rng(0)
    work, y = rng.uniform(1, 100, 60), np.zeros(60)
    for some in (FEW - 1, FEW):
        tail = np.r_[np.full(some, 10.0) * rng.uniform(0.5, 2, some), np.zeros(60 - some)]
        y = 2 * work + 30 * tail
        told = KernelModel(correct=False).fit({"fixed": np.ones(60), "work": work, "tail": tail}, {}, y).latency_.terms
        assert ("us_per_tail" in told) == (some == FEW)


def test_the_middle_of_the_samples_is_predicted():
    """Also where a correction, which is by least squares, is needed. A third were disturbed, and took up to half as long again."""
    rng = np.random.default_rng(1)
    work = rng.uniform(10, 1000, 300)
    y = 3 * work * (1 + 0.3 * np.sin(2 * np.log(work))) * np.where(rng.random(300) < 0.33, rng.uniform(1, 1.5, 300), 1.0)
    fitted = KernelModel().fit({"fixed": np.ones(300), "work": work}, {"work": work}, y).predict({"fixed": np.ones(300), "work": work},
                                                                                                 {"work": work})
    assert np.median(y / fitted) == pytest.approx(1.0, abs=2e-3) and np.mean(y / fitted) > 1.03


def test_a_correction_is_learnt_where_features_do_not_tell_all():
    rng = np.random.default_rng(0)
    work, size = rng.uniform(1, 100, 80), rng.uniform(1, 1000, 80)
    y = 2 * work * np.exp(0.3 * np.sin(np.log(size)))
    terms, sizes = {"fixed": np.ones(80), "mflop": work}, {"size": size}
    plain, corrected = KernelModel(False).fit(terms, sizes, y), KernelModel().fit(terms, sizes, y)
    assert corrected.left_out_pct_ < 0.3 * plain.left_out_pct_ and corrected.error_pct_ < 2
    again = KernelModel.from_profile(corrected.to_profile())
    assert (again.predict(terms, sizes) == corrected.predict(terms, sizes)).all()
    far = again.predict({"fixed": np.ones(1), "mflop": np.array([50.0])}, {"size": np.array([1e12])})
    assert far == pytest.approx(KernelModel.from_profile(plain.to_profile()).predict(
        {"fixed": np.ones(1), "mflop": np.array([50.0])}, {"size": np.array([1e12])}), rel=0.2), "far from all samples it says nothing"
    with pytest.raises(UsageError, match="cannot fit"):
        KernelModel().fit(terms, sizes, y * 0)
    with pytest.raises(UsageError, match="not fitted"):
        KernelModel().predict(terms, sizes)


@pytest.mark.parametrize("family,least", [("conv_1x1", 0.9), ("conv_3x3", 0.9), ("conv_dense", 0.9), ("conv_depthwise", 0.8), ("conv_grouped", 0.9)])
def test_the_rules_share_work_among_threads_as_the_cpu_does(family, least, monkeypatch):
    """Of random pieces for 2 to 8 threads: the slowest thread's channels and rows. Ties, and last vectors that are not full, may differ."""
    shared, rng, same = [], np.random.default_rng(7), []
    rule = cpu_kernels._conv_share
    monkeypatch.setattr(cpu_kernels, "_conv_share", lambda g, f: shared.append(rule(g, f)) or shared[-1])
    for _ in range(120):
        sample, threads = draw(family, rng), int(rng.choice([2, 3, 4, 8]))
        shared.clear()
        list(cases([(sample.node, [bounds([sample.region], 4)])], "cpu", Facts(lanes=LANES, tile_rows=ROWS, threads=threads)))
        (g, _), = shared
        slowest = max(shares(op_for(sample.node), sample.node, sample.region, threads), key=lambda piece: piece.size)
        same.append((int(g.oc[0]), int(g.oh[0])) == slowest.shape[1:3])
    assert np.mean(same) >= least


def test_however_many_timings_a_profile_is_made_of_its_corrections_stay_few_numbers():
    assert centres_each([(1000, 4)]) == MOST_CENTRES == centres_each([(50, 4)])
    many = [(count, sizes) for count in (20, 400, 5000) for sizes in (3, 5, 8) for _ in range(20)]
    each = centres_each(many)
    assert 20 < each < MOST_CENTRES
    assert sum(min(count, each) * (sizes + 1) for count, sizes in many) <= MOST_NUMBERS < sum(
        min(count, each + 1) * (sizes + 1) for count, sizes in many)
    # Four units of them, each number with six digits and a space, and the rest of the file.
    assert 4 * MOST_NUMBERS * 5.2 < MAX_BYTES, "sizes are whole numbers, mostly of a few digits"
    assert centres_each([(100, 9)] * 6000) == 1


def test_a_profile_from_before_with_scaled_logarithms_predicts_the_same():
    rng = np.random.default_rng(1)
    work, size, other = rng.uniform(1, 100, 60), rng.integers(0, 1000, 60).astype(float), rng.integers(1, 9, 60).astype(float)
    terms, sizes = {"fixed": np.ones(60), "mflop": work}, {"size": size, "other": other}
    fit = KernelModel().fit(terms, sizes, 2 * work * np.exp(0.3 * np.sin(np.log(np.maximum(size, 0.5)))) + 0.1 * other).to_profile()
    known = fit_profile_from_table(timed(200))
    text = to_yaml(replace(known, cpu=replace(known.cpu, latency={"conv/x": fit}), gpu=None))
    tree = yaml.safe_load(text)
    told = tree["cpu"]["latency"]["conv/x"]["correction"]
    scaled = np.log(np.maximum(np.reshape([float(v) for v in told.pop("sizes").split()], (-1, 2)), 0.5)) * fit.correction.scale
    told["centres"] = " ".join(f"{v:.6g}" for v in scaled.ravel())
    before, now = (KernelModel.from_profile(from_yaml(t).cpu.latency["conv/x"]).predict(terms, sizes) for t in (yaml.safe_dump(tree), text))
    assert before == pytest.approx(now, rel=1e-3)


@pytest.mark.parametrize("change,words", [
    (lambda t: t.replace(" sizes: ", " sizes: x ", 1), "sizes' is wrong"),
    (lambda t: t.replace(" weights: ", " weights: 1 ", 1), "correction' is wrong"),
    (lambda t: t.replace("scale: ", "scales: ", 1), "unknown key|did you mean scale"),
])
def test_a_wrong_correction_is_named(change, words):
    text = to_yaml(fit_profile_from_table(timed(200)))
    assert change(text) != text
    with pytest.raises(ProfileMismatch, match=words):
        from_yaml(change(text))


def test_a_round_is_resumed_and_an_interrupted_one_is_fitted(tmp_path):
    cpu, path = find_devices("none")["cpu"], tmp_path / "t.csv"
    _, first = profile_devices(cpu, None, time_budget_s=1.5, table=path)
    assert read_table(path) == first and first, "the smallest budget times something"
    calls = []

    def stop(done, total, what):
        calls.extend([what] * (not what.startswith("compiling")))
        if len(calls) == 12:
            raise KeyboardInterrupt

    profile, rows = profile_devices(cpu, None, time_budget_s=30.0, table=path, resume=True, progress=stop)
    assert rows[:len(first)] == first and len(rows) > max(30, len(first)) and read_table(path) == rows
    assert any("/" in name for name in profile.cpu.latency)
    path.write_text(path.read_text().replace(cpu.facts.name, "another board"))
    with pytest.raises(UsageError, match="another board"):
        profile_devices(cpu, None, time_budget_s=1.0, table=path, resume=True)


def test_a_row_has_the_features_of_the_piece_that_was_timed():
    """Also where a piece's sizes alone do not tell in how many runs it lies in memory."""
    sampler, facts, pieces = iter(Sampler(5)), Facts(), 0
    for _ in range(400):
        _, sample = next(sampler)
        node, region = sample.node, sample.region
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        pieces += region != Region.whole(node.output.shape)
        told = Measurement("imagined", "cpu", 1, node.op_type, "f32_x" + tail_text(node), "float32", **describe(node, region), busy_other=0,
                           latency_us=1.0, **whole_of_piece(node, region))
        rebuilt, piece = piece_of(told)
        (theirs,), (ours,) = (list(cases([(n, [bounds([r], len(r))])], "cpu", facts)) for n, r in ((node, region), (rebuilt, piece)))
        assert ours.kernel == theirs.kernel and ours.terms.keys() == theirs.terms.keys()
        for name, value in theirs.terms.items():
            assert ours.terms[name] == pytest.approx(value, rel=1e-9), f"{name} of {node} {region}"
    assert pieces > 40


def test_runs_are_what_lies_side_by_side_in_every_operand():
    kind = TensorType(np.dtype(np.float32), (1, 8, 6, 5))
    vector = TensorType(np.dtype(np.float32), (1, 8, 1, 1))
    add = Node("Add", (Value("a", kind), Value("b", kind)), (Value("y", kind),))
    shifted = Node("Add", (Value("a", kind), Value("b", vector)), (Value("y", kind),))
    turned = Node("Transpose", (Value("x", TensorType(kind.dtype, (1, 6, 8, 5))),), (Value("y", kind),), {"perm": [0, 2, 1, 3]})
    whole = Region.whole(kind.shape)

    def runs(node, region):
        return float(next(iter(cases([(node, [bounds([region], 4)])], "cpu", Facts()))).terms["runs_k"][0]) * 1e3

    assert [runs(n, whole) for n in (add, shifted, turned)] == pytest.approx([1, 8, 48])
    assert [runs(n, whole.replace(1, (2, 6))) for n in (add, shifted)] == pytest.approx([1, 4])
    assert [runs(n, whole.replace(2, (0, 3))) for n in (add, shifted)] == pytest.approx([8, 8])


def test_few_samples_are_told_by_kernels_of_their_kind():
    rng = np.random.default_rng(3)

    def table(count, factor):
        terms = {"fixed": np.ones(count), "in_kelem": rng.uniform(1, 500, count), "runs_k": rng.uniform(0.001, 2, count)}
        us = factor * (3 + 0.05 * terms["in_kelem"] + 9 * terms["runs_k"]) * np.exp(rng.normal(0, 0.05, count))
        return terms, us

    many, few, asked = table(200, 1.0), table(8, 1.1), table(200, 1.1)
    costs = costs_of_kin([many, few])
    assert costs == pytest.approx({"fixed": 3, "in_kelem": 0.05, "runs_k": 9}, rel=0.15)
    with_kin, without = (KernelModel(correct=False).fit(*few[:1], {}, few[1], told).predict(asked[0], {}) for told in (costs, None))
    errors = [float(np.abs(us / asked[1] - 1).mean()) for us in (with_kin, without)]
    assert errors[0] < 0.08 and errors[0] <= errors[1] + 0.005


def test_few_samples_lean_on_what_features_cost_elsewhere():
    """A bias that four of twelve samples have, each a small one, must not be made to cost what disturbed those four."""
    rng, count = np.random.default_rng(8), 12
    biased = np.arange(count) < 4
    terms = {"fixed": np.ones(count), "mtile3": rng.uniform(0.001, 0.05, count), "bias_melem": np.where(biased, rng.uniform(1e-4, 2e-3, count), 0.0)}
    us = (4 + 6000 * terms["mtile3"]) * np.exp(rng.normal(0, 0.05, count)) * np.where(biased, 1.6, 1.0)
    prior = {"fixed": 8.0, "mtile3": 9000.0, "bias_melem": 500.0}
    asked = {"fixed": np.ones(1), "mtile3": np.array([0.05]), "bias_melem": np.array([0.13])}
    leaning, alone = (KernelModel(correct=False).fit(terms, {}, us, prior=told).predict(asked, {})[0] for told in (prior, None))
    assert 250 < leaning < 600 < alone

    many = {name: np.tile(value, 20) for name, value in terms.items()}
    every = np.tile(us, 20)
    assert KernelModel(correct=False).fit(many, {}, every, prior=prior).latency_ == KernelModel(correct=False).fit(many, {}, every).latency_, (
        "many samples speak for themselves")


def test_kernels_with_few_timings_or_none_are_told_by_those_that_were_timed():
    """On a board where all that is known takes twice as long as elsewhere; marked as estimates. A table of few kernels tells of no others."""
    prior = {"conv/pointwise": {"fixed": 4.0, "mflop": 5.0}, "conv/columns": {"fixed": 9.0, "mflop": 7.0}, "conv/winograd4": {"mflop": 3.0},
             "conv/few": {"fixed": 1.0, "mflop": 11.0}, "plain/relu": {"fixed": 5.0}, "plain/add": {"fixed": 6.0}}
    rng, timed = np.random.default_rng(2), {}
    for name, count, longer in (("conv/pointwise", 9, 2), ("conv/columns", 9, 2), ("conv/winograd4", 2, 2.5), ("plain/relu", 1, 3)):
        terms = {"fixed": np.ones(count), "mflop": rng.uniform(1, 90, count)}
        timed[name] = terms, longer * sum(prior[name].get(n, 0.0) * v for n, v in terms.items())
    fitted = frozenset({"conv/pointwise", "conv/columns"})
    found = {name: model.latency_ for name, model in KernelFits._estimated(prior, timed, fitted).items()}
    assert {name: latency.terms for name, latency in found.items()} == {
        "conv/few": pytest.approx({"fixed_us": 2.0, "us_per_mflop": 22.0}), "conv/winograd4": pytest.approx({"us_per_mflop": 7.5}),
        "plain/relu": pytest.approx({"fixed_us": 15.0})}
    assert {(latency.samples, latency.provenance) for latency in found.values()} == {(0, "estimated")}
    assert KernelFits._estimated(prior, dict(list(timed.items())[:2]), fitted) == {}
