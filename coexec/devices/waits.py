"""Ways to wait for a device's work: each costs something else, and which is cheapest only measuring tells (`coexec profile` does).

`event` sleeps in the driver until the work's event, `finish` until the whole queue is empty; `poll` sleeps for as long as that wait took
before, less a little, then looks again and again. `flag` is none of these: the host watches a word that the device's queue sets
(`Queue.handshake`), and the schedule is woven around it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .base import Event, Queue

WAYS = ("event", "finish", "poll", "flag")
#: A sleep ends some 60 us late on Linux (50 us timer slack): so much earlier a poll wakes up, and for less it does not go to sleep.
EARLY_S, WORTH_S = 150e-6, 300e-6
#: Polls for at most so long, then sleeps in the driver: the core may be needed by somebody else.
MOST_S = 2e-3
#: How much of a new wait's length goes into what is expected of the next.
NEW = 0.25


class Poll:
    """A wait that takes about as long each time: sleeps first, then looks. One of these per wait of a run."""

    def __init__(self) -> None:
        self.expected_s = 0.0

    def __call__(self, event: Event) -> None:
        begun = time.perf_counter()
        slept = self.expected_s > WORTH_S
        if slept:
            time.sleep(self.expected_s - EARLY_S)
        if slept and event.done:  # overslept, by how much nobody knows
            self.expected_s *= 0.9
        else:
            limit = time.perf_counter() + MOST_S
            while not event.done and time.perf_counter() < limit:
                time.sleep(0)  # lets other threads of this process go on
            self.expected_s += NEW * (time.perf_counter() - begun - self.expected_s)
        event.wait()  # says what went wrong, or sleeps where it takes longer than ever


def wait_by(way: str, queue: Queue) -> Callable[[Event], None]:
    """A function that waits for an event of the queue in that way (`flag`: by event, where nothing is woven)."""
    if way == "poll":
        return Poll()
    if way == "finish":
        return lambda event: queue.finish()
    return lambda event: event.wait()
