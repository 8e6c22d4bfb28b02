"""Actions in a row as one list of C calls: the same work in the same order, and Python's actions where a call fails or a word stays out."""

from __future__ import annotations

import ctypes
import threading
import time
from functools import partial

import numpy as np
import pytest

import coexec
from coexec.devices import fusing
from coexec.devices.base import Call, Shared
from coexec.devices.cpu import native
from coexec.devices.cpu.jit import kernel, prepare
from coexec.devices.cpu.threads import ThreadTeam
from coexec.devices.fusing import Await, Put, fused
from tests.test_smoke import tiny_model


@kernel
def many(a, b, c, d, e, f, i, j, s, t, u, v):
    """Sees every argument, in an order that mixes integers, floats and arrays of several types."""
    a[0], a[1], a[2], a[3], a[4], a[5] = i, j, s, t, u, v
    a[6], a[7], a[8], a[9] = b[0] + b[b.size - 1], c[1], d[2], e.size + f[0]


def bound():
    a = np.zeros(10, np.float64)
    arrays = (a, np.arange(5, dtype=np.float32), np.arange(4), np.arange(3, dtype=np.int32), np.zeros(7, np.uint8), np.ones(1, np.float32))
    task = partial(many, *arrays, 2**40, np.int64(-3), np.float32(0.5), 0.1, np.float32(-np.inf), 1e300)
    prepare(task)
    return a, task, [2.0**40, -3, 0.5, 0.1, -np.inf, 1e300, 4, 1, 2, 8]


def test_a_kernel_called_by_address_sees_every_argument():
    a, task, wanted = bound()
    call = native.call_of(task)
    row, block = native.row_of(call)
    assert native.run_rows(native.packed([row]), 0, 1) == 1
    assert list(a) == wanted


@pytest.mark.parametrize("task", [lambda: None, partial(np.copyto, np.zeros(1), np.ones(1)), partial(many, ((1, 2),))])
def test_what_is_no_bound_kernel_is_none(task):
    assert native.call_of(task) is None


def test_every_number_of_integers_arrives():
    seen = []
    for count in (1, 6, 7, 12, 13, 24, 25, 48, 72, 96):
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * count)

        def called(*given):
            seen.append(given)
            return 0

        callback = kind(called)
        call = Call(ctypes.cast(callback, ctypes.c_void_p).value, tuple(range(7, 7 + count)), (), callback)
        assert native.fits(call)
        row, block = native.row_of(call)
        assert native.run_rows(native.packed([row]), 0, 1) == 1
        assert seen.pop() == call.integers
    assert not native.fits(Call(1, tuple(range(97)))) and not native.fits(Call(1, (), (0.0,) * 9))


def c_call(work, status=lambda: 0):
    callback = ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: (work(), status())[1])
    return Call(ctypes.cast(callback, ctypes.c_void_p).value, (), (), callback)


def test_order_is_kept_and_what_needs_python_stays_python():
    log = []
    word = np.zeros(1, np.int32)
    actions = [(lambda i=i: log.append(f"python {i}"), [c_call(lambda i=i: log.append(f"native {i}"))] if i != 2 else None) for i in range(5)]
    actions.append((lambda: log.append("python set"), [Put(word.data, 5), c_call(lambda: log.append(f"word {word[0]}"))]))
    actions.append((lambda: log.append("python wait"), [Await(word.data, 5)]))
    actions.append((lambda: log.append("python wait"), [Await(word.data, 6)]))
    whole = fused(actions)
    assert len(whole) == 3
    for action in whole:
        action()
    assert log == ["native 0", "native 1", "python 2", "native 3", "native 4", "word 5", "python wait"]


def test_a_call_that_fails_is_made_again_by_python_and_the_rest_goes_on():
    log, statuses = [], iter([0, -5])
    failing = [c_call(lambda: log.append("first half")), c_call(lambda: log.append("refused"), lambda: -5), c_call(lambda: log.append("never"))]
    run, = fused([(lambda: log.append("unused"), [c_call(lambda: log.append("before"))]), (lambda: log.append("again"), failing),
                  (lambda: log.append("unused"), [c_call(lambda: log.append("after"))])])
    run()
    assert log == ["before", "first half", "refused", "again", "after"] and next(statuses) == 0


def test_what_python_raises_ends_the_run():
    def refuse():
        raise ValueError("no")

    after = []
    run, = fused([(refuse, [c_call(lambda: None, lambda: -1)]), (lambda: None, [c_call(lambda: after.append(1))])])
    with pytest.raises(ValueError):
        run()
    assert not after


def test_a_word_set_by_another_thread_is_seen(monkeypatch):
    monkeypatch.setattr(fusing, "LOOKS", 2_000_000_000)
    word, late = np.zeros(1, np.int32), []
    run, = fused([(lambda: late.append(1), [Await(word.data, 1)]), (lambda: None, [Put(word.data, 2)])])
    timer = threading.Timer(0.05, lambda: word.__setitem__(0, 1))
    timer.start()
    run()  # without the GIL: else the timer would never come
    assert not late and word[0] == 2


def test_a_stamp_is_on_the_clock_of_perf_counter():
    native_one, python_one = fusing.Stamp(), fusing.Stamp()
    run, = fused([(native_one, [native_one])], least=1)
    before = time.perf_counter_ns()
    run()
    python_one()
    after = time.perf_counter_ns()
    assert before <= native_one.ns <= python_one.ns <= after


