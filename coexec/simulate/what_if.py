"""What if the board were another: a profile with some numbers changed, and everything that was learnt of it changed in proportion.

`gpu.peak_gflops=2x` halves what the GPU's kernels spend on computing, `cpu.bandwidth_gbs=0.5x` doubles what the CPU's spend on bytes; what
they spend on being started stays. Which is which follows from a fit's terms, `us_per_mbyte` and `us_per_mb_...` being bytes. A factor is
exact as far as the fit's terms tell computing and moving apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..errors import UsageError, suggest
from ..profiles import DeviceProfile, Latency, UnitProfile

#: Fields of a unit that can be changed, and whether 0 is a value.
FIELDS = {"peak_gflops": False, "bandwidth_gbs": False, "launch_us": True, "begin_us": True, "sync_us": True, "ready_us": True, "map_us": True,
          "transfer_gbs": False, "crossing_gbs": False, "power_w": False, "idle_w": True, "busy.compute": False, "busy.memory": False}
#: What a name without a unit means: the costs of the device beside the host.
OF_THE_GPU = ("launch_us", "begin_us", "sync_us", "ready_us", "map_us", "transfer_gbs")
UNITS = ("cpu", "gpu")
_VALUE = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(x?)", re.IGNORECASE)
#: More what-ifs than this are a slip of the hand.
MOST = 10_000


@dataclass(frozen=True)
class Change:
    """`field` of a unit becomes `value`, or, where it is a factor, that many times what it was; None: not known (one memory)."""

    unit: str
    field: str
    value: float | None
    factor: bool = False

    @property
    def name(self) -> str:
        return f"{self.unit}.{self.field}"

    @property
    def told(self) -> str:
        """The value as it is written."""
        return "none" if self.value is None else f"{self.value:g}{'x' if self.factor else ''}"

    def __str__(self) -> str:
        return f"{self.name}={self.told}"


def parse_change(text: str) -> Change:
    """The change that `gpu.peak_gflops=2x`, `sync_us=100` or `transfer_gbs=none` means. Raises UsageError for anything else."""
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise UsageError("a change has no value", found=f"'{text}'", expected="NAME=VALUE or NAME=2x")
    unit, field = _named(name.strip())
    return Change(unit, field, *_value(field, value.strip()))


def parse_sweep(text: str) -> tuple[Change, ...]:
    """The changes of `NAME=50,100,2x`, or of `NAME=10..1000:7`, seven values from 10 to 1000 in equal ratios (from 0 on in equal steps)."""
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UsageError("a sweep has no values", found=f"'{text}'", expected="NAME=A,B,C or NAME=A..B:COUNT")
    unit, field = _named(name.strip())
    if ".." not in values:
        return tuple(Change(unit, field, *_value(field, v.strip())) for v in values.split(","))
    found = re.fullmatch(r"(.+?)\.\.(.+?):(\d+)", values)
    if not found or not 2 <= int(found[3]) <= MOST:
        raise UsageError("a range of a sweep is wrong", found=f"'{values}'", expected=f"A..B:COUNT, of 2 to {MOST} values")
    (low, first), (high, second) = _value(field, found[1]), _value(field, found[2])
    if first != second or low is None or high is None:
        raise UsageError("a range of a sweep is wrong", found=f"'{values}'", expected="two numbers, or two factors such as 0.5x..4x:7")
    return tuple(Change(unit, field, float(f"{v:.6g}"), first) for v in _spread(low, high, int(found[3])))


def _spread(low: float, high: float, count: int) -> Iterator[float]:
    for i in range(count):
        share = i / (count - 1)
        yield low * (high / low) ** share if low > 0 and high > 0 else low + (high - low) * share


def combinations(sweeps: Sequence[Sequence[Change]]) -> list[tuple[Change, ...]]:
    """Every way to take one change of each sweep. Raises UsageError where those are too many."""
    if math.prod(map(len, sweeps)) > MOST:
        raise UsageError("the sweeps make too many what-ifs", found=math.prod(map(len, sweeps)), expected=f"at most {MOST}")
    return list(product(*sweeps))


def _named(name: str) -> tuple[str, str]:
    unit, dot, field = name.partition(".")
    if unit not in UNITS:
        unit, field = "gpu", name
        if field not in OF_THE_GPU:
            known = [*OF_THE_GPU, *(f"{u}.{f}" for u in UNITS for f in FIELDS)]
            raise UsageError(f"a profile has no number '{name}' that can be changed", hint=suggest(name, known))
    if field not in FIELDS:
        raise UsageError(f"a profile has no number '{name}' that can be changed", hint=suggest(name, [f"{unit}.{f}" for f in FIELDS]))
    return unit, field


def _value(field: str, text: str) -> tuple[float | None, bool]:
    if text == "none" and field in ("transfer_gbs", "crossing_gbs", "ready_us"):
        return None, False
    found = _VALUE.fullmatch(text)
    value = float(found[1]) if found else math.nan
    if not math.isfinite(value) or (value == 0 and (not FIELDS[field] or bool(found and found[2]))):
        raise UsageError(f"the value of '{field}' is wrong", found=f"'{text}'",
                         expected=f"a number {'of at least 0' if FIELDS[field] else 'above 0'}, or a factor such as 2x")
    return value, bool(found[2])  # type: ignore[index]


def changed(profile: DeviceProfile, changes: Iterable[Change]) -> DeviceProfile:
    """The profile with those changes, one after another. Raises UsageError where it has no such unit, or nothing to multiply."""
    for change in changes:
        section = getattr(profile, change.unit)
        if section is None:
            raise UsageError(f"cannot change '{change.name}': the profile has no {change.unit}", where=profile.name)
        profile = replace(profile, **{change.unit: _changed(section, change)})
        if change.unit == "cpu" and profile.cpu_alone is not None:
            profile = replace(profile, cpu_alone=_changed(profile.cpu_alone, _in_proportion(change, section)))
    return profile


def _in_proportion(change: Change, section: UnitProfile) -> Change:
    """The change of a rate as a factor: the same unit with more threads has a higher rate, which changes as much."""
    was = getattr(section, change.field, None)
    return change if change.factor or not was or not change.value else replace(change, value=change.value / was, factor=True)


def _changed(section: UnitProfile, change: Change) -> UnitProfile:
    group, dot, key = change.field.partition(".")
    was = section.busy.get(key, 1.0) if dot else getattr(section, change.field)
    if change.factor:
        if was is None:
            raise UsageError(f"cannot multiply '{change.name}'", where=section.name, found="a number that the profile does not know")
        value = was * change.value  # type: ignore[operator]
    else:
        value = change.value
    if dot:
        return replace(section, busy={**section.busy, key: max(1.0, value)})
    told = replace(section, **{change.field: value})
    if change.field in _SCALES and value and was:
        told = replace(told, latency={name: _slower(fit, was / value, _SCALES[change.field]) for name, fit in section.latency.items()})
    return told


def _is_bytes(term: str) -> bool:
    return term.startswith("us_per_mb")


def _is_computing(term: str) -> bool:
    return term not in ("fixed_us", "us_per_woken") and not _is_bytes(term)


_SCALES: Mapping[str, Callable[[str], bool]] = {"peak_gflops": _is_computing, "bandwidth_gbs": _is_bytes}


def _slower(fit: Latency, factor: float, which: Callable[[str], bool]) -> Latency:
    return replace(fit, terms={name: value * factor if which(name) else value for name, value in fit.terms.items()}, provenance="estimated")
