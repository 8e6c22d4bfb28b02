"""The thread that does what may never return: Ctrl-C at every line of the hand-over, once and twice."""

from __future__ import annotations

import threading
import time

import pytest

from coexec.runtime.watchdog import Runner, TimedOut


class Interrupting:
    """A lock some of whose calls are interrupted by Ctrl-C, before or after they did their work."""

    def __init__(self, lock, at: dict[int, str], call: str):
        self.lock, self.at, self.call, self.count = lock, at, call, 0

    def __getattr__(self, name):
        return getattr(self.lock, name)

    def acquire(self, *args, **more):
        return self._do("acquire", *args, **more)

    def release(self):
        return self._do("release")

    def _do(self, name, *args, **more):
        mine = threading.current_thread() is threading.main_thread() and name == self.call
        self.count += mine
        when = self.at.get(self.count) if mine else None
        if when == "before":
            time.sleep(0.02)  # the other thread takes what it was given
            raise KeyboardInterrupt
        result = getattr(self.lock, name)(*args, **more)
        if when == "after":
            raise KeyboardInterrupt
        return result


def usable(runner: Runner) -> bool:
    return [runner.call(lambda n=n: n, 5.0) for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("which, call", [("_go", "release"), ("_done", "acquire")])
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_interruption_leaves_a_runner_that_works_or_says_that_it_does_not(which, call, when):
    runner = Runner()
    own = getattr(runner, which)
    setattr(runner, which, Interrupting(own, {1: when}, call))
    did = []
    with pytest.raises(KeyboardInterrupt):
        runner.call(lambda: did.append(1), 5.0)
    setattr(runner, which, own)
    assert not runner.lost and usable(runner)
    runner.close()


def test_a_second_interruption_never_leaves_work_behind_that_nobody_knows_of():
    """While the work is under way both waits for it are interrupted: whoever asks next must not take this runner for free."""
    runner, hold = Runner(), threading.Event()
    runner._done = Interrupting(runner._done, {1: "before", 2: "before"}, "acquire")
    with pytest.raises(KeyboardInterrupt):
        runner.call(lambda: hold.wait(20), 5.0)
    assert runner.lost
    hold.set()


def test_an_interruption_between_the_letting_go_and_the_wait(monkeypatch):
    """The work was let go, and the first line after it is interrupted, and again in the handler's first line."""
    runner, hold = Runner(), threading.Event()
    runner._go = Interrupting(runner._go, {1: "after"}, "release")
    runner._done = Interrupting(runner._done, {1: "before"}, "acquire")
    with pytest.raises(KeyboardInterrupt):
        runner.call(lambda: hold.wait(20), 0.2)
    assert runner.lost or not runner._begun
    hold.set()


def test_work_that_does_not_end_is_timed_out():
    runner, hold = Runner(), threading.Event()
    with pytest.raises(TimedOut):
        runner.call(lambda: hold.wait(20), 0.05)
    assert runner.lost
    hold.set()


def test_what_the_work_raises_comes_out():
    runner = Runner()
    with pytest.raises(ZeroDivisionError):
        runner.call(lambda: 1 / 0, 5.0)
    assert not runner.lost and usable(runner)
    runner.close()
