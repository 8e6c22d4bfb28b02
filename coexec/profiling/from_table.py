"""A whole profile from a table of measurements: coexec's own, or others'."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..errors import UsageError
from ..profiles import DeviceProfile, UnitProfile
from .fit import of_coexec
from .sections import Asked, sections
from .table import Measurement

log = logging.getLogger("coexec")


def fit_profile_from_table(rows: Sequence[Measurement], name: str = "") -> DeviceProfile:
    """The profile that a table of measurements supports. What no table says (launch, wait) is assumed, and the sections say `estimated`. Of a GPU's
    table the CPU is taken to be as fast, which a warning says.

    Raises UsageError where there are no rows of either, or a row is impossible.
    """
    by_unit = {unit: one_device([r for r in rows if r.unit == unit]) for unit in ("cpu", "gpu")}
    if not any(by_unit.values()):
        raise UsageError("the table has no rows with unit cpu or gpu", expected="timings of the CPU, of the GPU, or of both")
    threads = {r.threads or 1 for r in by_unit["cpu"]}
    by_unit["cpu_alone"] = [r for r in by_unit["cpu"] if (r.threads or 1) == max(threads)] if len(threads) > 1 and by_unit["gpu"] else []
    if by_unit["cpu_alone"]:
        by_unit["cpu"] = [r for r in by_unit["cpu"] if (r.threads or 1) == min(threads)]
    made = sections({unit: Asked(unit[:3], found) for unit, found in by_unit.items() if found})
    if "cpu" not in made:
        log.warning("the table has no rows with unit cpu: the CPU is taken to be as fast as the GPU, an estimate")
        made["cpu"] = UnitProfile("unknown", made["gpu"].peak_gflops, made["gpu"].bandwidth_gbs, provenance="estimated")
    called = name or " + ".join(made[u].name or u for u in ("cpu", "gpu") if u in made)
    return DeviceProfile(called, made["cpu"], made.get("gpu"), cpu_alone=made.get("cpu_alone"))


def refit(profile: DeviceProfile, rows: Sequence[Measurement]) -> DeviceProfile:
    """The profile with its fits made anew from rows of the same devices; facts and what runs showed (fixed costs, what company costs), which no
    table holds, stay.

    Raises UsageError where the rows are of other devices.
    """
    known = {unit: s for unit in ("cpu", "gpu", "cpu_alone") if (s := getattr(profile, unit)) is not None}
    strange = {r.device for r in rows} - {s.name for s in known.values()}
    if strange:
        raise UsageError("the table is of another board than the profile", found=", ".join(sorted(strange)), expected=profile.name)
    timed = {unit: [r for r in rows if r.unit == unit[:3] and (unit == "gpu" or r.threads == section.threads)] for unit, section in known.items()}
    made = sections({unit: Asked(unit[:3], mine, known[unit].facts) for unit, mine in timed.items() if mine})
    for unit, fresh in made.items():
        kept = {name: value for name, value in known[unit].facts.items() if not name.startswith("block_")}
        fresh = replace(fresh, facts={**kept, **fresh.facts})
        made[unit] = replace(known[unit], busy=known[unit].busy or fresh.busy,
                             **{k: getattr(fresh, k) for k in ("peak_gflops", "bandwidth_gbs", "facts", "latency")})
    return replace(profile, **made)


def one_device(rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows of the device with most of them, of one element type where kernels are not coexec's: a profile describes one board."""
    if not rows:
        return []
    device = Counter(r.device for r in rows).most_common(1)[0][0]
    mine = [r for r in rows if r.device == device]
    dtype = Counter(r.dtype for r in mine).most_common(1)[0][0]
    return mine if of_coexec(mine) else [r for r in mine if r.dtype == dtype]
