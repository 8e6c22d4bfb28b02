"""Traces: what a reader may rely on, on imagined devices whose times are known, and on the OpenCL device that is there."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import coexec
from coexec import settings
from coexec.devices.base import TensorView
from coexec.devices.cpu.device import CpuDevice
from coexec.devices.fusing import fused
from coexec.devices.null.device import NullDevice
from coexec.devices.timed import Probe, Stretch, Timer, timed
from coexec.errors import DeviceError, UsageError
from coexec.partition.plan import Plan
from coexec.regions import Region
from coexec.runtime import clocks
from coexec.runtime.executor import PreparedRun, Unanswered
from coexec.runtime.trace import MAX_SPANS, Span, Trace, check_writable, summary
from coexec.runtime.traced import facts_of, run_traced

from ..faults.test_waits_and_maps import needs_flags
from .lazy_device import LazyDevice
from .random_graphs import random_plan
from .test_executor import close, made
from .test_schedule import chain, plan_of

CPU_S, GPU_S = 0.002, 0.004
HALF = ("height", (0, 4, 8))
FEEDS = {"t0": np.zeros((1, 4, 8, 8), np.float32)}


def valid(data: dict) -> dict[str, list[dict]]:
    """The complete events of each track, by its name, after everything that is true of every trace was checked."""
    events = json.loads(json.dumps(data, allow_nan=False))["traceEvents"]
    assert all({"ph", "ts", "dur", "pid", "tid"} <= set(e) for e in events)
    assert {e["ph"] for e in events} <= {"X", "M", "s", "f"}
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0
            tracks[names[event["tid"]]].append(event)
    for spans in tracks.values():
        spans.sort(key=lambda e: e["ts"])
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(spans))
    walls = {e["args"]["run"]: (e["ts"], e["ts"] + e["dur"]) for e in tracks.get("runs", [])}
    for spans in tracks.values():
        inside = defaultdict(float)
        for e in spans:
            if "run" in e["args"]:
                begin, end = walls[e["args"]["run"]]
                assert begin - 1e-3 <= e["ts"] and e["ts"] + e["dur"] <= end + 2e-3
                inside[e["args"]["run"]] += e["dur"]
        assert all(total <= walls[run][1] - walls[run][0] + 2e-3 for run, total in inside.items())
    tails = {e["id"]: e for e in events if e["ph"] == "s"}
    tips = {e["id"]: e for e in events if e["ph"] == "f"}
    assert set(tails) == set(tips) and len(tails) == sum(e["ph"] == "s" for e in events)
    for number, tip in tips.items():
        tail = tails[number]
        assert tail["ts"] <= tip["ts"] and tip["bp"] == "e"
        for end in (tail, tip):  # an arrow's ends lie in slices, or it is not drawn
            assert any(s["ts"] <= end["ts"] <= s["ts"] + s["dur"] for s in tracks[names[end["tid"]]])
    return tracks


def prepared_on_null(trace: Trace | None, kernels=(1, 3), plan=(HALF, HALF), gpu=None) -> PreparedRun:
    graph = chain(kernels)
    devices = {"cpu": NullDevice("cpu", CPU_S, asynchronous=False), "gpu": gpu or NullDevice("gpu", GPU_S)}
    return PreparedRun(graph, plan_of(graph, *plan), devices, trace=trace)


class ShiftedTimer(Timer):
    """The null device's own clock: `ahead_ns` before the host's, running `rate` times as fast; its pieces are told `early_ns` early."""

    own_clock = True

    def __init__(self, ahead_ns: int = 5_000_000_000, rate: float = 1.0, early_ns: int = 0):
        self.ahead_ns, self.rate, self.early_ns, self.zero = ahead_ns, rate, early_ns, time.perf_counter_ns()

    def device_ns(self, host_ns: float) -> int:
        return round(self.zero + (host_ns - self.zero) * self.rate) + self.ahead_ns

    def start(self, kernel):
        event = kernel.start()
        stop, length = event.at * 1e9 - self.early_ns, kernel.seconds * 1e9
        return event, lambda: [Stretch(self.device_ns(stop - length), self.device_ns(stop))]

    def move(self, view, to_host):
        raise AssertionError("the null device shares the host's memory")

    def probe(self):
        before = time.perf_counter_ns()
        at = self.device_ns(time.perf_counter_ns())
        return Probe(before, at, at, time.perf_counter_ns())


# What is in it


def test_the_spans_of_a_split_chain():
    trace = Trace()
    prepared = prepared_on_null(trace)
    run_traced(prepared, FEEDS, trace)
    told = [(s.track, s.name) for s in trace.spans if s.track in ("cpu", "gpu", "host", "run")]
    assert told == [
        ("run", "run 0"), ("host", "copy inputs"), ("host", "copy outputs"),
        ("host", "enqueue c0"), ("gpu", "c0"), ("host", "flush"), ("cpu", "c0"), ("host", "enqueue c1"), ("gpu", "c1"), ("host", "flush"),
        ("host", "wait for c0"), ("cpu", "c1"), ("host", "wait for c1"),
    ]  # fmt: skip
    assert [(a.name, a.source.name, a.target.name) for a in trace.arrows] == [
        ("enqueue", "enqueue c0", "c0"), ("enqueue", "enqueue c1", "c1"), ("join", "c0", "wait for c0"), ("join", "c1", "wait for c1"),
    ]  # fmt: skip
    tracks = valid(trace.to_dict())
    assert all(piece["dur"] >= CPU_S * 1e6 - 1 for piece in tracks["CPU: calling thread"])
    pieces = tracks["GPU: queue"]
    for done, piece in enumerate(pieces, 1):
        assert piece["ts"] + piece["dur"] - pieces[0]["ts"] >= done * GPU_S * 1e6 - 1 and piece["args"]["clock"] == "wall"


def test_what_a_piece_says_of_itself():
    trace = Trace()
    prepared = prepared_on_null(trace)
    node = prepared.graph.nodes[1]
    prepared.plan = Plan.from_dict({**prepared.plan.to_dict(), "nodes": [
        {**n, "predicted_us": 4321.5, "estimated": False} for n in prepared.plan.to_dict()["nodes"]]})  # fmt: skip
    run_traced(prepared, FEEDS, trace)
    cpu, gpu = (next(s for s in trace.of("piece") if s.track == t and s.name == "c1") for t in ("cpu", "gpu"))
    assert cpu.args["op_type"] == "Conv" and cpu.args["implementation"] == "null_conv" and cpu.args["device"] == "cpu"
    assert (cpu.args["axis"], cpu.args["bounds"]) == ("height", [0, 4, 8]) and "4:8" in cpu.args["region"] and "0:4" in gpu.args["region"]
    assert cpu.args["flops"] == 2 * 4 * 9 * (4 * 4 * 8) and cpu.args["bytes_written"] == 4 * 4 * 8 * 4
    assert cpu.args["bytes_read"] == 4 * (4 * 5 * 8 + node.inputs[1].data.size), "five rows: one of the halo"
    assert cpu.args["predicted_us"] == 4321.5 and cpu.args["estimated"] is False
    slower = max(cpu.duration_us, gpu.duration_us)
    assert cpu.args["measured_us"] == gpu.args["measured_us"] == slower, "plans predict nodes, so the slower side is beside it"


def test_preparation_is_in_it():
    trace = Trace()
    prepared_on_null(trace)
    names = [s.name for s in trace.spans if s.track == "session"]
    assert names == ["schedule", "allocate", "compile", "pack cpu", "pack gpu"] and len([s for s in trace.spans if s.track == "compile"]) == 4
    valid(trace.to_dict())


def test_threads_of_the_team_have_tracks():
    trace = Trace()
    graph = chain((3,), height=64, channels=32)
    with np.errstate(all="ignore"):
        prepared = PreparedRun(graph, plan_of(graph, "cpu"), {"cpu": CpuDevice()}, threads=2, trace=trace)
        run_traced(prepared, {"t0": np.ones((1, 32, 64, 8), np.float32)}, trace)
    tracks = valid(trace.to_dict())
    (piece,) = tracks["CPU: calling thread"]
    (share,) = tracks["cpu: team thread 1"]
    assert len(piece["args"]["shares_us"]) == 2 and piece["args"]["shares_us"][1] == pytest.approx(share["dur"], abs=2e-3)
    assert piece["ts"] <= share["ts"] and share["ts"] + share["dur"] <= piece["ts"] + piece["dur"]
    prepared.close()


def test_a_span_is_a_value():
    span = Span("conv", "gpu", 1.0, 2.5, "piece")
    assert span == Span("conv", "gpu", 1.0, 2.5, "piece") and span.stop_us == 3.5
    with pytest.raises(AttributeError):
        span.name = "other"


# Clocks


def traced_with(timer: Timer) -> tuple[Trace, list[Span]]:
    trace = Trace()
    prepared = prepared_on_null(trace)
    prepared.timers["gpu"] = timer
    run_traced(prepared, FEEDS, trace)
    valid(trace.to_dict())
    return trace, [s for s in trace.of("piece") if s.track == "gpu"]


@pytest.mark.parametrize("ahead_ns", [5_000_000_000, -40_000_000_000])
def test_a_devices_own_times_are_brought_to_the_hosts_clock(ahead_ns):
    trace, pieces = traced_with(ShiftedTimer(ahead_ns))
    told = trace.facts["clocks"]["gpu"]
    assert told["clock"] == "device" and abs(told["offset_us"] + ahead_ns / 1e3) <= told["uncertainty_us"] + 1
    for piece in pieces:
        assert piece.args["clock"] == "device"
        assert piece.duration_us == pytest.approx(GPU_S * 1e6, abs=2 * told["uncertainty_us"] + 2), "the device's, not what the host saw"


@pytest.mark.parametrize(
    "timer, why",
    [
        (ShiftedTimer(rate=1.5), "drifts|no clock could show"),  # unless the probes show it already
        (ShiftedTimer(early_ns=10**9), "before it was enqueued"),
        (ShiftedTimer(early_ns=-(10**9)), "after the host saw it done"),
    ],
)
def test_a_clock_that_cannot_be_true_is_not_believed(timer, why):
    trace, pieces = traced_with(timer)
    assert trace.facts["clocks"]["gpu"]["clock"] == "wall" and re.search(why, trace.facts["clocks"]["gpu"]["why"])
    assert [p.args["clock"] for p in pieces] == ["wall"] * 2 and pieces[-1].stop_us - pieces[0].start_us >= 2 * GPU_S * 1e6 - 1


class Scripted(Timer):
    def __init__(self, probes):
        self.probes = iter(probes)

    start = move = None

    def probe(self):
        return next(self.probes)


Scripted.__abstractmethods__ = frozenset()


def test_probes_narrow_the_offset_down():
    found = clocks.read(Scripted([Probe(1000, 90_000, 90_100, 41_100), Probe(50_000, 110_000, 110_200, 60_000)]), 2)
    assert (found.low_ns, found.high_ns) == (-60_000, -50_200) and found.offset_ns == -55_100 and found.uncertainty_ns == 4_900


def test_probes_that_contradict_one_another_give_no_reading():
    assert clocks.read(Scripted([Probe(9_000_000, 1, 2, 9_100_000), Probe(9_500_000, 2, 3, 9_600_000)]), 2) is None
    assert clocks.read(Scripted([None]), 2) is None


def test_a_slow_drift_is_followed():
    first, last = clocks.Reading(0, 990, 1010), clocks.Reading(1_000_000_000, 50_990, 51_010)
    line = clocks.Mapping(first, last)
    assert line.believable and line.host_ns(0) == 1000 and line.host_ns(500_000_000) == 500_026_000
    assert not clocks.Mapping(first, clocks.Reading(1_000_000, 50_990, 51_010)).believable


# Runs


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shared", [True, False])
def test_a_traced_run_gives_the_same_answers(seed, shared):
    graph, _, feeds = made(seed)
    plan = random_plan(graph, np.random.default_rng(seed))
    plain = PreparedRun(graph, plan, {"cpu": CpuDevice(), "gpu": LazyDevice(shared)})
    expected, trace = plain.run(feeds), Trace()
    traced = PreparedRun(graph, plan, {"cpu": CpuDevice(), "gpu": LazyDevice(shared)}, threads=2, trace=trace)
    for _ in range(2):
        for name, found in run_traced(traced, feeds, trace).items():
            close(found, expected[name])
    valid(trace.to_dict())
    plain.close()
    traced.close()


def test_nothing_is_timed_where_nothing_is_traced():
    prepared = prepared_on_null(None)
    assert prepared.timers == {} and prepared.described == {}
    prepared.run(FEEDS)
    with coexec.InferenceSession(small(), strategy="cpu") as session:
        assert session._ready.timers == {} and session._trace is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, DeviceError("it broke")])
def test_a_run_that_ends_early_is_in_the_trace_up_to_there(error):
    trace = Trace()
    prepared = prepared_on_null(trace)
    step, action = prepared.actions[-1]

    def fail():
        raise error

    prepared.actions[-1] = step, fail
    with pytest.raises((KeyboardInterrupt, DeviceError)):
        run_traced(prepared, FEEDS, trace)
    (run,) = trace.of("run")
    assert run.args["error"] in ("KeyboardInterrupt", "DeviceError") and summary(trace) == {}
    assert {s.name for s in trace.of("piece")} == {"c0", "c1"}
    assert prepared.queues["gpu"].busy_until <= time.perf_counter(), "nothing runs on"
    prepared.actions[-1] = step, action
    prepared.tapes.clear()
    run_traced(prepared, FEEDS, trace)
    assert summary(trace)["runs"] == 1
    valid(trace.to_dict())


def test_the_summary():
    trace = Trace()
    prepared = prepared_on_null(trace, gpu=NullDevice("gpu", 10 * CPU_S))
    for _ in range(3):
        run_traced(prepared, FEEDS, trace)
    found = summary(trace)
    assert found["runs"] == 2, "the first is a warm-up"
    assert 0 < found["busy"]["gpu"] <= 1 and 0 < found["busy"]["cpu"] <= 1 and 0 < found["waiting_ms"] < found["run_ms"]
    assert found["run_ms"] >= 2 * 10 * CPU_S * 1e3
    assert {(r["name"], r["device"], r["op_type"]) for r in found["slowest"]} == {(n, d, "Conv") for n in ("c0", "c1") for d in ("cpu", "gpu")}
    assert [r["us"] for r in found["slowest"]] == sorted((r["us"] for r in found["slowest"]), reverse=True)
    last = [s for s in trace.of("piece") if s.args["run"] > 0 and (s.name, s.track) == ("c1", "cpu")]
    assert {r["us"] for r in found["slowest"]} >= {sum(s.duration_us for s in last) / 2}
    assert summary(Trace()) == {}


# Sessions and files


def small(height: int = 16):
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((8, 8, 3, 3)).astype(np.float32), f"w{i}") for i in range(2)]
    nodes = [helper.make_node("Conv", [f"t{i}", f"w{i}"], [f"t{i + 1}"], name=f"c{i}", pads=[1] * 4) for i in range(2)]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, height, 16]) for n in ("t0", "t2")]
    graph = helper.make_graph(nodes, "small", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


X = {"t0": np.ones((1, 8, 16, 16), np.float32)}


def test_end_profiling_is_onnx_runtimes(tmp_path):
    options = coexec.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "prof")
    session = coexec.InferenceSession(small(), options, strategy="cpu")
    (expected,) = session.run(None, X)
    path = session.end_profiling()
    assert path.startswith(str(tmp_path / "prof_")) and path.endswith(".json") and [str(p) for p in tmp_path.iterdir()] == [path]
    data = json.loads(open(path).read())
    tracks = valid(data)
    assert [e["name"] for e in tracks["session: creation"]][:4] == ["import", "open devices", "passes", "plan"]
    assert [e["name"] for e in tracks["CPU: calling thread"]] == ["c0", "c1"] and len(tracks["runs"]) == 1
    facts = data["otherData"]
    assert facts["model_digest"] == session.plan.model_digest and facts["strategy"] == "cpu" and facts["coexec"] == coexec.__version__
    assert facts["devices"]["cpu"]["driver"].startswith("NumPy") and facts["threads"] == session.threads
    with pytest.raises(UsageError, match="no trace to write"):
        session.end_profiling()
    np.testing.assert_array_equal(session.run(None, X)[0], expected)
    session.close()
    assert [str(p) for p in tmp_path.iterdir()] == [path]


def test_a_trace_nobody_asked_for_is_written_at_the_end(tmp_path):
    for _ in range(2):  # within one second: the second must not replace the first
        options = coexec.SessionOptions(enable_profiling=True, profile_file_prefix=str(tmp_path / "p"))
        with coexec.InferenceSession(small(), options, strategy="cpu") as session:
            session.run(None, X)
    assert len(list(tmp_path.iterdir())) == 2


def test_shapes_that_come_later_are_prepared_in_the_same_trace(tmp_path):
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("x", "y")]
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="r")], "g", info[:1], info[1:]))
    with coexec.InferenceSession(model, coexec.SessionOptions(enable_profiling=True), strategy="cpu") as session:
        for rows in (2, 3, 2):
            session.run(None, {"x": np.ones((rows, 4), np.float32)})
        tracks = valid(json.loads(open(session.end_profiling(tmp_path / "t.json")).read()))
    assert [e["name"] for e in tracks["session: creation"]].count("compile") == 2 and len(tracks["runs"]) == 3


def test_checked_runs_are_checked_and_traced(tmp_path):
    with coexec.InferenceSession(small(), coexec.SessionOptions(enable_profiling=True, check=True), strategy="cpu") as session:
        session.run(None, X)
        assert len(session._trace.of("piece")) == 2
        session.end_profiling(tmp_path / "t.json")


def test_a_full_trace_stops_growing(tmp_path):
    with coexec.InferenceSession(small(), coexec.SessionOptions(enable_profiling=True), strategy="cpu") as session:
        session._trace.spans += [Span("x", "cpu", 0.0, 0.0, "share")] * MAX_SPANS
        before = len(session._trace.spans)
        session.run(None, X)
        assert len(session._trace.spans) == before and session._trace.facts["untraced_runs"] == 1
        session._trace = None


def test_unwritable_places_are_refused_before_anything_runs(tmp_path):
    folder, missing = tmp_path / "folder", tmp_path / "no" / "t.json"
    folder.mkdir()
    for path, said in [(folder, "a folder"), (missing, "no folder"), ("/dev/null", "no ordinary file"), ("/proc/t.json", "/proc/t.json"),
                       (tmp_path / ("x" * 300), "too long")]:  # fmt: skip
        with pytest.raises(UsageError, match=said) as caught:
            check_writable(path)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no folder"):
        coexec.InferenceSession(small(), coexec.SessionOptions(enable_profiling=True, profile_file_prefix=str(missing)), strategy="cpu")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "t.json"
    Trace().save(target)
    before = target.read_text()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coexec.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        Trace().save(target)
    assert target.read_text() == before and list(tmp_path.iterdir()) == [target]


def test_numbers_that_json_does_not_know_are_left_out(tmp_path):
    trace = Trace()
    odd = {"bad": float("nan"), "worse": float("inf"), "absent": None, "fine": np.float32(1.5), "whole": np.int64(3)}
    trace.add("x", "cpu", trace.began_ns, trace.began_ns + 1, "piece", **odd)
    assert trace.spans[0].args.keys() == {"fine", "whole"}
    trace.save(tmp_path / "t.json")
    (event,) = valid(json.loads((tmp_path / "t.json").read_text()))["CPU: calling thread"]
    assert event["args"] == {"fine": 1.5, "whole": 3}


# The OpenCL device that is there


@pytest.fixture(params=["", "copy"])
def sharing(request):
    with settings.override(sharing=request.param):
        yield request.param


def test_an_opencl_run(tmp_path, sharing):
    with coexec.InferenceSession(small(), strategy="fixed:gpu=0.5") as session:
        (expected,) = session.run(None, X)
    with coexec.InferenceSession(small(), coexec.SessionOptions(enable_profiling=True), strategy="fixed:gpu=0.5") as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.run(None, X)[0], expected)
        facts = facts_of(session._ready)
        data = json.loads(open(session.end_profiling(tmp_path / "t.json")).read())
    tracks = valid(data)
    pieces = [e for e in tracks["GPU: queue"] if e["cat"] == "piece"]
    assert [e["name"] for e in pieces] == ["c0", "c1"] * 3 and all(e["args"]["implementation"] for e in pieces)
    assert data["otherData"]["devices"]["gpu"] == facts["devices"]["gpu"] and facts["devices"]["gpu"]["driver"]
    clock = data["otherData"]["clocks"]["gpu"]
    assert {e["args"]["clock"] for e in tracks["GPU: queue"]} <= {"device", "wall"}
    if "Portable Computing Language" in facts["devices"]["gpu"]["driver"]:
        assert clock["clock"] == "device", clock
    waits = [e for e in tracks["CPU: waits, enqueues, copies"] if e["cat"] == "wait"]
    assert len(waits) == len([e for e in data["traceEvents"] if e["ph"] == "f" and e["name"] == "join"]) >= 3
    if sharing == "copy":
        copies = [e for e in tracks["GPU: queue"] if e["cat"] == "copy"]
        assert {e["args"]["direction"] for e in copies} == {"to host", "to gpu"} and all(e["args"]["bytes"] > 0 for e in copies)


@pytest.fixture
def in_step(pocl):
    """A run cut in two that is kept in step by counters, and its trace."""
    needs_flags()
    trace = Trace()
    with settings.override(wait="flag"):
        session = coexec.InferenceSession(small(), coexec.SessionOptions(enable_profiling=trace), strategy="fixed:gpu=0.5")
    yield session, trace
    session._trace = None
    session.close()


def test_runs_kept_in_step_by_counters_are_traced_as_they_are(in_step):
    session, trace = in_step
    with coexec.InferenceSession(small(), strategy="fixed:gpu=0.5") as plain:
        (expected,) = plain.run(None, X)
    for _ in range(4):
        np.testing.assert_array_equal(session.run(None, X)[0], expected)
    valid(trace.to_dict())
    by_events, *counted = [[s for s in trace.spans if s.args.get("run") == run] for run in range(4)]
    assert not any("held_us" in s.args for s in by_events), "in the first run the driver compiles"
    for spans in counted:
        near, far = ([s for s in spans if s.category == "piece" and s.track == track] for track in ("cpu", "gpu"))
        assert [s.name for s in near] == [s.name for s in far] == ["c0", "c1"] and all("held_us" in s.args for s in far if s.name == "c1")
        for piece in far:
            if piece.args.get("held_us"):  # it waited for the host to end a piece, and began then
                assert not any(p.start_us < piece.start_us < p.stop_us - 1e-3 for p in near)
        assert {s.args["node"] for s in spans if s.category == "wait"} == {"c0", "c1"}
    assert len([a for a in trace.arrows if a.name == "join"]) == 4 * 2


def test_clocks_are_compared_by_words_where_runs_keep_in_step_so(in_step):
    """A kernel that waits for the host had begun when the host heard of it, and ends after it was told: no waking of threads is in between."""
    session, trace = in_step
    for _ in range(2):
        session.run(None, X)
    probe = session._ready.timers["gpu"].probe()
    assert probe.start_ns >= probe.stop_ns and probe.before_ns >= probe.after_ns, "told after it was heard, ended after it began"
    shake = session._ready.handshake
    assert shake.told[0] == shake.heard[0] == 0, "the next run counts from nothing"
    assert all(s.args["clock"] == "device" for s in trace.of("piece") if s.track == "gpu"), "also of pieces that tell before the driver is done"
    with coexec.InferenceSession(small(), coexec.SessionOptions(enable_profiling=Trace()), strategy="gpu") as other:
        other.run(None, X)
        probe = other._ready.timers["gpu"].probe()
        assert probe.before_ns <= probe.after_ns and probe.start_ns <= probe.stop_ns
        other._trace = None  # else it is written where the tests are run


def test_a_traced_run_that_is_not_answered_is_run_again_by_events(in_step):
    session, trace = in_step
    expected = session.run(None, X)
    def silent():
        raise Unanswered

    session._ready.in_step.append((None, silent, None))
    np.testing.assert_array_equal(session.run(None, X)[0], expected[0])
    assert [s.args.get("error") for s in trace.of("run")] == [None, "Unanswered", None]
    valid(trace.to_dict())


def test_a_drivers_times_are_read_once(in_step):
    session, _ = in_step
    prepared = session._ready
    step = next(s for s in prepared.kernels if s.device == "gpu")
    prepared.uncounted()
    calls, read = prepared.timers["gpu"].calls(prepared.kernels[step])
    for _ in range(2):
        assert read() == []
        for action in fused([(lambda: pytest.fail("a call that fails"), calls)], least=1):
            action()
        prepared.queues["gpu"].finish()
        (stretch,) = read()
        assert stretch.start_ns <= stretch.stop_ns


def test_copies_of_many_boxes_are_timed_from_the_first_to_the_last():
    from coexec.devices.opencl import open_device
    from coexec.devices.opencl.device import OpenCLDevice
    from coexec.devices.opencl.memory import rects

    device = OpenCLDevice(open_device("").device, "copy")
    queue, whole = device.queue(), Region.whole((3, 3, 4, 4, 5))
    timer, buffer = timed(queue), device.allocate(4 * whole.size)
    view = TensorView.contiguous(buffer, np.dtype(np.float32), whole).sub(Region([(0, 2), (1, 3), (0, 3), (1, 3), (0, 4)]))
    assert sum(1 for _ in rects(view)) > 1
    sent = view.array[...] = np.arange(view.region.size, dtype=np.float32).reshape(view.shape)
    up, read_up = timer.move(view, to_host=False)
    up.wait()
    view.array[...] = 0
    down, read_down = timer.move(view, to_host=True)
    down.wait()
    np.testing.assert_array_equal(view.array, sent)
    (first,), (second,) = read_up(), read_down()
    assert first.start_ns <= first.stop_ns <= second.start_ns <= second.stop_ns
    queue.close()
