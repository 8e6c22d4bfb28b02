"""docs/codl-study.md is what its tool makes of its rows, its tables are whole, and its claims are computed, not asserted."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import onnx
import pytest

from coexec.profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_models  # noqa: E402

spec = importlib.util.spec_from_file_location("codl_study", ROOT / "tools" / "codl_study.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
PAGE = (ROOT / "docs" / "codl-study.md").read_text()


@pytest.fixture
def rows():
    return json.loads((ROOT / "docs" / "codl-study.json").read_text())


def test_every_board_model_and_what_if_is_there_once(rows):
    asked = {(w, b, m) for w in tool.WHAT_IFS for b in tool.BOARDS for m in tool.MODELS}
    assert {(r["what"], r["board"], r["model"]) for r in rows} == asked and len(rows) == len(asked) == 100
    assert all(r[s] > 0 for r in rows for s in tool.STRATEGIES) and all(0 <= r[k] <= 1 for r in rows for k in ("height", "chained"))


def test_the_page_is_made_of_those_rows(rows):
    date = re.search(r"codl_study.py`, (\d{4}-\d\d-\d\d);", PAGE)[1]
    assert PAGE == tool.page(rows, date), "make it again: python tools/codl_study.py"
    assert "simulated" in PAGE.splitlines()[2] + PAGE.splitlines()[3] and (ROOT / "docs" / "pictures" / "codl-study.svg").exists()


def test_the_tables_have_the_papers_figures_beside(rows):
    tables = re.findall(r"### (.+)\n\n(?:\|.*\n){2}((?:\|.*\n)+)", PAGE)
    assert [name for name, _ in tables] == list(tool.BOARDS.values())
    for (_, body), board in zip(tables, tool.BOARDS):
        lines = [line.strip("|").split("|") for line in body.splitlines()]
        assert [line[0].strip() for line in lines] == list(tool.MODELS.values()) and all(len(line) == 8 for line in lines)
        assert [float(line[6]) for line in lines] == list(tool.PAPER[board])


def test_a_claim_that_stops_being_true_is_said_to_be_false(rows):
    first = "co-execution (`coexec`) is never slower than the best single processor"
    assert tool.claims(rows)[first]
    slower = [{**r, "coexec": 2 * r["cpu"]} for r in rows]
    assert not tool.claims(slower)[first] and f"**no**: {first}" in tool.page(slower, "2026-01-01")
    exact = [{**r, "greedy": ms, "flops": 3.43 * ms, "cpu": 2.08 * ms, "gpu": 1.56 * ms} for r in rows for ms in [tool.paper(r)]]
    told = tool.claims(exact)
    near = next(text for text in told if "within a factor of 2" in text)
    assert told[near] and not told["the speed-up over the CPU alone is larger than the paper's"]
    assert tool.same_order(tool.plain(exact), "greedy")[0] == tool.same_order(tool.plain(exact), "greedy")[1]
    assert all(f"- {'yes' if holds else '**no**'}: {text}" in PAGE for text, holds in tool.claims(rows).items())


def test_a_fresh_row_is_the_one_on_the_page(rows, monkeypatch, tmp_path):
    """The profiles and the planner of today still give the page's figures: one model, one board."""
    onnx.save(make_models.make_model("fast_style_transfer"), tmp_path / "fast_style_transfer.onnx")
    monkeypatch.setattr(tool, "MODELS", {"fast_style_transfer": "Fast style transfer"})
    monkeypatch.setattr(tool, "WHAT_IFS", {"as in the profiles": ()})
    fresh, = tool.study(tmp_path, {"snapdragon-855": load_profile(ROOT / "profiles" / "snapdragon-855.yaml")})
    kept, = [r for r in tool.plain(rows) if (r["board"], r["model"]) == ("snapdragon-855", "fast_style_transfer")]
    assert {s: fresh[s] for s in tool.STRATEGIES} == pytest.approx({s: kept[s] for s in tool.STRATEGIES}, rel=0.1)
