"""The tool that holds the planner's claims: its parts run, and say what they found."""

from __future__ import annotations

import argparse

import pytest

from tests.partition.boards import board, classifier
from tools import check_planner


@pytest.fixture
def options(monkeypatch):
    monkeypatch.setattr(check_planner, "models", lambda wanted: iter([("classifier", classifier())]))
    return argparse.Namespace(graphs=10, seed=1, models=[], strategies=["coexec:fewer_waits=1"])


def test_regret_and_program(options):
    found = check_planner.regret(options, None)
    assert found["graphs"] == 10 and abs(found["worst_regret"]) < 1e-9 and found["not_proved"] == 0
    assert check_planner.milp(options, None)["largest_difference"] < 1e-4


def test_waits_and_ablations(options):
    found = {"waits": check_planner.waits(options, board()), "ablation": check_planner.ablation(options, board())}
    (row,) = found["waits"]["rows"]
    assert 0 < row["waits"] <= row["each_by_itself"]
    (other,) = row["others"].values()
    assert other["waits"] < row["waits"] and other["longer"] > 1, "fewer waits at any price"
    (times,) = found["ablation"]["rows"]
    least = times["coexec"] * 0.95  # so much it may give for fewer waits
    assert all(us >= least for label, us in times.items() if label != "model"), "leaving something out gains nothing here"
    text = "\n".join(check_planner.tables(found))
    assert "| classifier |" in text and "| geometric mean |" in text and "coexec:fewer_waits=1: on 1 of 1, " in text


def test_made_chains_are_as_long_as_asked():
    assert len(check_planner.chain_graph(40).nodes) == 40
