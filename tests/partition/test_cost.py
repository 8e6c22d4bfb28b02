"""Features, fits, composition of costs, and the table of measurements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from coexec.cost.compose import CostModel, roofline_us
from coexec.cost.features import COLUMN_OF_TERM, COLUMNS, FAMILIES, family, features, term
from coexec.cost.model import LatencyModel
from coexec.devices.null.device import NullDevice
from coexec.errors import DeviceError, ProfileMismatch, UsageError
from coexec.graph.ir import Node, TensorType, Value
from coexec.ops import op_for
from coexec.ops.fallback import is_fallback
from coexec.partition.plan import cut, on_one_device
from coexec.profiles import Latency, from_yaml, to_yaml
from coexec.profiling.from_table import fit_profile_from_table
from coexec.profiling.judging import accuracy, held_out_accuracy, noise_floor
from coexec.profiling.section import MIN_SAMPLES
from coexec.profiling.measure import measure
from coexec.profiling.run import profile_devices
from coexec.profiling.sampler import SHAPES, row, samples
from coexec.profiling.table import COLUMNS as TABLE_COLUMNS
from coexec.profiling.table import Measurement, describe, node_of, read_table, write_table
from coexec.regions import Region
from tests.partition.boards import Net, board, classifier, tangle

DESIGN = ("device,unit,threads,op_type,implementation,dtype,batch,in_channels,in_height,in_width,out_channels,out_height,out_width,"
          "kernel_h,kernel_w,stride_h,stride_w,groups,busy_other,latency_us,spread_us,count,of_channels,of_height,of_width,"
          "reference_far_ns,reference_store_ns,reference_compute_ns")


def test_features_of_a_convolution_and_of_half_of_it():
    net = Net(1, 3, 8, 8)
    node = net.graph(net.conv("x", 3, 4)).nodes[0]
    whole = dict(zip(COLUMNS, features(node, Region.whole(node.output.shape))))
    assert whole["fixed"] == 1 and whole["mflop"] == pytest.approx(2 * 27 * 4 * 64 / 1e6)
    assert whole["mbyte_read"] == pytest.approx(4 * (3 * 64 + 4 * 27) / 1e6) and whole["mbyte_written"] == pytest.approx(4 * 4 * 64 / 1e6)
    assert whole["mbyte"] == whole["mbyte_read"] + whole["mbyte_written"]
    assert (whole["kelement_out"], whole["krow_out"]) == (0.256, 0.032)
    half = dict(zip(COLUMNS, features(node, Region.whole(node.output.shape).replace(2, (0, 4)))))
    assert half["mflop"] == whole["mflop"] / 2
    assert half["mbyte_read"] == pytest.approx(4 * (3 * 5 * 8 + 4 * 27) / 1e6), "a halo row is read twice, the weights too"


def test_families():
    net = Net(1, 8, 9, 9)
    kinds = {"conv_1x1": dict(kernel=1), "conv_3x3": {}, "conv_dense": dict(kernel=5), "conv_depthwise": dict(group=8),
             "conv_grouped": dict(group=2)}
    outputs = [net.conv("x", 8, 8, **k) for k in kinds.values()]
    outputs.append(net.conv("x", 8, 8, strides=[2, 2]))
    nodes = net.graph(*outputs).nodes
    assert [family(n) for n in nodes] == [*kinds, "conv_dense"]
    for graph in (classifier(1), tangle()):
        assert {family(n) for n in graph.nodes} <= set(FAMILIES)


def test_a_fit_finds_the_coefficients_and_the_model_keeps_the_columns():
    rng = np.random.default_rng(0)
    X = rng.uniform(0.1, 50, (60, len(COLUMNS)))
    X[:, 0] = 1
    y = 3 + 2 * X[:, 1] + 0.5 * X[:, 2]
    model = LatencyModel().fit(X, y)
    assert model.coef_[:3] == pytest.approx([3, 2, 0.5], rel=1e-6) and not model.coef_[3:].any()
    assert model.n_features_in_ == len(COLUMNS) and model.error_pct_ < 1e-6
    again = LatencyModel.from_profile(model.to_profile())
    assert again.predict(X) == pytest.approx(y, rel=1e-3)
    assert [term(COLUMNS[COLUMN_OF_TERM[t]]) for t in model.to_profile().terms] == ["fixed_us", "us_per_mflop", "us_per_mbyte"]
    assert model.fit(X, y) is model and LatencyModel(**model.get_params()).columns == model.columns


@given(st.integers(0, 1000))
def test_more_work_is_never_predicted_to_take_less(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.uniform(0, 10, (8, len(COLUMNS))), rng.uniform(0.1, 1e4, 8)
    model = LatencyModel().fit(X, y)
    assert (model.coef_ >= 0).all() and (model.predict(X + rng.uniform(0, 1, X.shape)) >= model.predict(X)).all()


def test_fit_weighs_relative_errors():
    """Small kernels count as much as large ones: least squares on microseconds would be off by half on the small ones."""
    X = np.ones((4, len(COLUMNS)))
    X[:, 1] = [1, 2, 1000, 2000]
    X[:, 2:] = 0
    y = np.array([10.0, 20.0, 9000.0, 20000.0])
    ours = LatencyModel().fit(X, y).predict(X)
    plain = LinearRegression(positive=True, fit_intercept=False).fit(X, y).predict(X)
    assert np.abs(ours / y - 1).max() < np.abs(plain / y - 1).max() and np.abs(ours / y - 1).max() < 0.15


@pytest.mark.parametrize("X,y", [(np.ones((2, 3)), np.ones(2)), (np.ones((2, len(COLUMNS))), np.zeros(2)),
                                 (np.ones((0, len(COLUMNS))), np.ones(0)),
                                 (np.full((2, len(COLUMNS)), np.nan), np.ones(2))])
def test_what_cannot_be_fitted(X, y):
    with pytest.raises(UsageError, match="cannot fit"):
        LatencyModel().fit(X, y)


def test_models_say_when_they_know_nothing():
    with pytest.raises(UsageError, match="not fitted"):
        LatencyModel().predict(np.ones((1, len(COLUMNS))))
    with pytest.raises(ProfileMismatch, match="unknown latency term 'us_per_mflops'.*did you mean us_per_mflop"):
        LatencyModel.from_profile(Latency({"us_per_mflops": 1.0}))


def test_a_node_costs_the_longer_part_and_launch_and_wait():
    net = Net(1, 16, 32, 32)
    node = net.graph(net.conv("x", 16, 32)).nodes[0]
    cost = CostModel(board(100, 50, launch_us=7, sync_us=40))
    axis = op_for(node).axis(node, "channel")
    halves = [Region.whole(node.output.shape).replace(1, r) for r in ((0, 16), (16, 32))]
    gpu, cpu = cost.kernel(node, halves[0], "gpu").us, cost.kernel(node, halves[1], "cpu").us
    assert gpu > cpu > 0
    assert cost.node(node, cut(node, axis, (0, 16, 32), ("gpu", "cpu"))).us == pytest.approx(7 + gpu + 40)
    assert cost.node(node, on_one_device(node, "cpu")).us == cost.kernel(node, Region.whole(node.output.shape), "cpu").us
    empty = cut(node, axis, (0, 0, 32), ("gpu", "cpu"))
    assert cost.node(node, empty).us == cost.node(node, on_one_device(node, "cpu")).us, "an empty piece costs nothing"
    moved = CostModel(board(100, 50, launch_us=7, sync_us=40, map_us=3, transfer_gbs=1.0)).node(node,
                                                                                                cut(node, axis, (0, 16, 32),
                                                                                                    ("gpu", "cpu"))).us
    assert moved == pytest.approx(7 + gpu + 40 + 6 + features(node, halves[0])[2] * 1e3)


def test_unknown_costs_are_marked_and_never_zero():
    graph = tangle()
    bare = board()
    bare = replace(bare, cpu=replace(bare.cpu, latency={}), gpu=replace(bare.gpu, latency={}))
    cost, fitted = CostModel(bare), CostModel(board())
    for node in graph.nodes:
        region = Region.whole(node.output.shape)
        for unit in ("cpu", "gpu"):
            us, estimated = cost.kernel(node, region, unit)
            assert estimated and us > 0
        expected = is_fallback(op_for(node)) or family(node) not in board().cpu.latency
        assert fitted.kernel(node, region, "cpu").estimated == expected
    assert roofline_us(bare.cpu, 100.0, 1.0) == pytest.approx(2000.0) and roofline_us(bare.cpu, 0, 40.0) == pytest.approx(4000.0)
    guessed = replace(board(), cpu=replace(board().cpu, latency={"conv_1x1": Latency({"fixed_us": 1.0}, provenance="estimated")}))
    assert CostModel(guessed).kernel(next(n for n in graph.nodes if family(n) == "conv_1x1"), Region.whole((2, 16, 15, 13)),
                                     "cpu") == (1.0, True)


# The table


def test_numbers_and_nodes_of_which_only_the_output_is_known_have_a_price():
    """As models have them whose shapes depend on values: a Concat of something unknown with an output that inference could tell."""
    kind, number = TensorType(np.dtype(np.float32), (1, 4)), TensorType(np.dtype(np.float32), ())
    costs = CostModel(board(1.0, 1.0))
    add = Node("Add", (Value("a", number), Value("b", number)), (Value("c", number),), name="add")
    assert costs.kernel(add, Region([]), "cpu").us > 0
    odd = Node("Concat", (Value("x", kind), Value("z")), (Value("y", kind),), {"axis": 0}, name="odd")
    assert not odd.is_static and costs.kernel(odd, Region.whole((1, 4)), "cpu").estimated


def test_the_columns_are_those_of_the_design():
    assert ",".join(TABLE_COLUMNS) == DESIGN


def test_every_sample_is_described_by_its_row():
    """Fitting from a table sees what fitting from the nodes would: one feature function, and rows that lose nothing it needs."""
    seen = set()
    for sample in samples():
        assert not is_fallback(op_for(sample.node)), sample.node
        told = Measurement("", "cpu", 1, sample.node.op_type, "", "float32", **describe(sample.node, sample.region), busy_other=0,
                           latency_us=1.0)
        rebuilt = node_of(told)
        assert family(rebuilt) == family(sample.node) == next(f for f, rows in SHAPES.items() if any(r.op_type == sample.node.op_type
               and family(node_of(r)) == family(sample.node) for r in rows))
        ours, theirs = features(sample.node, sample.region), features(rebuilt, Region.whole(rebuilt.output.shape))
        np.testing.assert_allclose(theirs, ours, rtol=0.02, err_msg=f"{sample.node} {sample.region}")
        seen.add(family(sample.node))
    assert seen == set(SHAPES)


def _timed(rate: float, unit: str = "cpu") -> list[Measurement]:
    rows = []
    for sample in samples():
        told = Measurement("imagined", unit, 1, sample.node.op_type, "x", "float32", **describe(sample.node, sample.region), busy_other=0,
                           latency_us=1.0)
        node = node_of(told)
        rows.append(replace(told, latency_us=2 + features(node, Region.whole(node.output.shape))[1] / rate, spread_us=0.5, count=7))
    return rows


def test_table_round_trip(tmp_path):
    rows = [*_timed(0.1)[:40], replace(_timed(0.1)[0], threads=None, kernel_h=None, spread_us=None, implementation='odd, "quoted"')]
    write_table(rows, tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv") == rows
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == DESIGN


@pytest.mark.parametrize("change,words", [
    (lambda t: "", "header is wrong"), (lambda t: t.splitlines()[0], "no rows"),
    (lambda t: t.replace("latency_us", "latency_ms", 1), "did you mean latency_us"),
    (lambda t: t.replace(",count", "", 1), "no count"), (lambda t: t.replace("float32", "float32,1", 1), "line 2.*another length"),
    (lambda t: t.replace(",cpu,", ",npu,", 1), "line 2.*'unit'.*cpu or gpu"),
    (lambda t: t.replace(",0.5,7", ",-1,7", 1), "line 2.*'spread_us'"),
    (lambda t: t.replace(",0.5,7", ",0.5,7.5", 1), "line 2.*'count'.*whole"),
    (lambda t: t.replace(",0.5,7", ",0.5,inf", 1), "line 2.*'count'"),
    (lambda t: t.replace(",Conv,", ",,", 1), "line 2.*'op_type' is empty"),
    (lambda t: t.replace("device,unit", "unit,unit", 1), "no device"),
])
def test_a_wrong_table_is_named_by_line_and_column(tmp_path, change, words):
    path = tmp_path / "t.csv"
    write_table(_timed(0.1)[:3], path)
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError, match=words):
        read_table(path)


def test_binary_and_missing_tables(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for name, words in (("b.csv", "not a CSV table"), ("none.csv", "cannot read the table")):
        with pytest.raises(UsageError, match=words):
            read_table(tmp_path / name)


def test_tables_of_others_leave_fields_empty():
    node = node_of(replace(row("Conv", 1, 64, 56, 56, 128, 3, 2), in_height=None, in_width=None, batch=None, groups=None))
    assert node.inputs[0].shape == (1, 64, 56, 56) and node.output.shape == (1, 128, 28, 28)
    for bad, words in ((dict(in_channels=None), "'in_channels' is empty"), (dict(groups=7), "a divisor of"),
                       (dict(dtype="fp8"), "'dtype' is wrong"),
                       (dict(in_height=None, out_height=None), "'in_height' is empty")):
        with pytest.raises(UsageError, match=words):
            node_of(replace(row("Conv", 1, 64, 56, 56, 128, 3), **bad))
    assert family(node_of(row("SomethingNew", 1, 4, 5, 6))) == "elementwise"


def test_a_profile_from_a_table_predicts_the_table():
    rows = _timed(0.1) + _timed(0.2, "gpu")
    profile = fit_profile_from_table(rows, "board")
    assert from_yaml(to_yaml(profile)) == profile and profile.gpu.provenance == "estimated" and "Conv" in profile.gpu.operators
    cost = CostModel(profile)
    for told in rows[::17]:
        node = node_of(told)
        assert cost.kernel(node, Region.whole(node.output.shape), told.unit).us == pytest.approx(told.latency_us, rel=0.05)
    few = [r for r in rows if r.op_type != "Softmax"] + [r for r in rows if r.op_type == "Softmax"][:MIN_SAMPLES - 1]
    assert "softmax" not in fit_profile_from_table(few).cpu.latency
    with pytest.raises(UsageError, match="no rows with unit cpu or gpu"):
        fit_profile_from_table([])


def test_of_a_gpus_table_alone_the_cpu_is_a_marked_estimate(caplog):
    profile = fit_profile_from_table(_timed(0.2, "gpu"))
    assert "the CPU is taken to be as fast" in caplog.text and from_yaml(to_yaml(profile)) == profile
    assert profile.cpu.provenance == "estimated" and not profile.cpu.latency and profile.gpu.latency["conv_1x1"].provenance == "measured"
    node = node_of(_timed(0.2, "gpu")[0])
    assert CostModel(profile).kernel(node, Region.whole(node.output.shape), "cpu").estimated


def test_rows_beside_a_busy_unit_are_not_mixed_in():
    rows = _timed(0.1)
    slow = [replace(r, busy_other=1, latency_us=r.latency_us * 10) for r in rows]
    assert fit_profile_from_table(rows + slow).cpu.latency == fit_profile_from_table(rows).cpu.latency


def test_held_out_accuracy_never_trains_on_the_shape_it_judges():
    rows = list({r.shape_key: r for r in _timed(0.1)}.values())
    straight = held_out_accuracy(rows)["cpu"]
    assert straight["count"] > 100 and straight["within_10pct"] > 0.95 and straight["noise_floor_within_10pct"] is None
    rng = np.random.default_rng(0)
    # Every shape has a latency of its own that nothing explains: a leak between folds would show as a good score.
    noise = {r.shape_key: float(np.exp(rng.normal(0, 2))) for r in rows[::2]}
    noisy = [replace(r, latency_us=100 * noise[r.shape_key]) for r in rows[::2] for _ in range(3)]
    judged = held_out_accuracy(noisy)["cpu"]
    assert judged["within_10pct"] < 0.3 and judged["noise_floor_within_10pct"] == 1.0
    assert held_out_accuracy(noisy)["cpu"] == judged


def test_accuracy_and_noise_floor():
    assert accuracy([0.04, -0.09, 0.12, 0.5], 0.9) == {"count": 4, "within_5pct": 0.25, "within_10pct": 0.5, "within_15pct": 0.75,
                                                       "mape": 18.75,
                                                      "noise_floor_within_10pct": 0.9}
    base = _timed(0.1)[0]
    assert noise_floor([replace(base, latency_us=v) for v in (100.0, 100.0, 101.0, 150.0)]) == 0.75


# Measuring


def test_measure_takes_the_median_of_enough_repetitions():
    ticks = iter(range(10**6))
    found = measure(lambda: None, clock=lambda: next(ticks) * 1e-3, min_seconds=0.1, min_count=3)
    assert found.median_us == pytest.approx(1000) and found.spread_us == pytest.approx(0, abs=1e-6) and 20 <= found.count <= 60
    calls = []
    assert measure(lambda: calls.append(1), warmup=3, min_seconds=0, min_count=4).count == 4 and len(calls) == 7
    assert measure(lambda: None, min_seconds=60, max_count=9).count == 9


def test_profiling_null_devices_finds_what_they_were_told():
    def seconds(rate: float):
        return lambda node, region: 20e-6 + op_for(node).work(node, region).flops / rate

    told: list[tuple[float, float, str]] = []
    asides: list[float] = []
    profile, rows = profile_devices(NullDevice("cpu", seconds(2e11), asynchronous=False),
                                    NullDevice("gpu", seconds(4e11), declined={"Softmax"}),
                                    time_budget_s=8.0, threads=1, progress=lambda *said: told.append(said), aside=lambda: asides.append(told[-1][0]))
    assert from_yaml(to_yaml(profile)) == profile
    assert {r.unit for r in rows} == {"cpu", "gpu"} and not [r for r in rows if r.unit == "gpu" and r.op_type == "Softmax"]
    assert profile.gpu.sync_us > 0 and profile.gpu.launch_us > 0 and profile.gpu.transfer_gbs is None
    assert "Conv" in profile.gpu.operators and "Softmax" not in profile.gpu.operators
    for unit, us_per_mflop in (("cpu", 5.0), ("gpu", 2.5)):
        fits = profile.unit(unit).latency
        assert fits["conv_3x3"].terms["us_per_mflop"] == pytest.approx(us_per_mflop, rel=0.25)
    ends = told[-1][1]  # in seconds, as all of it: what is said of the end comes true
    assert told[0][0] == pytest.approx(0, abs=0.1) and told[-1][2] == "fitting" and 8.0 < ends < 18.0
    assert all(a[0] <= b[0] and b[1] == pytest.approx(ends, rel=0.2) for a, b in zip(told, told[1:])) and all(done < total for done, total, _ in told)
    assert 3 <= len(asides) <= 4 and asides[0] < 4 < asides[-1], "what is measured aside sees moments from all of the time"
    alone, _ = profile_devices(NullDevice("cpu", 1e-5, asynchronous=False), time_budget_s=0.3)
    assert alone.gpu is None


def test_a_device_that_cannot_even_run_a_relu_is_an_error():
    with pytest.raises(DeviceError, match="cannot even run a Relu"):
        profile_devices(NullDevice("cpu", declined={"Relu"}), time_budget_s=0.1)
