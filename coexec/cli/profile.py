"""Measures this machine's CPU and GPU and fits a profile, the facts that plans are made from; or fits one from a table of timings."""

from __future__ import annotations

import argparse
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ProfileMismatch, UsageError, suggest
from . import options as shared
from .console import Console, table
from .progress import Progress

HELP = "measure this machine"
EXAMPLES = (
    "coexec profile                                      # quickly, kept in the cache: the default of every other verb",
    "coexec profile -o profiles/my-board.yaml --full",
    "coexec profile -o p.yaml --csv timings.csv          # the raw measurements there",
    "coexec profile -o p.yaml --resume --time-budget 5m  # more measurements for the same profile",
    "coexec profile --from-csv timings.csv --group-by shape -o p.yaml --json",
    "coexec profile check p.yaml                         # does it fit this machine? exit code 7 where not",
    "coexec profile diff old.yaml new.yaml",
)
ON_A_BOARD = ("coexec profile -o p.yaml --time-budget 5m --threads 4 --cpu-affinity 4-7  # on the big cores alone",)
#: Where others had more than this share of the cores' time, the profile had better be made again.
QUIET = 0.1
NOTES = """Let the board be quiet and cool: timings repeat only where clocks do. A machine's first profile spends much of its time on compiling
kernels: a second one says more. Every timing is written down as it is made: after Ctrl-C what is there is fitted, and --resume adds to it. A kernel
that hangs or crashes its driver is listed beside the table, and the round goes on."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="*", metavar="check P.yaml | diff A.yaml B.yaml", help="compare profiles instead of making one")
    parser.add_argument("-o", "--output", metavar="P.yaml", help="where the profile goes (default: the cache, as this machine's)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="about a minute (the default)")
    group.add_argument("--full", action="store_true", help="about 20 minutes")
    parser.add_argument("--time-budget", metavar="T", type=shared.duration, help="how long it may take: 90s, 10m, 1h")
    shared.processors(parser)
    parser.add_argument("--cpu-affinity", metavar="LIST", type=cores, help="cores to use, such as 4-7 or 0,2 (default: all)")
    parser.add_argument("--resume", action="store_true", help="add to the measurements of an earlier round, finished or interrupted")
    parser.add_argument("--csv", metavar="FILE", help="where measurements go, one row a kernel timing (default: beside the profile)")
    parser.add_argument("--from-csv", metavar="FILE", help="measure nothing, fit a table of timings")
    parser.add_argument("--group-by", choices=("shape",), help="with --from-csv: how well shapes are predicted that the fit did not see")


def _fitted(table_path: Path, rows: list[Any], name: str, console: Console) -> Any:
    """The profile of a table; where the profile that was measured with it lies beside it, with that one's facts and fixed costs."""
    from ..profiles import load_profile
    from ..profiling.fit import of_coexec
    from ..profiling.from_table import fit_profile_from_table, refit

    beside = table_path.with_suffix(".yaml")
    if of_coexec(rows) and beside.exists():
        told = load_profile(beside)
        if {r.device for r in rows} <= {s.name for s in (told.cpu, told.gpu) if s is not None}:
            console.note(f"facts and fixed costs are those of {beside}")
            return refit(told, rows)
    return fit_profile_from_table(rows, name)


#: What may follow the verb, and how many profiles it takes.
ACTIONS = {"check": 1, "diff": 2}


