"""The second opinion on a whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..graph.passes import drop_dead_code, infer_and_fold, prepare
from ..ops.evaluate import evaluate
from ..partition.plan import Plan
from ..profiles import DeviceProfile
from ..runtime.check import NodeError, difference
from .models import Shapes, load, random_feeds
from .options import SessionOptions
from .session import InferenceSession

#: The passes of a reference: types and constants, no fusion.
UNFUSED = (infer_and_fold, drop_dead_code)


def validate(source: Any, *, strategy: str = "coexec", profile: DeviceProfile | str | None = None, feeds: Mapping[str, Any] | None = None,
             shapes: Shapes | None = None, rtol: float = 1e-3, atol: float = 1e-5, per_op: bool = False,
             options: SessionOptions | None = None, plan: Plan | str | None = None) -> dict[str, Any]:
    """Compares a co-executed run with the unsplit reference: of the whole model, and with `per_op` of every node from its own inputs.

    Returns {"ok", "max_abs_error", "max_rel_error", "nodes": [...]}; relative errors are of the reference's largest magnitude.
    """
    graph = load(source)
    feeds = feeds or random_feeds(graph, shapes)
    chosen = options or SessionOptions()
    chosen = replace(chosen, shapes={k: np.shape(v) for k, v in feeds.items()})
    nodes: list[NodeError] = []
    with InferenceSession(graph, chosen, device_profile=profile, strategy=strategy, plan=plan) as session:
        if per_op:
            total = len(session.graph.nodes) if session.is_prepared else 0
            found = session.run_checked(feeds, rtol, atol, stop=False, report=partial(_noted, nodes, total, chosen.progress))
        else:
            found = dict(zip((v.name for v in graph.outputs), session.run(None, feeds)))
        plain = prepare(graph, {k: np.shape(v) for k, v in feeds.items()}, passes=UNFUSED)
    reference = evaluate(plain, feeds, chosen.progress)
    gaps = [difference(np.asarray(found[v.name]), np.asarray(reference[v.name]), rtol, atol) for v in graph.outputs]
    return {
        "ok": all(g[2] for g in gaps) and all(n.ok for n in nodes),
        "max_abs_error": max((g[0] for g in gaps), default=0.0),
        "max_rel_error": max((g[1] for g in gaps), default=0.0),
        "nodes": [n.__dict__ for n in nodes],
    }


def _noted(nodes: list[NodeError], total: int, progress: Callable[[int, int, str], None] | None, error: NodeError) -> None:
    """Keeps what was found of a node, and tells how many of `total` are done."""
    nodes.append(error)
    if progress is not None:
        progress(len(nodes), total, f"operators, {error.name}")
