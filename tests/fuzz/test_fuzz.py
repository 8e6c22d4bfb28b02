"""A small slice of the fuzzer, the same cases every time, and what it found once: `python -m tools.fuzz --count 100000` runs the rest."""

from __future__ import annotations

import pytest

from coexec.errors import CoexecError
from tools import fuzz

#: One case each of what was once a traceback: DequantizeLinear of opset 17, text that is no UTF-8, missing inputs, huge numbers and shapes, a
#: sparse tensor without a type.
FOUND = (1525, 2629, 12203, 36225, 60700, 98500, 308422)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    return fuzz.readers(tmp_path_factory.mktemp("fuzz"))


def test_every_seed_is_sound(read):
    for kind in fuzz.SHARES:
        assert fuzz.seeds(kind)
        for data in fuzz.seeds(kind):
            try:
                read[kind](data, 25)
            except CoexecError as error:
                assert kind == "plan" and "another model" in str(error), (kind, error)


@pytest.mark.parametrize("first, count", [(0, 1100), *((number, 1) for number in FOUND)])
def test_mutants_are_read_or_refused_in_one_line(first, count):
    """In a child whose memory is bounded: a tensor of a hundred gigabytes is easily written down."""
    report = fuzz.drive(count, first, 120, None)
    assert report["cases"] == count and not report["findings"], report


def test_a_case_is_the_same_every_time():
    assert [fuzz.mutant(n) for n in range(100)] == [fuzz.mutant(n) for n in range(100)]


def test_the_driver_reports_hangs_and_crashes_and_goes_on(monkeypatch):
    """The real driver on a child that hangs at one case and dies at another."""
    import sys

    source = ("import sys, time, os\nfor n in range(int(sys.argv[-2]), int(sys.argv[-1])):\n    print(n, end=' ', flush=True)\n"
              "    if n == 3: time.sleep(60)\n    if n == 5: os.abort()\n    print('model ok', flush=True)\n")
    popen = fuzz.subprocess.Popen
    monkeypatch.setattr(fuzz.subprocess, "Popen", lambda command, **more: popen([sys.executable, "-c", source, *command[-2:]], **more))
    monkeypatch.setattr(fuzz, "LIMIT_S", 1.0)
    report = fuzz.drive(8, 0, 60, None)
    assert report["cases"] == 8 and report["outcomes"]["model ok"] == 6
    assert sorted(n for f in report["findings"].values() for n in f["first"]) == [3, 5]
    assert any("hang" in what for what in report["findings"]) and any("crash" in what for what in report["findings"])
