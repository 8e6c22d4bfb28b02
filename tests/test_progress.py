"""Progress: the remaining time, bars on terminals, lines elsewhere, and that a first session on an empty cache is not silent."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest

from coexec import InferenceSession, SessionOptions
from coexec.api import validate
from coexec.cli.console import Console
from coexec.cli.main import main
from coexec.cli.progress import Clock, Pace, Progress, in_words
from coexec.profiles import save_profile

from .partition.boards import board
from .test_smoke import light_model, tiny_model


def test_what_came_before_the_first_step_says_nothing_of_the_rest():
    pace = Pace()
    for now in (0.0, 30.0, 60.0):  # a minute of compiling, of which nobody can tell how far it is
        pace.step(0.0, 45.0, now)
        assert pace.left_s(now) is None
    pace.step(3.0, 45.0, 63.0)
    assert pace.left_s(63.0) == pytest.approx(42) and pace.left_s(65.0) == pytest.approx(40), "counted down until the next step"
    pace.step(10.0, 45.0, 70.0)
    assert pace.left_s(70.0) == pytest.approx(35) and pace.left_s(1000.0) == 0


def test_other_work_is_timed_anew():
    pace = Pace()
    pace.step(0, 10, 0.0)
    pace.step(9, 10, 90.0)
    pace.step(0, 10, 90.0)  # as many steps of something else
    assert pace.left_s(90.0) is None
    pace.step(5, 10, 95.0)
    assert pace.left_s(95.0) == pytest.approx(5)
    pace.step(5, 20, 95.0)
    pace.step(10, 20, 96.0)
    assert pace.left_s(96.0) == pytest.approx(2)


def test_nothing_is_told_from_a_moment_or_without_a_total():
    pace = Pace()
    pace.step(0, 10, 0.0)
    pace.step(1, 10, 0.2)
    assert pace.left_s(0.2) is None
    pace.step(1, 0, 5.0)
    pace.step(2, 0, 9.0)
    assert pace.left_s(9.0) is None
    assert [in_words(s) for s in (None, 0.2, 12.4, 300)] == ["", "about 1 s left", "about 12 s left", "about 5 min left"]


def test_work_that_counts_in_seconds_says_itself_what_is_left():
    clock = Clock()
    assert clock.left_s(5.0) is None
    clock.step(0.0, 0.0, 5.0)
    assert clock.left_s(6.0) is None, "nothing can be said yet"
    clock.step(8.0, 50.0, 13.0)
    assert clock.left_s(13.0) == 42 and clock.left_s(23.0) == 32 and clock.left_s(99.0) == 0
    clock.step(20.0, 80.0, 25.0)  # compiling goes slower than it began
    assert clock.left_s(25.0) == 60


def test_a_machine_without_a_profile_says_so_once_and_what_is_left(tmp_path, monkeypatch, capsys, caplog):
    kept = tmp_path / "profile.yaml"
    monkeypatch.setattr("coexec.api.planning.QUICK_S", 1.0)
    monkeypatch.setattr("coexec.api.planning.default_profile_path", lambda facts: kept)
    onnx.save(tiny_model(), tmp_path / "tiny.onnx")
    for measured in (False, True):
        caplog.clear()
        assert main(["plan", str(tmp_path / "tiny.onnx")]) == 0
        assert [("no profile yet" in m, "`coexec profile --full`" in m) for m in caplog.messages] == ([] if measured else [(True, True)])
        lines = capsys.readouterr().err.splitlines()
        assert bool(lines) is not measured
        assert all(re.match(r"measuring this machine, once +\d+ %(, about \d+ s left)?: ", line) for line in lines), lines
        assert measured or "left" in lines[0]
    kept.write_text("version: 99")
    caplog.clear()
    told: list[tuple[float, float, str]] = []
    with InferenceSession(tiny_model(), SessionOptions(progress=lambda *t: told.append(t))) as session:
        assert session.profile is not None and "no profile that this version can read" in caplog.text
    assert any(what.startswith("measuring this machine, ") for _, _, what in told)


def test_it_may_be_entered_again_and_says_nothing_in_between(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("coexec.cli.progress.time.monotonic", lambda: now[0])
    said = io.StringIO()
    progress = Progress(Console(err=said), "work")
    for inside in (True, False, True):
        if inside:
            progress.__enter__()
        for done in range(6):
            now[0] += 3.0
            progress.of("coexec")(done, 6, f"{inside} {done}")
        progress.__exit__(None, None, None)
    lines = said.getvalue().splitlines()
    assert lines and all("coexec: True" in line for line in lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("still", [False, True])
def test_a_bar_on_a_terminal_says_what_is_left(still, monkeypatch):
    now = [0.0]
    monkeypatch.setenv("TERM", "xterm")  # on a dumb one there are no bars
    monkeypatch.setattr("coexec.cli.progress.time.monotonic", lambda: now[0])
    said = Terminal()
    with Progress(Console(err=said), "work", still) as tick:
        for done in range(11):
            tick(done, 20, "a [bold]name[/bold]")
            now[0] += 1.0
        seen = said.getvalue()
    assert ("work" in seen and "about 1" in seen and "a [bold]name" in seen) if still else "work" in said.getvalue()


def test_a_session_tells_of_compiling_and_of_its_first_run_only():
    told: list[tuple[int, int, str]] = []
    with InferenceSession(tiny_model(), SessionOptions(progress=lambda *t: told.append(t)), strategy="cpu") as session:
        x = {session.get_inputs()[0].name: np.ones((1, 3, 12, 12), np.float32)}
        session.run(None, x)
        kinds = [t[2].partition(",")[0] for t in told]
        assert list(dict.fromkeys(kinds)) == ["kernels", "kernels of the CPU", "first run"]
        assert told[-1][0] == told[-1][1] and all(done <= total for done, total, _ in told)
        told.clear()
        session.run(None, x)
        assert told == []


def test_validating_tells_of_operators_and_of_the_reference():
    told: list[tuple[int, int, str]] = []
    validate(tiny_model(), strategy="cpu", per_op=True, options=SessionOptions(progress=lambda *t: told.append(t)))
    assert {"operators", "reference"} <= {t[2].partition(",")[0] for t in told}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    onnx.save(tiny_model(), folder / "tiny.onnx")
    onnx.save(light_model(), folder / "light.onnx")

    def make(cache: str, model: str) -> dict:
        env = {k: v for k, v in os.environ.items() if k not in ("COEXEC_DEBUG", "NO_COLOR")}
        env |= {"COEXEC_CACHE_DIR": str(folder / cache), "POCL_CACHE_DIR": str(folder / f"{cache}-pocl"), "TERM": "xterm", "COLUMNS": "120"}
        return {"args": [sys.executable, "-m", "coexec", "run", model, "--random", "--strategy", "fixed:gpu=0.5"], "cwd": folder, "env": env}

    return make


def test_a_first_run_on_an_empty_cache_says_what_it_does_in_lines(command):
    done = subprocess.run(**command("plain", "tiny.onnx"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines and all(re.fullmatch(r"preparing +\d+ %(, about \d+ (s|min) left)?: (kernels|first run).*", line) for line in lines), done.stderr
    assert "preparing" not in done.stdout and "\033" not in done.stderr
    again = command("plain", "tiny.onnx")
    quiet = subprocess.run([*again.pop("args"), "-q"], **again, capture_output=True, text=True, timeout=300)
    assert quiet.returncode == 0 and quiet.stderr == ""


def test_a_first_run_on_an_empty_cache_shows_a_bar_on_a_terminal(command):
    ours, theirs = pty.openpty()
    # The bar is there from the first kernel on, where lines wait for two seconds: little to compile is enough.
    child = subprocess.Popen(**command("terminal", "light.onnx"), stdout=subprocess.DEVNULL, stderr=theirs, text=True)
    os.close(theirs)
    seen = b""
    while True:
        try:
            found = os.read(ours, 1 << 16)
        except OSError:  # Linux says so where the other end is closed
            break
        if not found:
            break
        seen += found
    os.close(ours)
    assert child.wait(300) == 0
    assert b"preparing" in seen and b"kernels of the CPU" in seen and b"\x1b[" in seen


#: Verbs that may take longer than two seconds, and what their progress begins with.
LONG = {
    "profile --time-budget 1s -o p.yaml": ("profiling",),
    "simulate tiny.onnx --sweep sync_us=10..100:3": ("what if",),
    "run tiny.onnx --random --repeat 30": ("preparing", "running"),
    "run tiny.onnx --random --verify": ("preparing",),
    "bench tiny.onnx --iters 3": ("preparing", "benchmark"),
    "report tiny.onnx --iters 3 -o r.html": ("preparing", "measuring"),
    "evaluate tiny.onnx --iters 3": ("preparing", "measuring", "evaluating"),
    "validate tiny.onnx --per-op": ("validating",),
}


@pytest.mark.parametrize("command", LONG)
def test_every_long_verb_tells_of_itself_in_lines_and_is_silent_when_asked(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("coexec.cli.progress._FIRST_LINE_S", 0.0)
    monkeypatch.setattr("coexec.cli.progress._LINE_EVERY_S", 0.0)
    monkeypatch.setattr("coexec.api.refinement.company", lambda devices: None)  # tests that run beside this one would be warned of
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny_model(), "tiny.onnx")
    save_profile(board(), "board.yaml")
    words = command.split() + (["--profile", "board.yaml"] if "onnx" in command else [])
    assert main(words) == 0
    told = capsys.readouterr().err
    for title in LONG[command]:
        assert re.search(rf"^{title}( +\d+ %)?(, about \d+ (s|min) left)?(: .*)?$", told, re.M), told
    assert "\033" not in told and "\r" not in told
    assert main([*words, "-q"]) == 0
    assert capsys.readouterr().err == ""
