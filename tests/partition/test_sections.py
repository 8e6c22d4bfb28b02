"""Sections of a profile that several processes make: who makes which, and that it is as if one had made them all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.errors import UsageError
from coexec.profiling import sections as made_by
from coexec.profiling.isolation import Isolated
from coexec.profiling.section import section_from_rows
from coexec.profiling.sections import STARTING_ROWS, Asked, sections, shared_out
from coexec.profiling.table import Measurement


def rows(unit: str, count: int = 40) -> list[Measurement]:
    """Of 1x1 convolutions, and of a few additions."""
    found = [Measurement("board", unit, 1, "Conv", "f32_conv", "float32", 1, 8 * i, 14, 14, 16 * i, 14, 14, 1, 1, 1, 1, 1, 0, 3.0 + 0.7 * i * i)
             for i in range(1, count)]
    return found + [Measurement("board", unit, 1, "Add", "f32_add", "float32", 1, i, 9, 9, i, 9, 9, *[None] * 4, 1, 0, 1.0 + i) for i in range(1, 9)]


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 30_000), max_size=5), st.integers(0, 5))
def test_every_section_is_made_once_and_no_process_started_that_takes_longer(counts: dict[str, int], cores: int) -> None:
    here, *beside = shared_out(counts, cores)
    assert sorted(here + [name for names in beside for name in names]) == sorted(counts) and all(beside)
    assert len(beside) < max(cores, 1)
    took = [sum(counts[n] for n in here), *(STARTING_ROWS + sum(counts[n] for n in names) for names in beside)]
    assert max(took) <= sum(counts.values())


def test_a_process_beside_makes_the_same_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_by, "STARTING_ROWS", 0)
    monkeypatch.setattr(made_by, "usable", lambda: {0, 1})
    asked = {unit: Asked(unit, rows(unit), {"lanes": 16.0}) for unit in ("cpu", "gpu")}
    assert shared_out({name: len(one.rows) for name, one in asked.items()}, 2) == [["cpu"], ["gpu"]]
    answered = made_by._made_beside({"gpu": asked["gpu"]})
    assert answered == {"gpu": section_from_rows(*asked["gpu"])}
    assert sections(asked) == {name: section_from_rows(*one) for name, one in asked.items()}


def test_a_process_beside_runs_nothing_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "numpy", "coexec"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    assert made_by._made_beside({"gpu": Asked("gpu", rows("gpu"))}) == {"gpu": section_from_rows("gpu", rows("gpu"))}
    with Isolated() as made:
        made.start()
    assert not (tmp_path / "ran").exists()


def test_what_no_process_answers_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_by, "STARTING_ROWS", 0)
    monkeypatch.setattr(made_by, "usable", lambda: {0, 1})
    asked = {unit: Asked(unit, rows(unit)) for unit in ("cpu", "gpu")}
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert sections(asked) == {name: section_from_rows(*one) for name, one in asked.items()}
    impossible = Measurement("board", "gpu", 1, "Nothing", "f32_nothing", "float32", *[None] * 12, 0, 1.0)
    broken = {"cpu": asked["cpu"], "gpu": Asked("gpu", [*rows("gpu"), impossible])}
    monkeypatch.undo()
    with pytest.raises(UsageError, match="Nothing"):
        sections(broken)
