"""The lock whose waiters get their turn: nobody starves, nobody is woken for nothing, and Ctrl-C leaves it free."""

from __future__ import annotations

import threading
import time

import pytest

from coexec.runtime import turns
from coexec.runtime.turns import Turns


def loop(lock, threads: int, seconds: float, hold_s: float) -> tuple[list[int], float, list[int]]:
    """(blocks of each thread, the longest wait in seconds, who came in which order) of threads that want the lock again at once."""
    counts, longest, order, end = [0] * threads, [0.0], [], time.monotonic() + seconds

    def work(mine: int) -> None:
        while time.monotonic() < end:
            begun = time.perf_counter()
            with lock:
                longest[0] = max(longest[0], time.perf_counter() - begun)
                order.append(mine)
                time.sleep(hold_s)
                counts[mine] += 1

    team = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(30)
        assert not thread.is_alive()
    return counts, longest[0], order


def test_each_of_four_threads_gets_every_fourth_turn():
    counts, longest, order = loop(Turns(), 4, 1.0, 2e-3)
    assert min(counts) >= 0.9 * max(counts) and longest < 1.0, (counts, longest)
    windows = [len(set(order[i:i + 4])) for i in range(8, len(order) - 11)]  # a busy machine takes a core from a thread now and then
    assert windows.count(4) >= 0.9 * len(windows), "not in the order of coming"


def test_pythons_own_lock_would_fail_that():
    """What the test above sees is not the system's doing."""
    _, _, order = loop(threading.RLock(), 4, 0.5, 2e-3)
    steady = order[8:-8]
    assert not all(len(set(steady[i:i + 4])) == 4 for i in range(len(steady) - 3))


def test_a_thread_may_come_again_while_the_others_have_not_waited_for_long(monkeypatch):
    """Else each block of a microsecond would cost a change of threads."""
    monkeypatch.setattr(turns, "PATIENCE_S", 60.0)
    lock, came = Turns(), []
    with lock:
        other = threading.Thread(target=lambda: [lock.__enter__(), came.append(1), lock.__exit__()])
        other.start()
        while not lock._waiting:
            time.sleep(1e-3)
    for _ in range(5):  # free, and the other is on its way: nobody is kept waiting by a lock that was promised to a sleeper
        with lock:
            pass
    other.join(10)
    assert came == [1] and lock._owner is None and not lock._waiting


def test_only_one_at_a_time():
    lock, inside, worst = Turns(), [0], [0]

    def work() -> None:
        for _ in range(3000):
            with lock:
                inside[0] += 1
                worst[0] = max(worst[0], inside[0])
                inside[0] -= 1

    team = [threading.Thread(target=work) for _ in range(6)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(60)
        assert not thread.is_alive()
    assert worst[0] == 1 and lock._owner is None and not lock._waiting


class Interrupting:
    """The guard, some of whose uses by this thread are interrupted, before or after they did their work."""

    def __init__(self, guard, at: set[tuple[int, str]], thread: int):
        self.guard, self.at, self.thread, self.count = guard, at, thread, 0

    def __enter__(self):
        if threading.get_ident() != self.thread:
            return self.guard.__enter__()
        self.count += 1
        if (self.count, "before") in self.at:
            raise KeyboardInterrupt
        return self.guard.__enter__()

    def __exit__(self, *error):
        self.guard.__exit__(*error)
        if threading.get_ident() == self.thread and (self.count, "after") in self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [{(1, "before")}, {(1, "after")}, {(2, "before")}, {(2, "after")}, {(1, "after"), (2, "before")},
                                {(1, "before"), (2, "before"), (3, "after")}, {(2, "before"), (3, "before"), (4, "after")}])
def test_ctrl_c_in_the_hand_over_leaves_it_free(at):
    lock = Turns()
    guard = lock._guard
    lock._guard = Interrupting(guard, at, threading.get_ident())
    with pytest.raises(KeyboardInterrupt), lock:
        pass
    lock._guard = guard
    assert lock._owner is None and not lock._waiting
    counts, _, _ = loop(lock, 2, 0.05, 1e-3)
    assert min(counts) > 0


def test_ctrl_c_while_waiting_leaves_the_queue_and_wakes_the_next():
    lock, got = Turns(), []

    class Broken:
        locked = staticmethod(lambda: False)

        @staticmethod
        def acquire():
            raise KeyboardInterrupt

    inside, go = threading.Event(), threading.Event()

    def holder() -> None:
        with lock:
            inside.set()
            go.wait(10)

    first = threading.Thread(target=holder)
    first.start()
    inside.wait(10)
    init = turns._Waiter.__init__

    def made(waiter, thread):
        init(waiter, thread)
        waiter.wake = Broken

    turns._Waiter.__init__ = made
    try:
        with pytest.raises(KeyboardInterrupt), lock:
            pass
    finally:
        turns._Waiter.__init__ = init
    assert not lock._waiting and lock._owner == first.ident
    last = threading.Thread(target=lambda: [lock.__enter__(), got.append(1), lock.__exit__()])
    last.start()
    go.set()
    for thread in (first, last):
        thread.join(10)
    assert got == [1] and lock._owner is None
