"""profile_devices: measures the devices of this machine and fits their profile."""

from __future__ import annotations

import datetime
import logging
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..devices.base import Device, TensorView
from ..errors import DeviceError
from ..graph.ir import Node, TensorType, Value
from ..ops import native_ops
from ..profiles import DeviceProfile, Machine, UnitProfile
from ..regions import Region
from .fit import fit_profile_from_table, section_from_rows
from .measure import Bench, measure, with_constants
from .sampler import Sample, samples
from .table import Measurement, describe

log = logging.getLogger("coexec")

#: (seconds done, seconds in all, what is being measured)
Progress = Callable[[float, float, str], None]

__all__ = ["fit_profile_from_table", "profile_devices"]

#: Bytes of the move that tells the bandwidth between two memories.
MOVE_BYTES = 8 << 20
#: How many times the budget a first run may take, compilers included.
COLD = 3.0
#: No single timing may take longer than this share of the budget.
SAMPLE_SHARE = 1 / 200


def profile_devices(cpu_device: Device, gpu_device: Device | None = None, *, time_budget_s: float = 20.0, threads: int = 1,
                    progress: Progress | None = None) -> tuple[DeviceProfile, list[Measurement]]:
    """Measures a CPU with that many threads, and a GPU where there is one: facts, fixed costs, kernels by family; then the fit.

    `time_budget_s` is for measuring. Compiling kernels comes on top where they are not in the cache yet (a session would have to do it
    anyway), but with it no more than COLD times the budget. Returns the profile and every measurement. Raises DeviceError where a
    device fails.
    """
    begun = time.perf_counter()
    say = progress or (lambda done, total, what: None)
    say(0.0, time_budget_s, "fixed costs")
    devices = {"cpu": cpu_device, **({"gpu": gpu_device} if gpu_device is not None else {})}
    fixed = {unit: fixed_costs(device, threads) for unit, device in devices.items()}
    rows: list[Measurement] = []
    prepared = 0.0
    for sample in samples():
        passed = time.perf_counter() - begun
        spent = max(passed - prepared, passed / COLD)
        if spent > 0.97 * time_budget_s:
            break
        say(spent, time_budget_s, f"{sample.node.op_type} {sample.node.inputs[0].shape} -> {sample.region.shape}")
        node = with_constants(sample.node, np.random.default_rng(0))
        for unit, device in devices.items():
            row, preparing = time_sample(unit, device, replace(sample, node=node), threads, fixed[unit]["wait_us"],
                                         SAMPLE_SHARE * time_budget_s)
            prepared += preparing
            if row is not None:
                rows.append(row)
    say(time_budget_s, time_budget_s, "fitting")
    sections = {unit: section(unit, device, [r for r in rows if r.unit == unit], threads, fixed[unit]) for unit, device in devices.items()}
    name = " + ".join(d.facts.name for d in devices.values())
    return DeviceProfile(name, sections["cpu"], sections.get("gpu"), machine()), rows


def time_sample(unit: str, device: Device, sample: Sample, threads: int, wait_us: float,
                seconds: float) -> tuple[Measurement | None, float]:
    """The row of one timing (None where the device has no such kernel), and the seconds that preparing it took."""
    node, region = sample.node, sample.region
    if device.declines(node) is not None:
        return None, 0.0
    try:
        with Bench(device, node, region, threads) as bench:
            found = bench.time(wait_us, min(0.02, seconds))
            implementation = bench.kernel.implementation
    except DeviceError as error:  # one kernel that a driver cannot build must not cost the whole profile
        log.warning("%s: %s; left out of the profile", device.facts.name, error)
        return None, 0.0
    row = Measurement(device.facts.name, unit, threads if unit == "cpu" else None, node.op_type, implementation, node.output.dtype.name,
                      **describe(node, region), busy_other=0, latency_us=round(found.median_us, 3), spread_us=round(found.spread_us, 3),
                      count=found.count)
    return row, bench.prepare_s


def _relu(size: int) -> Node:
    kind = TensorType(np.dtype(np.float32), (1, 1, 1, size))
    return Node("Relu", (Value("x", kind),), (Value("y", kind),), name="relu")