@pytest.fixture
def team():
    made = ThreadTeam(3)
    yield made
    made.close()


def shared(team, log, name, count=3, status=lambda: 0, slow=()):
    """A kernel of `count` threads that notes when each share begins and ends."""
    def work(i):
        log.append((name, i, "begins"))
        if i in slow:
            time.sleep(0.02)
        log.append((name, i, "ends"))

    return Shared(tuple(c_call(lambda i=i: work(i), status) for i in range(count)), tuple(partial(work, i) for i in range(count)), team)


def test_threads_wait_for_each_other_between_kernels_and_for_the_first_thread(team):
    log = []
    kernels = [shared(team, log, n, count, slow=(n % 3,)) for n, count in enumerate((3, 2, 3, 3, 2))]
    between = [c_call(lambda n=n: log.append((n, "alone"))) for n in range(5)]
    run, = fused([(lambda: None, doing) for n in range(5) for doing in ([kernels[n]], [between[n]])])
    for _ in range(3):  # the words begin anew in every run
        log.clear()
        run()
        at = 0
        for n, count in enumerate((3, 2, 3, 3, 2)):
            part, at = log[at:at + 2 * count], at + 2 * count + 1
            assert sorted(part) == sorted((n, i, what) for i in range(count) for what in ("begins", "ends"))
            assert log[at - 1] == (n, "alone")


def test_a_thread_that_naps_comes_back(team, monkeypatch):
    monkeypatch.setattr(fusing, "LOOKS", 0)
    log = []
    run, = fused([(lambda: None, [shared(team, log, n, slow=(n,))]) for n in range(3)])
    run()
    assert [entry[0] for entry in log] == [0] * 6 + [1] * 6 + [2] * 6


@pytest.mark.parametrize("fails_at", [0, 1])
def test_an_error_in_a_share_ends_the_others_and_is_raised(team, fails_at):
    log = []

    def refuse():
        raise ValueError("no")

    good = shared(team, log, "good")
    calls = tuple(c_call(lambda: None, (lambda: -1) if i == fails_at else lambda: 0) for i in range(3))
    bad = Shared(calls, tuple(refuse if i == fails_at else (lambda: None) for i in range(3)), team)
    later = shared(team, log, "later")
    run, = fused([(lambda: None, [good]), (lambda: None, [bad]), (lambda: None, [later])])
    with pytest.raises(ValueError, match="no"):
        run()
    assert ("later", 0, "begins") not in log
    team.run([lambda: log.append("first"), lambda: log.append("second")])  # nothing of it is left over
    assert set(log[-2:]) == {"first", "second"}


def test_what_the_first_thread_raises_ends_the_others(team):
    def refuse():
        raise KeyboardInterrupt

    run, = fused([(lambda: None, [shared(team, [], "a")]), (refuse, [c_call(lambda: None, lambda: -1)]), (lambda: None, [shared(team, [], "b")])])
    with pytest.raises(KeyboardInterrupt):
        run()
    team.run([lambda: None] * 3)


def test_threads_of_a_team_that_closes_do_not_wait_on(team, monkeypatch):
    """Ctrl-C while the threads are being woken: the first never begins, and nobody else may wait for it."""
    run, = fused([(lambda: None, [shared(team, [], "a")]), (lambda: None, [shared(team, [], "b")])])
    others = [partial(run._take_part, rows) for rows in run._lists[1:]]
    run._words[:], run._stop = 0, False
    for worker, task in zip(team._workers, others):
        worker.task = task
        worker.go.release()
    time.sleep(0.05)
    started = time.perf_counter()
    team._renew()
    assert time.perf_counter() - started < 2 and not team.is_closing


def test_a_session_of_several_threads_wakes_them_once_and_is_right():
    model = tiny_model()
    with coexec.InferenceSession(model, coexec.SessionOptions(intra_op_num_threads=1), strategy="cpu") as alone:
        x = np.random.default_rng(0).standard_normal([d for d in alone.get_inputs()[0].shape]).astype(np.float32)
        wanted = alone.run(None, {"x": x})[0].copy()
    import coexec.devices.cpu.device as cpu_device
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_device, "SPLIT_FLOPS", 0)
        with coexec.InferenceSession(model, coexec.SessionOptions(intra_op_num_threads=2), strategy="cpu") as session:
            for _ in range(3):
                np.testing.assert_allclose(session.run(None, {"x": x})[0], wanted, rtol=1e-5, atol=1e-6)
            assert any(isinstance(step, Shared) for k in session._ready.kernels.values() for step in k.calls() or ())


def test_a_session_on_the_cpu_is_one_call_and_right():
    session = coexec.InferenceSession(tiny_model(), coexec.SessionOptions(intra_op_num_threads=1), strategy="cpu")
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    x = x[tuple(slice(0, n) for n in session.get_inputs()[0].shape)]
    first = session.run(None, {"x": x})[0].copy()
    assert len(session._ready.hot) < len(session._ready.first)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], first)
    np.testing.assert_array_equal(session.run(None, {"x": 2 * x})[0],
                                  coexec.InferenceSession(tiny_model(), strategy="cpu").run(None, {"x": 2 * x})[0])
