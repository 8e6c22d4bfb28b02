"""The tuner: what it finds is looked up at compile time, kept on disk, and never trusted further than it checks out."""

from __future__ import annotations

import errno
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coexec import files, settings
from coexec.devices.opencl import tuning
from coexec.devices.opencl.device import OpenCLDevice
from coexec.devices.opencl.tiles import LIMITS, Tiles, tiles_for
from coexec.graph.ir import Activation, Node
from coexec.ops import op_for
from coexec.partition.plan import cut, on_one_device
from coexec.regions import Region
from tests.ops.law import Const, make_node

from .harness import assert_on_device

RNG = np.random.default_rng(3)


def pointwise(channels: int = 8) -> tuple[Node, list]:
    x, w = (RNG.standard_normal(s).astype(np.float32) for s in ((1, channels, 7, 9), (12, channels, 1, 1)))
    return make_node("Conv", [x, Const(w)], {})


def whole(node: Node) -> Region:
    return Region.whole(node.output.shape)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path):
    tuning.forget()
    with settings.override(cache_dir=tmp_path):
        yield tmp_path
    tuning.forget()


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> list[Tiles]:
    """No clock: the candidate of most `item_width` + `strip_bytes` + `rows` wins. Returns what was tried."""
    tried: list[Tiles] = []

    def time(bench: tuning._Bench, tiles: Tiles, seconds: float, best: float = 0) -> float:
        tried.append(tiles)
        return 1e6 / (1 + tiles.rows + tiles.block_rows + tiles.strip_bytes / 1024)

    monkeypatch.setattr(tuning._Bench, "time", time)
    return tried


