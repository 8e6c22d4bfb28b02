"""Models in: a graph, its prepared form for given shapes, and feeds to try it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, suggest
from ..graph.ir import Graph
from ..graph.onnx_import import load_model
from ..graph.passes import prepare

Shapes = Mapping[str, Sequence[int]]


def load(source: Any) -> Graph:
    """The graph of an ONNX model (path, bytes or ModelProto), dimensions still symbolic. Raises InvalidModel, UnsupportedOps."""
    return source if isinstance(source, Graph) else load_model(source)


def bind(graph: Graph, shapes: Shapes | None = None, values: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The simplified graph for those input shapes, and for those values of inputs that decide shapes.

    Raises ModelError where they contradict the model.
    """
    known = {v.name for v in graph.inputs}
    for name in shapes or {}:
        if name not in known:
            raise InputError(f"the model has no input '{name}'", hint=suggest(name, known))
    return prepare(graph, {k: tuple(int(d) for d in s) for k, s in (shapes or {}).items()}, values=values)


def default_shapes(graph: Graph, shapes: Shapes | None = None) -> dict[str, tuple[int, ...]]:
    """Every input's shape, with 1 where a dimension is open and `shapes` does not name it."""
    shapes = shapes or {}
    sizes = {d: n for v in graph.inputs for d, n in zip(v.type.shape or (), shapes.get(v.name, ())) if isinstance(d, str)}
    found = {}
    for value in graph.inputs:
        if value.type.shape is not None:
            given = shapes.get(value.name)
            found[value.name] = tuple(given) if given is not None else tuple(d if isinstance(d, int) else sizes.get(d, 1) for d in value.type.shape)
    return found


def random_feeds(source: Any, shapes: Shapes | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """A seeded feed for every input: normal floats, small whole numbers, ones for masks."""
    graph, rng = load(source), np.random.default_rng(seed)
    feeds = {}
    for name, shape in default_shapes(graph, shapes).items():
        value = next(v for v in graph.inputs if v.name == name)
        dtype = value.type.dtype
        if dtype is None or dtype == object:
            raise InputError("cannot make a random input of this type", where=f"input '{name}'", found=str(value.type), hint="give it as a file")
        if dtype == bool or "mask" in name.lower():
            feeds[name] = np.ones(shape, dtype)
        elif dtype.kind in "iu":
            feeds[name] = rng.integers(0, 100, shape).astype(dtype)
        else:
            feeds[name] = rng.standard_normal(shape).astype(dtype)
    return feeds
