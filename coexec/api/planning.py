"""Profiles and plans: measure this machine, plan for it or for a board that is not there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from .. import settings
from ..cost.compose import CostModel
from ..cost.corrections import Corrections
from ..cost.images import may_gain, of_plan, with_images
from ..devices.base import Device
from ..devices.registry import find_devices, session_threads
from ..errors import CoexecError
from ..graph.ir import Graph
from ..partition.halos import keep_halos
from ..partition.plan import Plan
from ..partition.strategies.base import parse_strategy
from ..partition.wishes import NONE, Wishes
from ..profiles import DeviceProfile, default_profile_path, load_profile, save_profile
from ..simulate.judge import judging
from .between import RunCosts
from .looks import LooksElsewhere
from .models import Shapes, bind, default_shapes, load

log = logging.getLogger("coexec")


def resolve_profile(profile: DeviceProfile | str | None) -> DeviceProfile | None:
    """The profile itself, or the one a path names. Raises ProfileMismatch."""
    return profile if profile is None or isinstance(profile, DeviceProfile) else load_profile(profile)


def plan(source: Any, *, profile: DeviceProfile | str | None = None, strategy: str = "coexec", shapes: Shapes | None = None,
         force: Mapping[str, str] | None = None, max_gpu_share: float = 1.0, objective: str = "latency", memory_limit: int | None = None,
         devices: Mapping[str, Device] | None = None, threads: int = 0) -> Plan:
    """A plan for a model. Without a profile, this machine's is used (made quickly if there is none); with one, no device is touched.

    force: node name -> cpu or gpu. max_gpu_share: of each operator, from 0 to 1. objective: `latency`, or `energy`, by the watts that the
    profile tells. memory_limit: bytes of packed weights and activations together, as modelled.
    Raises ModelError, ProfileMismatch, NoDevice (strategy `gpu` without a GPU), UsageError (also where a wish cannot be fulfilled).
    """
    graph, wishes = load(source), Wishes(dict(force or {}), max_gpu_share, objective, memory_limit)
    return plan_prepared(bind(graph, default_shapes(graph, shapes)), profile=profile, strategy=strategy, wishes=wishes, devices=devices,
                         threads=threads)


def plan_prepared(graph: Graph, *, profile: DeviceProfile | str | None = None, strategy: str = "coexec",
                  wishes: Wishes = NONE, devices: Mapping[str, Device] | None = None,
                  corrections: Corrections | None = None, threads: int = 0) -> Plan:
    """`plan` for a graph that `bind` has prepared already; `corrections` are what its runs have shown, `threads` what the CPU's pool will have
    (0: its own choice)."""
    partitioner = parse_strategy(strategy)
    found = resolve_profile(profile)
    if found is None and devices is None:
        devices = find_devices(need_gpu=partitioner.needs_gpu)
    if found is None and (partitioner.needs_profile or wishes.objective != "latency" or wishes.memory_bytes is not None):
        found = cached_profile(devices=devices)
    if found is not None:
        found = found.with_threads(threads or settings.get("threads"))
    gpu = (devices or {}).get("gpu")
    supports = None if devices is None or not partitioner.uses_gpu else (gpu.declines if gpu is not None else lambda node: "there is no GPU")
    started = time.perf_counter()
    made = partitioner.plan(graph, found, supports, wishes=wishes, corrections=corrections, judging=judging)
    if found is not None and found.in_step and {"cpu", "gpu"} <= made.devices:
        made = replace(made, counters=True)
    if found is not None and "gpu" in made.devices and may_gain(found):
        made = with_images(made, graph, CostModel(found, corrections))
    return replace(made, planning_ms=(time.perf_counter() - started) * 1e3, shapes={v.name: v.shape for v in graph.inputs if v.type.is_static})


def repredicted(plan: Plan, graph: Graph, profile: DeviceProfile, threads: int = 0) -> Plan:
    """A plan from another day, with what this profile says of it."""
    cost = CostModel(profile.with_threads(threads or settings.get("threads")))
    us = cost.total_us(graph, keep_halos(graph, [plan[n.name] for n in graph.nodes]), of_plan(cost, graph, plan))
    return replace(plan, profile=profile.name, predicted_ms=round(us / 1e3, 6))


#: Seconds that measuring takes by default, quick and full.
QUICK_S, FULL_S = 45.0, 1140.0


def profile_device(*, quick: bool = True, time_budget_s: float | None = None, threads: int = 0, gpu: str = "",
                   progress: Callable | None = None, table: Any = None, resume: bool = False) -> tuple[DeviceProfile, list]:
    """Measures this machine. Returns the profile and the raw measurements. Raises NoDevice where `gpu` names none.

    Every row is appended to the CSV file `table` as it is measured; with `resume`, after the rows that are there already. `progress` is told as
    by `cached_profile`.
    """
    from ..profiling.isolation import Isolated
    from ..profiling.run import profile_devices

    devices = find_devices(gpu)
    budget = time_budget_s if time_budget_s is not None else (QUICK_S if quick else FULL_S)
    threads = session_threads(devices, threads)
    with closing(RunCosts(devices, threads, LooksElsewhere(threads, gpu))) as of_runs:
        made, rows = profile_devices(devices["cpu"], devices.get("gpu"), time_budget_s=budget, threads=threads, progress=progress, table=table,
                                     resume=resume, isolated=Isolated(opencl=gpu), aside=of_runs.look)
        return of_runs.told(made), rows


def cached_profile(progress: Callable | None = None, devices: Mapping[str, Device] | None = None) -> DeviceProfile:
    """This machine's profile from the cache; measured quickly, and kept, where there is none that fits, which one line of the log says.

    `progress` is told (seconds since it began, seconds in all as far as can be seen by now or 0 where nothing can be said, what is done).
    """
    devices = devices or find_devices()
    path = default_profile_path({name: device.facts for name, device in devices.items()})
    if path.exists():
        try:
            return load_profile(path)
        except CoexecError:
            pass  # written by another version, or damaged: measured anew below
    from ..profiling.isolation import Isolated
    from ..profiling.run import profile_devices

    log.warning("this machine has no profile%s: it is measured quickly, once, for about a minute; `coexec profile --full` measures it better",
                " that this version can read" if path.exists() else " yet")
    threads = session_threads(dict(devices))
    with closing(RunCosts(devices, threads, LooksElsewhere(threads))) as of_runs:
        made, _ = profile_devices(devices["cpu"], devices.get("gpu"), time_budget_s=QUICK_S, threads=threads, progress=progress, isolated=Isolated(),
                                  aside=of_runs.look)
        made = of_runs.told(made)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_profile(made, path)
    except OSError:
        log.warning("[%s] the profile cannot be kept in the cache; set COEXEC_CACHE_DIR to a writable folder", path)
    return made
