"""The printed form of a few graphs and plans, kept as text: a change shows in review. `COEXEC_UPDATE_GOLDEN=1` rewrites the files."""

import os
import sys
from pathlib import Path

import pytest

import coexec
from coexec.api import bind
from coexec.partition.strategies.base import parse_strategy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tools"))
import make_models  # noqa: E402

GRAPHS = ["mobilenet_v2", "resnet18", "squeezenet_1_1", "bert_mini"]


def compare(name: str, text: str) -> None:
    path = HERE / name
    if os.environ.get("COEXEC_UPDATE_GOLDEN"):
        path.write_text(text + "\n")
    assert path.read_text() == text + "\n", f"{name} changed; if that is meant, run with COEXEC_UPDATE_GOLDEN=1 and review the difference"


@pytest.mark.parametrize("name", GRAPHS)
def test_prepared_graphs(name):
    compare(f"{name}.graph.txt", str(bind(coexec.load(make_models.make_model(name, scale="tiny")))))


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet_1_1"])
@pytest.mark.parametrize("strategy", ["cpu", "fixed:gpu=0.4"])
def test_plans_made_without_a_board(name, strategy):
    graph = bind(coexec.load(make_models.make_model(name, scale="tiny")))
    compare(f"{name}.{strategy.replace(':', '-')}.plan.txt", str(parse_strategy(strategy).plan(graph)))
