"""tools/find_fusion.py: nn-Meter's rule, and what it says of a runtime whose truth is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("find_fusion", Path(__file__).resolve().parent.parent / "tools" / "find_fusion.py")
tool = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tool)


@pytest.mark.parametrize("t1, t2, t12, said", [(10, 4, 10.0, True), (10, 4, 11.9, True), (10, 4, 12.1, False), (10, 4, 14, False),
                                               (4, 10, 11.9, True), (1, 100, 100.6, False)])
def test_the_rule(t1, t2, t12, said):
    assert tool.fused(t1, t2, t12) is said


def test_the_truth_is_what_the_passes_make_of_a_pair():
    known = {}
    for pair in tool.PAIRS:
        _, nodes, close = tool.session("coexec:cpu", tool.model(*pair), 1)
        close()
        known[pair] = nodes == 1
    assert known["Conv1x1", "Relu"] and known["Conv1x1", "HardSwish"] and not known["Conv1x1", "MaxPool"] and not known["Conv1x1", "Conv1x1"]


def test_a_pair_is_timed_and_judged():
    found = tool.try_pair("coexec:cpu", "Conv1x1", "Conv1x1", 3, 1)
    assert found["truth"] is False and all(found[k] > 0 for k in ("t1_ms", "t2_ms", "t12_ms"))
    assert found["fused"] == tool.fused(found["t1_ms"], found["t2_ms"], found["t12_ms"])
