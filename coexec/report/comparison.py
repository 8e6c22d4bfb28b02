"""Does a profile fit the machine at hand, and how do two profiles differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..cost.compose import ALONE, CostModel
from ..devices.base import Device
from ..graph.ir import Node
from ..profiles import DeviceProfile, UnitProfile
from ..profiling.fixed import fixed_costs
from ..profiling.measure import with_constants
from ..profiling.sampler import SHAPES
from ..profiling.table import node_of
from ..profiling.ways import as_profiled
from ..regions import Region
from .evaluation import time_pieces

#: How far the median of the probes may be off before a machine counts as another, or as one with other clocks.
TOLERANCE = 1.4
#: By what factors fixed costs, which are small and uneven, may be less and more: the profile has them as runs do, where they are several times
#: what a bare loop says, and a bare loop is what is asked here.
FIXED_LESS, FIXED_MORE = 8.0, 4.0
#: Families whose most telling shapes are timed again: by arithmetic, by memory, by both.
PROBED = ("conv_1x1", "conv_3x3", "conv_depthwise", "matmul", "elementwise", "pool")
PROBES_EACH = 2
#: How often each is timed.
PROBE_PASSES = 4


@dataclass(frozen=True)
class Finding:
    """One thing compared: what the profile says, what is here, and whether that is the same for our purposes."""

    unit: str
    what: str
    profile: Any
    here: Any
    fits: bool


def check(profile: DeviceProfile, devices: Mapping[str, Device], threads: int, tolerance: float = TOLERANCE) -> list[Finding]:
    """Every finding of a profile beside the devices of this machine: names, drivers, cores, and speeds as a few kernels show them."""
    found: list[Finding] = []
    if "gpu" in devices and profile.gpu is None:
        found.append(Finding("gpu", "name", None, devices["gpu"].facts.name, False))
    for unit, section in _sections(profile):
        device = devices.get("gpu" if unit == "gpu" else "cpu")
        if device is None:
            found.append(Finding(unit, "name", section.name, None, False))
            continue
        facts = device.facts
        if unit != ALONE:
            for what in ("name", "driver", "emulated", "compute_units"):
                said, is_ = getattr(section, what), getattr(facts, what)
                # A table, or a datasheet, does not always name a driver or count cores.
                unknown = section.provenance != "measured" and what != "name"
                found.append(Finding(unit, what, said, is_, said == is_ or unknown))
        if unit == "cpu":
            found.append(Finding(unit, "threads", section.threads, threads, section.threads in (0, threads)))
        if found[-1].fits:
            found += _speeds(unit, section, profile, device, threads, tolerance)
    return found


def _sections(profile: DeviceProfile) -> Iterator[tuple[str, UnitProfile]]:
    for unit, section in (("cpu", profile.cpu), ("gpu", profile.gpu), (ALONE, profile.cpu_alone)):
        if section is not None:
            yield unit, section


def _speeds(unit: str, section: UnitProfile, profile: DeviceProfile, device: Device, threads: int, tolerance: float) -> Iterator[Finding]:
    """The fixed costs of a GPU, and the median over probes of measured by predicted time: what another clock changes."""
    costs = CostModel(profile)
    device = as_profiled(device, section)
    fixed = fixed_costs(device, section.threads or threads)
    if unit == "gpu":
        for what in ("launch_us", "sync_us"):
            said, is_ = getattr(section, what), round(fixed[what], 3)
            yield Finding(unit, what, said, is_, max(said, 1.0) / FIXED_LESS <= max(is_, 1.0) <= max(said, 1.0) * FIXED_MORE)
    wanted: list[tuple[Node, str, Region]] = []
    expected: list[float] = []
    for family in PROBED:
        for shape in SHAPES[family][:PROBES_EACH]:
            node = with_constants(node_of(shape), np.random.default_rng(0))
            region = Region.whole(node.output.shape)
            predicted = costs.kernel(node, region, unit)
            if not predicted.estimated:
                wanted.append((node, "", region))
                expected.append(predicted.us)
    # As the profile timed them, without the references: clocks that are others for good change those, too. A moment's are not: the nearest counts.
    passes = [time_pieces(device, wanted, section.threads or threads, range(len(wanted))) for _ in range(PROBE_PASSES)]
    timed = [[one.us for one in each if one is not None] for each in zip(*passes)]
    ratios = [(min(us) / known, max(us) / known) for us, known in zip(timed, expected) if us]
    if ratios:
        least, most = (statistics.median(r) for r in zip(*ratios))
        middle = min(max(1.0, least), most)
        yield Finding(unit, "time of probes, median ratio to predicted", 1.0, round(middle, 3), 1 / tolerance <= middle <= tolerance)


def differences(a: DeviceProfile, b: DeviceProfile) -> list[tuple[str, Any, Any]]:
    """(key, in a, in b) of everything that is not the same, fits aside: what a person would look at. None where a section is missing."""
    found = [(f"machine.{f.name}", getattr(a.machine, f.name), getattr(b.machine, f.name)) for f in fields(a.machine)]
    ours, theirs = dict(_sections(a)), dict(_sections(b))
    for unit in dict.fromkeys((*ours, *theirs)):
        if unit not in ours or unit not in theirs:
            found.append((unit, ours[unit].name if unit in ours else None, theirs[unit].name if unit in theirs else None))
            continue
        for f in fields(UnitProfile):
            one, other = getattr(ours[unit], f.name), getattr(theirs[unit], f.name)
            if f.name in ("facts", "busy", "sharing_us", "waiting_us", "image_shares"):
                found += [(f"{unit}.{f.name}.{k}", one.get(k), other.get(k)) for k in sorted({*one, *other})]
            elif f.name == "operators":
                only = sorted({*one} - {*other}), sorted({*other} - {*one})
                found.append((f"{unit}.operators that the other lacks", *map(", ".join, only)))
            elif f.name != "latency":
                found.append((f"{unit}.{f.name}", one, other))
    return [(key, one, other) for key, one, other in found if one != other]


def latency_ratios(a: DeviceProfile, b: DeviceProfile) -> dict[str, dict[str, float]]:
    """By unit that both have and family: the geometric mean over telling shapes of b's time by a's."""
    ours, theirs, found = CostModel(a), CostModel(b), {}
    for unit in ours.units:
        if unit not in theirs.units:
            continue
        found[unit] = {}
        for family, rows in SHAPES.items():
            pieces = [(node, Region.whole(node.output.shape)) for node in map(node_of, rows)]
            logs = [math.log(theirs.kernel(*p, unit).us / ours.kernel(*p, unit).us) for p in pieces]
            found[unit][family] = round(math.exp(statistics.fmean(logs)), 4)
    return found