def execute(options: argparse.Namespace, console: Console) -> int:
    if options.action:
        action, *paths = options.action
        if action not in ACTIONS:
            raise UsageError(f"unexpected argument '{action}'", where="coexec profile", hint=suggest(action, ACTIONS))
        if len(paths) != ACTIONS[action]:
            raise UsageError(f"profile {action} compares profiles", found=f"{len(paths)} of them", expected=str(ACTIONS[action]))
        making = [f"--{n.replace('_', '-')}" for n in ("output", "from_csv", "csv", "resume", "full", "quick", "time_budget", "group_by")
                  if getattr(options, n)]
        if making:
            raise UsageError(f"profile {action} makes no profile", found=making[0], expected="no option of measuring or fitting")
        return {"check": _check, "diff": _diff}[action](options, paths, console)
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
    with Progress(console, "profiling", still=True, seconds=True) as tick:
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
    if (others := made.cpu.facts.get("others_share", 0.0)) > QUIET:
        console.note(f"other programs, or other machines on the same host, had {others:.0%} of the cores' time meanwhile: kernels may be predicted "
                     "to take longer than they do; profile again (without --resume) when nothing else runs")
    console.note(f"wrote {target}")
    return 0


def _from_table(options: argparse.Namespace, target: Path | None, console: Console) -> int:
    from ..profiles import save_profile
    from ..profiling.baselines import BASELINES, predictions
    from ..profiling.judging import held_out_accuracy
    from ..profiling.table import read_table

    rows = read_table(options.from_csv)
    made = _fitted(Path(options.from_csv), rows, Path(options.output or options.from_csv).stem, console)
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


def _check(options: argparse.Namespace, paths: list[str], console: Console) -> int:
    from ..devices.registry import find_devices, session_threads
    from ..profiles import load_profile
    from ..report.comparison import check

    profile, devices = load_profile(paths[0]), find_devices()
    if options.cpu_affinity:
        _pin(options.cpu_affinity)
    found = check(profile, devices, session_threads(devices))
    fits = all(f.fits for f in found)
    console.emit({"profile": paths[0], "fits": fits, "findings": [vars(f) for f in found]})
    console.result(table([(f.unit, f.what, short(f.profile), short(f.here), "" if f.fits else "differs") for f in found],
                         ("unit", "what", "profile", "here", ""), "lllll"))
    if fits:
        return 0
    console.note("the profile does not fit this machine; `coexec profile -o FILE` makes one that does")
    return ProfileMismatch.exit_code


def _diff(options: argparse.Namespace, paths: list[str], console: Console) -> int:
    from ..profiles import load_profile
    from ..report.comparison import differences, latency_ratios

    a, b = map(load_profile, paths)
    found, ratios = differences(a, b), latency_ratios(a, b)
    same = not found and all(r == 1 for unit in ratios.values() for r in unit.values())
    console.emit({"a": paths[0], "b": paths[1], "same": same, "latency_ratio": ratios,
                  "differences": [{"key": key, "a": one, "b": other} for key, one, other in found]})
    console.result("the profiles say the same" if same else table([(key, short(one), short(other)) for key, one, other in found],
                                                                       ("what", "A", "B"), "lll"))
    rows = [(unit, family, f"{ratio:.3f}") for unit, families in ratios.items() for family, ratio in families.items() if ratio != 1]
    if rows:
        console.result(table(rows, ("unit", "family", "time in B / in A"), "ll"))
    return 0


def short(value: Any) -> str:
    """A value of a profile in at most 48 characters: drivers tell long stories; --json has all of them."""
    text = "-" if value is None else str(value)
    return text if len(text) <= 48 else text[:45] + "..."


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
        "sharing": section.sharing,
        "sharing_us": dict(section.sharing_us),
        "waiting": section.waiting,
        "waiting_us": dict(section.waiting_us),
        "cores": list(section.cores),
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
            sum(fit.samples > 0 for fit in s.latency.values()),
        )
        for unit, s in units.items()
    ]
    console.result(table(rows, ("unit", "name", "GFLOP/s", "GB/s", "launch us", "sync us", "families fitted"), "ll"))
    for unit, s in units.items():
        for what, chosen, tried in (("shares memory by", s.sharing, s.sharing_us), ("is waited for by", s.waiting, s.waiting_us)):
            if tried:
                console.result(f"{unit} {what} {chosen} ({', '.join(f'{way} {us:.3g} us' for way, us in sorted(tried.items(), key=lambda t: t[1]))})")


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
