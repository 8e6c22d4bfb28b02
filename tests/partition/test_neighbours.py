"""What others take of the cores while a board is measured is told apart from what coexec and its processes take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from coexec.profiling import neighbours
from coexec.profiling.neighbours import Neighbours

TICKS = os.sysconf("SC_CLK_TCK")


def _system_tells() -> bool:
    """Whether this system counts what its cores did at all: sandboxes may show zeros."""
    stat = Path("/proc/stat")
    return stat.exists() and any(int(n) for n in stat.read_text().splitlines()[0].split()[1:])


def _stat(root: Path, *cores: tuple[float, float, float]) -> None:
    """/proc/stat of cores that worked for users, had nothing to do, and were not there, so many seconds each."""
    lines = [f"cpu{i} {user * TICKS:.0f} 0 0 {idle * TICKS:.0f} 0 0 0 {stolen * TICKS:.0f} 0 0" for i, (user, idle, stolen) in enumerate(cores)]
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/stat").write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 12 13", "btime 5"]))


def _at(monkeypatch: pytest.MonkeyPatch, now_s: float, worked_s: float) -> None:
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(neighbours.os, "times", lambda: SimpleNamespace(user=worked_s / 2, system=worked_s / 4, children_user=worked_s / 8,
                                                                        children_system=worked_s / 8))


@pytest.mark.parametrize(("worked", "stolen", "ours", "share"),
                         [(10.0, 0.0, 10.0, 0.0), (16.0, 0.0, 10.0, 0.3), (10.0, 4.0, 10.0, 0.2), (3.0, 0.0, 10.0, 0.0)])
def test_what_is_not_ours_is_others(tmp_path, monkeypatch, worked, stolen, ours, share):
    """Of two cores, ten seconds long; a third is nobody's business."""
    monkeypatch.setattr(neighbours, "usable", lambda: frozenset({0, 2}))
    _stat(tmp_path, (100, 50, 3), (7, 7, 0), (200, 50, 0))
    _at(monkeypatch, 1000.0, 33.0)
    watch = Neighbours(tmp_path)
    _stat(tmp_path, (100 + worked / 2, 60, 3 + stolen), (17, 7, 0), (200 + worked / 2, 60, 0))
    _at(monkeypatch, 1010.0, 33.0 + ours)
    assert watch.share() == pytest.approx(share, abs=0.01)


def test_processes_of_ours_that_still_work_are_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "usable", lambda: frozenset({0}))
    _stat(tmp_path, (100, 50, 0))
    _at(monkeypatch, 0.0, 1.0)
    watch = Neighbours(tmp_path)
    _stat(tmp_path, (110, 50, 0))
    for pid, parent, ticks in ((77, os.getpid(), 6 * TICKS), (78, 1, 3 * TICKS)):
        (tmp_path / f"proc/{pid}").mkdir()
        (tmp_path / f"proc/{pid}/stat").write_text(f"{pid} (a (b) c) R {parent} 1 1 0 -1 0 1 2 3 4 {ticks // 2} {ticks // 2} 0 0 20")
    (tmp_path / "proc/79").mkdir()
    _at(monkeypatch, 20.0, 2.0)
    assert watch.share() == pytest.approx((10 - 1 - 6) / 20, abs=0.01)


def test_a_system_that_does_not_tell(tmp_path):
    assert Neighbours(tmp_path).share() is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 many few\n")
    assert Neighbours(tmp_path).share() is None


@pytest.mark.skipif(not _system_tells(), reason="/proc/stat, or what it counts, is missing: nothing tells what others work")
def test_a_program_beside_is_seen():
    busy = subprocess.Popen(["setsid", "-f", sys.executable, "-c", "import time; t = time.time()\nwhile time.time() < t + 1.5: pass"])
    busy.wait()
    watch = Neighbours()
    time.sleep(1.0)
    share = watch.share()
    assert share is not None and share > 0.25 / len(watch.cores)
