"""A run that looks at the clock at its edges alone: what it takes around its steps, when no trace looks at every one of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .executor import PreparedRun


class Edges(NamedTuple):
    """Microseconds of a run: copying its inputs, all its steps, copying its outputs, and the rest."""

    feed_us: float
    steps_us: float
    fetch_us: float
    around_us: float


def run_at_edges(prepared: PreparedRun, feeds: Mapping[str, Any]) -> Edges:
    """`PreparedRun.run` of a plan that has run before, timed. The feeds have been checked; errors are not looked after: for networks of our own."""
    now = time.perf_counter_ns
    began = now()
    prepared._feed(feeds)
    fed = now()
    queues = tuple(prepared.queues.values())
    for queue in queues:
        queue.begin_run()
    first = now()
    try:
        for action in prepared.hot:
            action()
        last = now()
    finally:
        for queue in queues:
            queue.end_run()
    done = now()
    prepared._results()
    ended = now()
    return Edges((fed - began) / 1e3, (last - first) / 1e3, (ended - done) / 1e3, (first - fed + done - last) / 1e3)
