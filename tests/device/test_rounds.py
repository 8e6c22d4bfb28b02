"""Kernels timed in company, beside reference kernels."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.devices.base import Kernel, TensorView
from coexec.devices.null.device import NullDevice
from coexec.devices.registry import find_devices
from coexec.devices.timed import Stretch, Timer
from coexec.graph.ir import Node, TensorType, Value, constant
from coexec.profiling import rounds
from coexec.profiling.drift import MOST, USUAL
from coexec.profiling.measure import Bench, with_constants
from coexec.profiling.references import FACTS, named
from coexec.profiling.rounds import COUNT, FOLLOWS, NoClock, Round, _timing, _Turn, last_bytes, team_of, usual_gap_us
from coexec.profiling.run import profile_devices
from coexec.profiling.sampler import SHAPES, whole_of
from coexec.profiling.timing import time_round, together
from coexec.regions import Region


def samples(*families):
    found = [whole_of(SHAPES[family][0]) for family in families]
    return [(with_constants(s.node, np.random.default_rng(0)), s.region) for s in found]


def test_kernels_in_company_take_as_long_as_the_device_says():
    took = {"Conv": 3e-3, "Relu": 0.5e-3, "MatMul": 0.5e-3}
    device = NullDevice("cpu", lambda node, region: took.get(node.op_type, 1e-4), declined={"Softmax"}, asynchronous=False)
    tried = []
    with Round(device, samples("conv_1x1", "softmax", "elementwise"), trying=tried.append) as company:
        conv, softmax, relu = company.time()
    assert softmax is None and conv.median_us == pytest.approx(3000, rel=0.2) and relu.median_us == pytest.approx(500, rel=0.3)
    assert tried == [0, 2, -1], "each is tried by itself before"


def test_inputs_are_written_before_each_turn():
    """Others use the same memory: what a kernel reads must be what it was given, whatever they left there."""
    for device in find_devices().values():
        pieces = samples("elementwise", "conv_3x3", "matmul", "movement")
        with Round(device, pieces) as company:
            all_bytes = TensorView.contiguous(company.arena, np.dtype(np.uint8), Region([(0, company.arena.nbytes)]))
            for turn, (node, region) in zip(company.turns, pieces):
                company.arena.host[:] = 0xFF  # every float is no number
                company.queue.upload(all_bytes).wait()
                for touch in turn.touches:
                    touch.start().wait() if isinstance(touch, Kernel) else touch()
                turn.kernel.start().wait()
                company.queue.download(all_bytes).wait()
                read = sum(v.type.nbytes for v in node.inputs if not v.is_constant)
                assert 4 * np.isfinite(company.arena.host.view(np.float32)).sum() >= read + 4 * region.size, f"{node} on {device.name}"


def test_before_each_turn_the_caches_are_filled_with_something_else(monkeypatch):
    """Else a timing depends on who the others are."""
    monkeypatch.setattr(Round, "_filler", lambda self: lambda: self.queue.started.append(("fill", None)))
    device = NullDevice("cpu", 1e-4, asynchronous=False)
    with Round(device, samples("elementwise", "conv_1x1")) as company:
        monkeypatch.setattr(company, "_reference", lambda: (1e3, 1e3))
        company.queue.started.clear()
        company.time(count=4)
        filled = [what == "fill" for what, _ in company.queue.started]
    assert len(filled) == 2 * 2 * 5 and filled == [True, False] * (len(filled) // 2)


def test_a_timing_is_told_as_of_the_rounds_usual_moment(monkeypatch):
    """A few repetitions that a slow moment made longer are told by the references beside them, and change nothing."""
    device = NullDevice("cpu", lambda node, region: 0.4e-3, asynchronous=False)
    moments = iter([(1e3, 1e3)] * 4 + [(4e3, 4e3)] * 4 + [(1e3, 1e3)] * 99)
    with Round(device, samples("elementwise", "conv_1x1")) as company:
        monkeypatch.setattr(company, "_reference", lambda: next(moments))
        found = company.time()
        assert [t.count for t in found] == [COUNT] * 2 and found[0].reference_ns == (1e3, 1e3), "what lies beside a timing is told with it"
    for timing in (_timing(turn_of([400.0] * 4 + [400.0 * 4 ** FOLLOWS] * 2, [1e3] * 4 + [4e3] * 2)), _timing(turn_of([400.0] * 6, [np.inf] * 6))):
        assert timing.median_us == pytest.approx(400.0) and timing.spread_us == pytest.approx(0.0, abs=1e-9)


def turn_of(us, ns):
    return _Turn(None, [], us=us, beside_ns=[(n, n) for n in ns])


def test_slow_kernels_are_timed_less_often():
    device = NullDevice("cpu", 0.02, asynchronous=False)
    with Round(device, samples("elementwise", "conv_1x1")) as company:
        assert [t.count for t in company.time(limit_s=0.05)] == [1, 1]


class Clock(Timer):
    """A device's clock that runs `rate` times as fast as the wall's."""

    own_clock = True

    def __init__(self, queue, rate):
        self.queue, self.rate = queue, rate

    def start(self, kernel):
        event = kernel.start()
        stop = event.at
        return event, lambda: [Stretch(int((stop - kernel.seconds) * 1e9 * self.rate), int(stop * 1e9 * self.rate))]

    def move(self, view, to_host):
        raise NotImplementedError


@pytest.mark.parametrize("rate,believed", [(1.0, True), (0.3, False), (2.0, False)])
def test_a_devices_clock_is_believed_only_where_the_walls_agrees(monkeypatch, rate, believed):
    device = NullDevice("gpu", lambda node, region: 1e-3)
    monkeypatch.setattr(rounds, "timed", lambda queue: Clock(queue, rate))
    if believed:
        with Round(device, samples("elementwise", "conv_1x1")) as company:
            assert [t.median_us for t in company.time()] == pytest.approx([1000, 1000], rel=0.1)
    else:
        with Round(device, samples("elementwise", "conv_1x1")) as company, pytest.raises(NoClock, match="disagrees with the wall's"):
            company.time()


def test_a_gpus_references_do_not_depend_on_the_cpus_threads():
    """Else a moment is told by other kernels than those of the profile, and every operator there comes out several times as fast."""
    known = find_devices(need_gpu=True)
    for threads in (1, 3):
        with Round(known["cpu"], [], threads) as cpu, Round(known["gpu"], [], threads) as gpu:
            assert [len(cpu.reading()), len(gpu.reading())] == [len(FACTS)] * 2
        assert [team_of(known[unit], threads) for unit in ("cpu", "gpu")] == [threads, 1]


def test_readings_between_runs_tell_of_every_reference():
    for unit, device in find_devices(need_gpu=True).items():
        for threads in (1, 2) if unit == "cpu" else (1,):
            with Round(device, [], threads) as alone:
                told = np.array([alone.reading() for _ in range(3)])
                assert told.shape == (3, len(FACTS)) and np.isfinite(told).all() and (told > 0).all()
    assert named((np.inf, 5.0)) == {"reference_store_ns": 5.0}, "what no clock told is left out"


def test_what_was_used_before_large_activations_come_around_is_not_kept_in_the_caches():
    small, large = (TensorType(np.dtype(np.float32), (1, 1, 1, size)) for size in (1 << 10, last_bytes() // 4))
    nodes = [Node("Relu", (Value("x", kind),), (Value("y", kind),), name="relu") for kind in (small, large)]
    with Round(NullDevice("cpu", 1e-6, asynchronous=False), [(node, Region.whole(node.output.shape)) for node in nodes]) as company:
        assert company._warm == 2 * small.nbytes and company.arena.nbytes == 2 * large.nbytes


def test_what_kernels_use_beside_is_in_the_caches_when_a_round_begins(monkeypatch):
    """Else the first that needs so much, and no other, has it from memory; on the CPU it is there to be read."""
    order = []

    class Scratch:
        def max(self, initial):
            order.append("scratch")

    monkeypatch.setattr(rounds, "sweep", lambda: order.append("sweep"))
    cpu = find_devices("none")["cpu"]
    with Round(cpu, samples("conv_3x3")) as company:
        assert sum(s.nbytes for s in company._scratch) > 100_000 and company._scratch == company.queue.host_scratch()
        company._scratch = [Scratch()]
        company.time(count=2)
    assert len(order) >= 6 and order[::2] == ["sweep"] * (len(order) // 2) and order[1::2] == ["scratch"] * (len(order) // 2)


def test_the_usual_gap_is_that_of_many_rounds():
    found = [usual_gap_us("a device of the test", us) for us in (1.0, 9.0, 1.0, 1.0, 1.0)]
    assert found == [1.0, 5.0, 1.0, 1.0, 1.0]
    assert usual_gap_us("another device of the test", 3.0) == 3.0


def test_without_a_clock_kernels_are_timed_one_by_one():
    device = NullDevice("gpu", lambda node, region: 1e-3)
    with pytest.raises(NoClock, match="no clock of its own"):
        Round(device, samples("elementwise"))
    told = [whole_of(SHAPES["elementwise"][0])]
    (row,) = time_round("gpu", device, told, 1, 0.0)
    assert row.latency_us == pytest.approx(1000, rel=0.2)


def test_what_usual_moments_are_like_is_kept_in_the_profile(tmp_path):
    cpu = find_devices("none")["cpu"]
    profile, rows = profile_devices(cpu, None, time_budget_s=1.0, table=tmp_path / "t.csv")
    beside = [[getattr(r, name) for r in rows] for name in FACTS]
    assert [profile.cpu.facts[name] for name in FACTS] == pytest.approx([np.quantile(v, USUAL) for v in beside], rel=1e-3)
    assert all(0 <= profile.cpu.facts[f"drift_{bound}_{name}"] <= MOST for bound in ("compute", "memory") for name in ("store", "compute"))


def test_pieces_read_only_their_own_part():
    cpu = find_devices("none")["cpu"]
    (node, region), = samples("conv_3x3")
    upper = region.replace(2, (0, region[2].stop // 2))
    with Round(cpu, [(node, upper), (node, Region.whole(node.output.shape))]) as company:
        piece, whole = company.time()
    assert piece.median_us < 0.8 * whole.median_us


def test_how_much_two_units_take_from_one_another_is_a_ratio_of_like_timings():
    """Null devices take nothing from one another."""
    devices = [NullDevice(name, lambda node, region: 0.5e-3, asynchronous=name == "gpu") for name in ("cpu", "gpu")]
    (node, region), = samples("elementwise")
    with Bench(devices[0], node, region) as cpu, Bench(devices[1], node, region) as gpu:
        assert together(cpu, gpu, 500.0) == pytest.approx((1.0, 1.0), rel=0.15)


def test_indices_are_there_before_a_kernel_first_runs(monkeypatch):
    """What lay in that memory before is no index."""
    monkeypatch.setattr(rounds, "MOST_DOUBTS", 10**6)  # on a busy machine the two clocks may seem to disagree
    floats = TensorType(np.dtype(np.float32), (50, 8))
    index = Value("i", TensorType(np.dtype(np.int64), (4,)))
    gather = Node("Gather", (constant("w", np.ones((50, 8), np.float32)), index), (Value("y", TensorType(floats.dtype, (4, 8))),), {"axis": 0},
                  name="gather")
    relu = Node("Relu", (Value("x", floats),), (Value("z", floats),), name="relu")
    for device in find_devices().values():
        with Round(device, [(relu, Region.whole((50, 8))), (gather, Region.whole((4, 8))), (relu, Region.whole((50, 8)))]) as company:
            assert all(t is None or t.median_us > 0 for t in company.time())
