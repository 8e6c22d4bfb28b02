"""Nodes one by one: as if each read all that the one before wrote."""

from __future__ import annotations

import numpy as np
import pytest

from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.runtime.order import ordered
from coexec.runtime.schedule import HOST, Start, Wait

from .random_graphs import random_model, random_plan


def kept_apart(steps) -> bool:
    """Whether the host waits for every piece of earlier nodes before it begins with its own, and such a piece for the host's of earlier nodes."""
    waited, pieces, of_host = 0, [], []
    for at, step in enumerate(steps):
        if isinstance(step, Wait):
            waited = max(waited, step.index)
        elif isinstance(step, Start) and step.device == HOST:
            if any(name != step.node.name and index > waited for name, index in pieces):
                return False
            of_host.append((step.node.name, at))
        elif isinstance(step, Start):
            if any(name != step.node.name and when > step.after for name, when in of_host):
                return False
            pieces.append((step.node.name, step.index))
    return True


@pytest.mark.parametrize("seed", range(40))
def test_no_node_begins_before_the_other_unit_is_done_with_the_one_before(seed):
    rng = np.random.default_rng(seed)
    graph = prepare(load_model(random_model(rng, 8)))
    plan = random_plan(graph, rng)
    steps = ordered(graph, plan, frozenset({"gpu"}), one_by_one=True)
    assert kept_apart(steps)
    assert started(steps) == started(ordered(graph, plan, frozenset({"gpu"})))


def started(steps) -> set[tuple[str, str]]:
    return {(s.node.name, s.device) for s in steps if isinstance(s, Start)}


def test_otherwise_they_do():
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        graph = prepare(load_model(random_model(rng, 8)))
        found.append(kept_apart(ordered(graph, random_plan(graph, rng), frozenset({"gpu"}))))
    assert not all(found)
