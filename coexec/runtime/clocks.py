"""A device's clock on the host's: what it reads while the host looks on, and whether to believe it.

A probe is started after the host's clock said `before` and has ended when it says `after`. If both clocks count the same seconds,
offset = host - device lies between before - start and after - stop; several probes narrow that down.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..devices.timed import Timer

#: A reading takes the narrowest of that many probes; each is one round trip to the device.
PROBES = 6
#: Two oscillators of one board differ by some 1e-5; a device whose clock gains or loses more than this counts other units.
MAX_DRIFT = 1e-3
#: What rounding to a coarse timer may hide.
SLACK_NS = 1_000


@dataclass(frozen=True)
class Reading:
    """At `device_ns` of its own clock the device is `low_ns` to `high_ns` behind the host's (time.perf_counter_ns)."""

    device_ns: int
    low_ns: int
    high_ns: int

    @property
    def offset_ns(self) -> float:
        return (self.low_ns + self.high_ns) / 2

    @property
    def uncertainty_ns(self) -> float:
        return (self.high_ns - self.low_ns) / 2


def read(timer: Timer, probes: int = PROBES) -> Reading | None:
    """A comparison of the clocks; None where the probes contradict one another, or the driver gives no times. The queue is idle."""
    low, high, at = None, None, 0
    for _ in range(probes):
        probe = timer.probe()
        if probe is None:
            return None
        low = max(probe.before_ns - probe.start_ns, low if low is not None else probe.before_ns - probe.start_ns)
        high = min(probe.after_ns - probe.stop_ns, high if high is not None else probe.after_ns - probe.stop_ns)
        at = probe.stop_ns
    if low is None or high is None or low > high + SLACK_NS:
        return None
    return Reading(at, min(low, high), max(low, high))


@dataclass(frozen=True)
class Mapping:
    """The device's times on the host's clock: a straight line through two readings, taken before and after a run."""

    first: Reading
    last: Reading

    @property
    def believable(self) -> bool:
        """False where the clocks drift apart by more than any two oscillators."""
        apart = abs(self.last.offset_ns - self.first.offset_ns)
        allowed = self.first.uncertainty_ns + self.last.uncertainty_ns + SLACK_NS
        return apart <= allowed + MAX_DRIFT * max(0, self.last.device_ns - self.first.device_ns)

    def holds(self, start_ns: int, stop_ns: int, begun_ns: int, done_ns: int) -> bool:
        """Whether work from start to stop of the device's clock lies between its enqueueing and the moment that the host saw it done."""
        slack = self.uncertainty_ns + SLACK_NS
        return self.host_ns(start_ns) >= begun_ns - slack and self.host_ns(stop_ns) <= done_ns + slack

    @property
    def uncertainty_ns(self) -> float:
        """How far a mapped time may be off."""
        return max(self.first.uncertainty_ns, self.last.uncertainty_ns)

    @property
    def offset_ns(self) -> float:
        return (self.first.offset_ns + self.last.offset_ns) / 2

    def host_ns(self, device_ns: int) -> int:
        """That moment on the host's clock."""
        elapsed = self.last.device_ns - self.first.device_ns
        share = (device_ns - self.first.device_ns) / elapsed if elapsed > 0 else 0.0
        return round(device_ns + self.first.offset_ns + share * (self.last.offset_ns - self.first.offset_ns))


#: Why a device's times are not used.
NONE_GIVEN = "the driver gives no times, or such as no clock could show"
DRIFTS = "its clock drifts away from the host's"
OUTSIDE = "a piece would have run before it was enqueued, or after the host saw it done"


def mapping_of(first: Reading | None, last: Reading | None) -> tuple[Mapping | None, str]:
    """The device's clock on the host's by readings before and after; None, and why, where it is not to be believed."""
    if first is None or last is None:
        return None, NONE_GIVEN
    mapping = Mapping(first, last)
    return (mapping, "") if mapping.believable else (None, DRIFTS)