def write(device: OpenCLDevice, change: dict | None = None, entry: object = None, text: str | None = None) -> Path:
    """A tuning file with one entry for the pointwise convolution, with something wrong with it."""
    path = tuning.path_of(device.facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    node, _ = pointwise()
    good = {"tiles": {"rows": 4, "vectors": 2, "panel_bytes": 65536}, "us": 10.0}
    entries = {tuning.shape_key(node, whole(node)): good if entry is None else entry}
    content = {**tuning._header(device.facts), "entries": entries, **(change or {})}
    path.write_text(json.dumps(content) if text is None else text)
    return path


def looked_up(device: OpenCLDevice) -> Tiles:
    node, _ = pointwise()
    return tuning.tiles_of(device.facts, node, whole(node))


def test_nothing_tuned_means_the_defaults(device: OpenCLDevice, cache: Path) -> None:
    assert looked_up(device) == tiles_for(device.facts)
    assert not list(cache.iterdir()), "looking up writes nothing"


def test_the_best_candidate_is_kept_and_found_again(device: OpenCLDevice, cache: Path, stopwatch: list[Tiles]) -> None:
    node, arrays = pointwise()
    found = tuning.tune(device, node)
    assert len(stopwatch) > 3 and found != tiles_for(device.facts)
    assert max(t.rows + t.block_rows for t in stopwatch) == found.rows + found.block_rows
    assert looked_up(device) == found
    tuning.forget()
    assert looked_up(device) == found, "from the disk"
    (path,) = (cache / "tuning").iterdir()
    content = json.loads(path.read_text())
    assert content["device"] == device.facts.name and content["driver"] == device.facts.driver and len(content["entries"]) == 1
    assert_on_device(device, node, arrays)


def test_a_real_measurement_changes_no_result(device: OpenCLDevice) -> None:
    node, arrays = pointwise(5)
    node = replace(node, activation=Activation("Relu"))
    tuning.tune(device, node, seconds=0.001)
    assert tuning.is_tuned(device.facts, node, whole(node))
    assert_on_device(device, node, arrays)


@pytest.mark.parametrize("change", ["format", "device", "driver", "compute_units", "kernels"])
def test_another_device_driver_or_source_is_stale(device: OpenCLDevice, change: str) -> None:
    write(device)
    assert looked_up(device).panel_bytes == 65536
    write(device, {change: 77 if change in ("format", "compute_units") else "another"})
    tuning.forget()
    assert looked_up(device) == tiles_for(device.facts)


def test_other_kernel_source_is_another_file(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tuning.path_of(device.facts)
    monkeypatch.setattr(tuning, "kernels_digest", lambda: "changed")
    assert tuning.path_of(device.facts) != before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\x00\x01"])
def test_a_corrupt_file_is_ignored_and_replaced(device: OpenCLDevice, text: str, stopwatch: list[Tiles]) -> None:
    path = write(device, text=text)
    assert looked_up(device) == tiles_for(device.facts)
    found = tuning.tune(device, pointwise()[0])
    tuning.forget()
    assert looked_up(device) == found and json.loads(path.read_text())["format"] == tuning.FORMAT


@pytest.mark.parametrize("entry", [
    [], {"tiles": 3, "us": 1}, {"tiles": {}}, {"tiles": {"rows": 10**6, "vectors": 1}, "us": 1}, {"tiles": {"rows": 4}, "us": 1},
    {"tiles": {"rows": "4", "vectors": 1}, "us": 1}, {"tiles": {"rows": True, "vectors": 1}, "us": 1}, {"tiles": {"unknown": 4}, "us": 1},
    {"tiles": {"width": 3}, "us": 1}, {"tiles": {"method": "magic"}, "us": 1}, {"tiles": {"item_rows": 7}, "us": 1},
    {"tiles": {"block_rows": 256, "block_columns": 256, "item_rows": 1, "item_columns": 1}, "us": 1},
    {"tiles": {"rows": 24, "vectors": 8}, "us": 1}], ids=json.dumps)
def test_an_impossible_entry_is_ignored(device: OpenCLDevice, entry: object) -> None:
    write(device, entry=entry)
    assert looked_up(device) == tiles_for(device.facts)


def test_a_read_only_cache_is_one_warning_and_holds_for_the_process(device: OpenCLDevice, stopwatch: list[Tiles],
                                                                    caplog: pytest.LogCaptureFixture,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.os, "open", refused)
    with caplog.at_level(logging.WARNING):
        found = [tuning.tune(device, pointwise(c)[0]) for c in (8, 9)]
    assert looked_up(device) == found[0] != tiles_for(device.facts)
    assert len([r for r in caplog.records if "cannot be kept" in r.getMessage()]) == 1


def test_two_processes_add_to_one_file(device: OpenCLDevice, stopwatch: list[Tiles]) -> None:
    tuning.tune(device, pointwise(8)[0])
    mine = dict(tuning._tables)
    tuning.forget()
    tuning.tune(device, pointwise(9)[0])  # another process, which knows nothing of the first
    tuning._tables.clear()
    tuning._tables.update({path: {} for path in mine})
    tuning.tune(device, pointwise(10)[0])
    tuning.forget()
    assert all(tuning.is_tuned(device.facts, pointwise(c)[0], whole(pointwise(c)[0])) for c in (8, 9, 10))


def test_keys_tell_pieces_apart() -> None:
    node, _ = pointwise()
    (axis, *_) = op_for(node).split_axes(node)
    relu, method = replace(node, activation=Activation("Relu")), replace(node, attributes={"method": "direct"})
    half = Region.whole(node.output.shape).replace(2, (0, 3))
    keys = [tuning.shape_key(n, whole(n)) for n in (node, pointwise(9)[0], relu)] + [tuning.shape_key(node, half)]
    assert len(set(keys)) == 4
    assert tuning.shape_key(method, whole(method)) == keys[0], "a forced method is not part of the shape"
    assert tuning.shape_key(pointwise()[0], whole(node)) == keys[0], "the data of the weights is not, either"


def test_every_candidate_is_within_the_limits(device: OpenCLDevice) -> None:
    for op, shapes, attributes in (("Conv", ((1, 8, 9, 9), (6, 8, 3, 3)), {}), ("Conv", ((1, 8, 9, 9), (8, 1, 3, 3)), {"group": 8}),
                                   ("Gemm", ((3, 8), (8, 6)), {}), ("MaxPool", ((1, 4, 9, 9),), {"kernel_shape": [3, 3]})):
        data = [np.ones(s, np.float32) for s in shapes]
        node, _ = make_node(op, [data[0], *map(Const, data[1:])], attributes)
        for group in tuning.stages(device.facts, node, whole(node)):
            for change in group:
                assert tuning._is_sound({"tiles": change, "us": 1.0}, device.facts) or not replace(tiles_for(device.facts), **change).fits(
                    device.facts), change
                assert all(k == "method" or k in LIMITS for k in change)


def test_light_operators_are_not_tuned(device: OpenCLDevice) -> None:
    node, _ = make_node("Relu", [np.zeros((2, 3), np.float32)])
    assert tuning.tune(device, node) == tiles_for(device.facts) and not tuning.is_tuned(device.facts, node, whole(node))


def test_a_graph_is_tuned_piece_by_piece_within_its_budget(device: OpenCLDevice, stopwatch: list[Tiles]) -> None:
    nodes = [replace(pointwise(c)[0], name=f"conv{k}") for k, c in enumerate((4, 8, 8, 16))]
    axis = next(a for a in op_for(nodes[3]).split_axes(nodes[3]) if a.name == "height")
    partitions = [on_one_device(nodes[0], "cpu"), on_one_device(nodes[1], "gpu"), on_one_device(nodes[2], "gpu"),
                  cut(nodes[3], axis, (0, 3, 7), ("gpu", "cpu"))]
    graph, plan = SimpleNamespace(nodes=nodes), {n.name: p for n, p in zip(nodes, partitions)}
    calls: list[tuple[int, int, str]] = []
    assert tuning.tune_graph(device, graph, plan, budget_s=0) == 0
    assert tuning.tune_graph(device, graph, plan, budget_s=60, progress=lambda *a: calls.append(a)) == 2, "each shape once"
    assert [c[:2] for c in calls] == [(0, 2), (1, 2), (2, 2)] and calls[0][2] == "conv1", "most work first"
    half = Region.whole(nodes[3].output.shape).replace(2, (0, 3))
    assert tuning.is_tuned(device.facts, nodes[3], half) and not tuning.is_tuned(device.facts, nodes[0], whole(nodes[0]))
    assert tuning.tune_graph(device, graph, plan) == 0, "nothing is left to do"


def test_a_session_tunes_its_plan_s_pieces_once(tmp_path):
    from coexec import InferenceSession, SessionOptions
    from tests.test_smoke import tiny_model

    said: list[tuple[int, int, str]] = []
    with settings.override(cache_dir=tmp_path):
        for expected in (True, False):
            said.clear()
            options = SessionOptions(tune_budget_s=30.0, progress=lambda *told: said.append(told))
            with InferenceSession(tiny_model(), options, strategy="gpu") as session:
                session.run(None, {session.get_inputs()[0].name: np.ones((1, 3, 12, 12), np.float32)})
            tuned = [s for s in said if s[2].startswith("tuning")]
            assert bool(tuned and tuned[-1][:2] == (1000, 1000)) is expected
            assert [s for s in said if s[2].startswith("kernels, ")] and said[-1][0] == said[-1][1] and said[-1][2] == "first run"
        assert list((tmp_path / "tuning").glob("*.json"))
    tuning.forget()
