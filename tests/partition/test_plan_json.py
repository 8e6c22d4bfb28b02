"""Plans as JSON: exact round trips, the keys scripts rely on, and errors that name the key."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from coexec.errors import IllegalCut, PlanMismatch
from coexec.partition.plan import Plan
from coexec.partition.strategies import parse_strategy
from tests.partition.boards import board, classifier, tangle

GRAPH = tangle()
PLAN = replace(parse_strategy("fixed:gpu=0.4").plan(GRAPH, board()), planning_ms=1.5)


@pytest.mark.parametrize("spec", ["cpu", "gpu", "fixed:gpu=0.4", "flops", "greedy", "coexec"])
def test_round_trip(tmp_path, spec):
    for plan in (parse_strategy(spec).plan(GRAPH, board()), PLAN):
        plan.save(tmp_path / "plan.json")
        loaded = Plan.load(tmp_path / "plan.json")
        assert loaded == plan
        loaded.check(GRAPH)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_without_a_profile_survives(tmp_path):
    plan = parse_strategy("fixed:gpu=0.5").plan(GRAPH)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan and plan.predicted_ms is None


def test_the_keys_that_scripts_rely_on():
    data = json.loads(json.dumps(PLAN.to_dict()))
    assert {"model", "profile", "strategy", "predicted_ms", "planning_ms", "nodes", "chains"} <= set(data)
    assert all({"name", "op_type", "axis", "bounds", "devices", "predicted_us", "estimated"} <= set(n) for n in data["nodes"])
    assert [n for chain in data["chains"] for n in chain] == [n["name"] for n in data["nodes"]]


@pytest.mark.parametrize("path,value,key", [
    (("format",), 2, "unknown plan format"), (("nodes",), {}, "'nodes'"), (("nodes", 0), 3, r"'nodes\[0\]'"),
    (("model_digest",), None, "'model_digest'"),
    (("nodes", 0, "axis"), 1, r"'nodes\[0\].axis'"), (("nodes", 0, "bounds"), [0, 1.5], r"'nodes\[0\].bounds'"),
    (("nodes", 0, "bounds"), [0, True], r"'nodes\[0\].bounds'"), (("nodes", 0, "devices"), [1], r"'nodes\[0\].devices'"),
])
def test_errors_name_the_key(path, value, key):
    data = copy.deepcopy(PLAN.to_dict())
    target = data
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(PlanMismatch, match=key):
        Plan.from_dict(data, "plan.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "\"plan\"", "[" * 100_000, "{\"format\": 1}"])
def test_no_plan_at_all(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanMismatch):
        Plan.load(tmp_path / "plan.json")


def test_a_plan_fits_its_model_only():
    with pytest.raises(PlanMismatch, match="another model"):
        PLAN.check(classifier())
    with pytest.raises(PlanMismatch, match="no partition"):
        replace(PLAN, partitions=PLAN.partitions[1:]).check(GRAPH)
    convolution = PLAN.partitions[0]
    for bad in (replace(convolution, bounds=(0, 1)), replace(convolution, bounds=(0, 9, 5, 15)), replace(convolution, axis="heads"),
                replace(convolution, axis=None, devices=("gpu", "cpu"))):
        with pytest.raises(IllegalCut):
            replace(PLAN, partitions=(bad, *PLAN.partitions[1:])).check(GRAPH)


def test_printed_plans_show_cut_cost_and_reason():
    text = str(PLAN)
    assert "fixed:gpu=0.4" in text and "on gpu|cpu" in text and "# gpu: there is no kernel for Abs" in text and "fallback" in text
