"""How warm a board was and how fast its cores ran while it was measured, where the system tells: a profile made hot is one of a hot board."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/")
#: By the fact that a profile keeps: the files that tell it, and how many of their units make one of its own.
SOURCES = {
    "temperature_c": ("sys/class/thermal/thermal_zone*/temp", 1000.0),
    "frequency_mhz": ("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq", 1000.0),
}


class Climate:
    """The lowest and the highest that any zone or core was seen at. `look` takes well under a millisecond a core."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self.seen: dict[str, tuple[float, float]] = {}

    def look(self) -> None:
        """Reads what there is now; what cannot be read, or is no number above 0, tells nothing."""
        for name, (pattern, units) in SOURCES.items():
            now = list(_numbers(self.root.glob(pattern), units))
            if now:
                low, high = self.seen.get(name, (now[0], now[0]))
                self.seen[name] = min(low, *now), max(high, *now)

    def facts(self) -> dict[str, float]:
        """What a profile keeps: `temperature_c_low`, `temperature_c_high`, and the same of `frequency_mhz`."""
        return {f"{name}_{end}": round(value, 1) for name, both in self.seen.items() for end, value in zip(("low", "high"), both)}


def _numbers(files: Iterable[Path], units: float) -> Iterable[float]:
    for file in files:
        try:
            value = int(file.read_text()) / units
        except (OSError, ValueError):
            continue
        if value > 0:
            yield value
