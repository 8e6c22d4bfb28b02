"""Passes: each takes a graph and returns a new one that computes the same. `prepare` runs them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..ir import Graph
from .bind import bind_shapes, bind_values, deciding_inputs
from .dead_code import drop_dead_code
from .fold import infer_and_fold
from .fuse_activation import fuse_activations
from .fuse_affine import fuse_affine
from .fuse_patterns import fuse_patterns
from .fuse_residual import fuse_residuals
from .noops import drop_noops

Pass = Callable[[Graph], Graph]

#: In order: each finds more to do after the ones before it.
PASSES: tuple[Pass, ...] = (infer_and_fold, drop_dead_code, drop_noops, fuse_patterns, fuse_affine, fuse_residuals, fuse_activations, drop_dead_code)


def prepare(graph: Graph, shapes: Mapping[str, tuple[int, ...]] | None = None, passes: tuple[Pass, ...] = PASSES,
            values: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph with input shapes (and, where given, values) bound, types inferred, constants folded and operators fused.

    Raises ModelError, InvalidModel.
    """
    graph = bind_values(bind_shapes(graph, shapes or {}), values or {})
    for each in passes:
        graph = each(graph)
    return graph


__all__ = ["PASSES", "Pass", "bind_shapes", "bind_values", "deciding_inputs", "drop_dead_code", "drop_noops", "fuse_activations", "fuse_affine",
           "fuse_patterns", "fuse_residuals", "infer_and_fold", "prepare"]
