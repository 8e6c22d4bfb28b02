"""Scenarios: what else happens to a board while a model runs. A unit that is throttled, or that something else uses, is slower for a while."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UsageError, suggest

KINDS = {"throttle": ("to", "after"), "load": ("share", "from", "until")}
_SECONDS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Spell:
    """From `start_us` until `stop_us` the unit works at `speed` times its own."""

    unit: str
    speed: float
    start_us: float = 0.0
    stop_us: float = math.inf


@dataclass(frozen=True)
class Scenario:
    """Spells, of which several may fall together: their speeds multiply."""

    spells: tuple[Spell, ...] = ()
    told: str = "nothing else runs"

    def speed(self, unit: str, at_us: float) -> float:
        """Of that unit then; 1 is its own."""
        found = 1.0
        for s in self.spells:
            if s.unit == unit and s.start_us <= at_us < s.stop_us:
                found *= s.speed
        return found

    def next_change_us(self, at_us: float) -> float:
        """When a speed changes next; infinite where none does."""
        return min((t for s in self.spells for t in (s.start_us, s.stop_us) if t > at_us), default=math.inf)


QUIET = Scenario()


def parse_scenario(texts: Iterable[str]) -> Scenario:
    """The scenario that `throttle:gpu,to=0.5,after=2s` and `load:cpu,share=0.3,from=1s,until=4s` describe, all of them at once.

    A throttled unit works at `to` times its speed from `after` on; of a loaded one, something else takes `share`. Raises UsageError.
    """
    texts = list(texts)
    return Scenario(tuple(_spell(t) for t in texts), "; ".join(texts) or QUIET.told)


def _spell(text: str) -> Spell:
    where = f"scenario '{text}'"
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise UsageError(f"unknown kind of scenario '{kind}'", where=where, hint=suggest(kind, KINDS))
    unit, *given = rest.split(",")
    if unit not in ("cpu", "gpu", "little"):
        raise UsageError("the scenario names no unit", where=where, found=repr(unit), expected=f"{kind}:cpu, or gpu or little, then the options")
    options: dict[str, str] = {}
    for part in given:
        key, equals, value = part.partition("=")
        if key not in KINDS[kind] or not equals:
            raise UsageError(f"'{part}' is no option of it", where=where, expected=", ".join(f"{k}=..." for k in KINDS[kind]))
        options[key] = value
    share = _share(options, "to" if kind == "throttle" else "share", where)
    start, stop = _seconds(options.get("after", options.get("from", "0")), where), _seconds(options.get("until", "inf"), where)
    if stop <= start:
        raise UsageError("it ends before it begins", where=where, found=f"from {start:g} s until {stop:g} s")
    return Spell(unit, share if kind == "throttle" else 1.0 - share, start * 1e6, stop * 1e6)


def _share(options: dict[str, str], key: str, where: str) -> float:
    try:
        found = float(options.get(key, ""))
    except ValueError:
        found = math.nan
    if not 0 < found < 1:
        raise UsageError(f"option '{key}' of the scenario is wrong", where=where, found=repr(options.get(key)), expected="a share between 0 and 1")
    return found


def _seconds(text: str, where: str) -> float:
    found = re.fullmatch(r"(inf|\d+(?:\.\d+)?)(us|ms|s|m|)", text)
    if not found:
        raise UsageError("a time of the scenario is wrong", where=where, found=repr(text), expected="2s, 150ms or 1m")
    return float(found[1]) * _SECONDS[found[2]]
