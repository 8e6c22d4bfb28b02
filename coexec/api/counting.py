"""What runs lose between pieces that are kept in step by counters in shared memory, beside what they lose by the driver's events."""

from __future__ import annotations

from .. import settings
from ..cost.corrections import Between
from ..devices.base import Device


def by_counters(seen: Between, gpu: Device, threads: int) -> Between | None:
    """What would be lost between pieces if both sides were kept in step by counters; None where the device has none, or they are no gain.

    `seen`: by events, in runs. A run's launches take longer than those of a bare loop by as much either way: caches hold other things.
    """
    from ..profiling.fixed import fixed_costs

    with settings.override(handshake=True):
        with_counters = fixed_costs(gpu, threads)
    with settings.override(handshake=False):
        without = fixed_costs(gpu.used_by(waiting="event") if gpu.waiting == "flag" else gpu, threads)
    by_events = (seen.begin_us or 0.0) + (without["sync_us"] if seen.sync_us is None else seen.sync_us)
    if with_counters["sync_us"] >= by_events:  # from letting a piece begin until it is heard of
        return None
    slower = 1.0 if seen.launch_us is None else max(1.0, seen.launch_us / max(without["launch_us"], 1e-3))
    return Between(with_counters["launch_us"] * slower, 0.0, with_counters["sync_us"], with_counters["ready_us"])
