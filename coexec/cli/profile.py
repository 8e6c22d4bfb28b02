"""Measures this machine's CPU and GPU and fits a profile, the facts that plans are made from; or fits one from a table of timings."""

from __future__ import annotations

import argparse
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import options as shared
from .console import Console, table
from .progress import Progress

HELP = "measure this machine"
EXAMPLES = (
    "coexec profile                                     quickly, kept in the cache: the default of every other verb",
    "coexec profile -o profiles/my-board.yaml --full",
    "coexec profile -o p.yaml --time-budget 5m --threads 4 --cpu-affinity 4-7",
    "coexec profile -o p.yaml --csv timings.csv          the raw measurements there",
    "coexec profile -o p.yaml --resume --time-budget 5m  more measurements for the same profile",
    "coexec profile --from-csv timings.csv --group-by shape -o p.yaml --json",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="P.yaml", help="where the profile goes (default: the cache, as this machine's)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="about 50 seconds (the default)")
    group.add_argument("--full", action="store_true", help="about 20 minutes")
    parser.add_argument("--time-budget", metavar="T", type=shared.duration, help="how long it may take: 90s, 10m, 1h")
    shared.processors(parser)
    parser.add_argument("--cpu-affinity", metavar="LIST", type=cores, help="cores to use, such as 4-7 or 0,2 (default: all)")
    parser.add_argument("--resume", action="store_true", help="add to the measurements of an earlier round, finished or interrupted")
    parser.add_argument("--csv", metavar="FILE", help="where measurements go, one row a kernel timing (default: beside the profile)")
    parser.add_argument("--from-csv", metavar="FILE", help="measure nothing, fit a table of timings")
    parser.add_argument("--group-by", choices=("shape",), help="with --from-csv: how well shapes are predicted that the fit did not see")


def execute(options: argparse.Namespace, console: Console) -> int:
    target, raw = shared.writable(options.output), shared.writable(options.csv, "--csv")
    if options.group_by and not options.from_csv:
        raise UsageError("--group-by judges a table", expected="--from-csv FILE beside it")
    if options.resume and options.from_csv:
        raise UsageError("--resume measures, --from-csv does not", expected="one or the other")
    if options.from_csv:
        return _from_table(options, target, console)
    return _measure(options, target, raw, console)


def _measure(options: argparse.Namespace, target: Path | None, raw: Path | None, console: Console) -> int:
    if options.cpu_affinity:
        _pin(options.cpu_affinity)
    from ..api import profile_device
    from ..devices.registry import find_devices
    from ..profiles import default_profile_path, save_profile

    devices = find_devices()
    if "gpu" not in devices:
        console.note("no GPU here: the profile will hold the CPU alone (see `coexec doctor`)")
    started = time.perf_counter()
    kept = target is not None or raw is not None
    if target is None:
        target = default_profile_path({name: device.facts for name, device in devices.items()})
        target.parent.mkdir(parents=True, exist_ok=True)
    table_path = raw or target.with_suffix(".csv")
    with Progress(console, "profiling") as tick:
        made, rows = profile_device(
            quick=not options.full, time_budget_s=options.time_budget, progress=tick, table=table_path, resume=options.resume
        )
    seconds = time.perf_counter() - started
    save_profile(made, target)
    if not kept and not options.resume:  # in the cache, only an interrupted round leaves its measurements, to be resumed
        table_path.unlink(missing_ok=True)
    units = {"cpu": made.cpu, **({"gpu": made.gpu} if made.gpu else {})}
    console.emit(
        {
            "profile": str(target),
            "name": made.name,
            "measurements": len(rows),
            "seconds": seconds,
            "csv": str(table_path) if table_path.exists() else None,
            "units": {unit: summary(section) for unit, section in units.items()},
        }
    )
    show(units, console)
    console.result(f"{len(rows)} measurements in {seconds:.0f} s")
    console.note(f"wrote {target}")
    return 0


def _from_table(options: argparse.Namespace, target: Path | None, console: Console) -> int:
    from ..profiles import save_profile
    from ..profiling.baselines import BASELINES, predictions
    from ..profiling.fit import fit_profile_from_table, held_out_accuracy
    from ..profiling.table import read_table

    rows = read_table(options.from_csv)
    made = fit_profile_from_table(rows, Path(options.output or options.from_csv).stem)
    if target is not None:
        save_profile(made, target)
    judged = held_out_accuracy(rows) if options.group_by else {}
    others = {name: held_out_accuracy(rows, predict=partial(predictions, name)) for name in BASELINES} if judged else {}
    for unit in ("cpu", "gpu"):
        boards = sorted({r.device for r in rows if r.unit == unit})
        if len(boards) > 1:
            chosen = (made.cpu if unit == "cpu" else made.gpu).name
            console.note(f"the table has {len(boards)} devices of unit {unit}: the profile is of '{chosen}', which has the most rows")
    units = {"cpu": made.cpu, **({"gpu": made.gpu} if made.gpu else {})}
    console.emit(
        {
            "profile": options.output,
            "name": made.name,
            "measurements": len(rows),
            "devices": judged,
            "baselines": others,
            "units": {unit: summary(section) for unit, section in units.items()},
        }
    )
    show(units, console)
    if judged:
        show_accuracy(judged, console, others)
    if target is not None:
        console.note(f"wrote {target}")
    return 0


def summary(section: Any) -> dict[str, Any]:
    """A unit's section in short: names, peaks, overheads, and the fit of every family."""
    return {
        "name": section.name,
        "driver": section.driver,
        "emulated": section.emulated,
        "threads": section.threads,
        "peak_gflops": section.peak_gflops,
        "bandwidth_gbs": section.bandwidth_gbs,
        "launch_us": section.launch_us,
        "sync_us": section.sync_us,
        "families": {name: {"samples": fit.samples, "error_pct": fit.error_pct} for name, fit in section.latency.items()},
    }


def show(units: dict[str, Any], console: Console) -> None:
    """A line per unit."""
    rows = [
        (
            unit + (" (emulated)" if s.emulated else ""),
            s.name,
            f"{s.peak_gflops:.4g}",
            f"{s.bandwidth_gbs:.4g}",
            f"{s.launch_us:.3g}",
            f"{s.sync_us:.3g}",
            len(s.latency),
        )
        for unit, s in units.items()
    ]
    console.result(table(rows, ("unit", "name", "GFLOP/s", "GB/s", "launch us", "sync us", "families fitted"), "ll"))


def show_accuracy(judged: dict[str, Any], console: Console, others: dict[str, dict[str, Any]] | None = None) -> None:
    """How well a unit's kernels were predicted: shares within 5, 10 and 15 %, beside the noise floor; then how others' ways would."""
    percent = lambda share: "-" if share is None else f"{100 * share:.1f} %"  # noqa: E731
    rows = [
        (
            unit,
            by,
            j["count"],
            percent(j["within_5pct"]),
            percent(j["within_10pct"]),
            percent(j["within_15pct"]),
            "-" if j["mape"] is None else f"{j['mape']:.1f} %",
            percent(j["noise_floor_within_10pct"]),
        )
        for by, report in {"this profile": judged, **(others or {})}.items()
        for unit, j in report.items()
    ]
    console.result(table(rows, ("unit", "predicted by", "kernels", "within 5 %", "10 %", "15 %", "mean error", "noise floor (10 %)"), "ll"))


def cores(text: str) -> frozenset[int]:
    """Core numbers: 4-7 or 0,2,4-5."""
    found: set[int] = set()
    for part in text.split(","):
        span = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if not span or int(span[2] or span[1]) < int(span[1]):
            raise argparse.ArgumentTypeError(f"found '{text}', expected core numbers such as 4-7 or 0,2")
        found |= set(range(int(span[1]), int(span[2] or span[1]) + 1))
    return frozenset(found)


def _pin(wanted: frozenset[int]) -> None:
    try:
        os.sched_setaffinity(0, wanted)
    except (OSError, AttributeError) as error:
        allowed = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else "all"
        raise UsageError(
            "cannot use those cores",
            where="--cpu-affinity",
            found=f"{','.join(map(str, sorted(wanted)))} ({error})",
            expected=f"some of {allowed}",
        ) from None