def fixed_costs(device: Device, threads: int) -> dict[str, float]:
    """launch_us: the host's time to start a kernel. sync_us: to hear that it is done. wait_us: both, beyond the kernel itself. map_us and
    transfer_gbs: of moves between two memories, where they are two.
    """
    tiny, whole = _relu(64), Region([(0, 1)] * 3 + [(0, 64)])
    if device.declines(tiny) is not None:
        raise DeviceError("the device cannot even run a Relu", where=device.facts.name, found=device.declines(tiny))
    with Bench(device, tiny, whole, threads) as bench:
        bench.queue.begin_run()
        try:
            once = measure(bench.run, warmup=10, min_seconds=0.05, min_count=30).low_us  # what disturbs only adds
            if not device.asynchronous:
                return {"launch_us": once, "sync_us": 0.0, "wait_us": 0.0}
            many = measure(lambda: bench.run(33), warmup=2, min_seconds=0.05, min_count=10).low_us
            launch = _launch_us(bench)
        finally:
            bench.queue.end_run()
        each = max(0.0, (many - once) / 32)  # what one more kernel costs: the longer of starting and running it
        sync = max(once - launch - each, 0.1 * once)
        moves = _moves(bench)
    return {"launch_us": launch, "sync_us": sync, "wait_us": max(0.0, once - each), **moves}


def _launch_us(bench: Bench) -> float:
    """Host time of one start, of 16 in a row with the queue empty at first."""
    found = []
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(16):
            event = bench.kernel.start()
        found.append((time.perf_counter() - begun) / 16)
        bench.queue.flush()
        event.wait()
    return float(np.percentile(found, 10)) * 1e6


def _moves(bench: Bench) -> dict[str, float]:
    buffer = bench.device.allocate(MOVE_BYTES)
    try:
        if buffer.shared:
            return {}
        times = []
        for nbytes in (4096, MOVE_BYTES):
            view = TensorView.contiguous(buffer, np.dtype(np.uint8), Region([(0, nbytes)]))
            up = measure(lambda v=view: bench.queue.upload(v).wait(), min_seconds=0.02).median_us
            down = measure(lambda v=view: bench.queue.download(v).wait(), min_seconds=0.02).median_us
            times.append((up + down) / 2)
        return {"map_us": times[0], "transfer_gbs": MOVE_BYTES / 1e3 / max(times[1] - times[0], 1e-3)}
    finally:
        buffer.close()


def section(unit: str, device: Device, rows: list[Measurement], threads: int, fixed: dict[str, float]) -> UnitProfile:
    """A unit's section: what the rows say, with the device's own facts and measured fixed costs."""
    facts = device.facts
    base = section_from_rows(unit, rows) if rows else UnitProfile(facts.name, 1.0, 1.0)
    short = {k: float(f"{v:.4g}") for k, v in fixed.items() if k != "wait_us"}
    return replace(
        base, name=facts.name, driver=facts.driver, emulated=facts.emulated, compute_units=facts.compute_units,
        threads=threads if unit == "cpu" else 0,
        dtypes=tuple(sorted(facts.dtypes)), operators=tuple(sorted(operators(device))) if unit == "gpu" else (),
        sharing=str(getattr(device, "sharing", "") or next(iter(facts.sharing), "")), provenance="measured" if rows else "estimated",
        **{"launch_us": 0.0, "sync_us": 0.0, **short},
    )


def operators(device: Device) -> Iterator[str]:
    """Operator types, with their domain, that the device has kernels for."""
    known = native_ops() if device.operators is None else device.operators
    return (f"{domain}::{op_type}" if domain else op_type for domain, op_type in known)


def machine() -> Machine:
    """This machine in plain words."""
    from .. import __version__

    return Machine(board(), f"{platform.system()} {platform.release()}", platform.machine(), datetime.date.today().isoformat(), __version__)


def board() -> str:
    """What the firmware calls this board; nothing that tells one such board from another."""
    for source in ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name"):
        try:
            named = Path(source).read_text(errors="replace").strip("\0 \n")
        except OSError:
            continue
        if named:
            return named
    return ""
