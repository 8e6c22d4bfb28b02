"""The law every operator keeps, merge(pieces) == whole, as one assertion; and one-node models checked by onnx's reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from hypothesis import settings
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from coexec.graph.ir import Node, TensorType, Value, constant
from coexec.ops import SplitAxis, find_op
from coexec.ops.base import Op, pieces_along
from coexec.ops.narrow import is_bfloat16, is_narrow
from coexec.regions import Region

#: For strategies that call assert_law: the same examples on every run, no time limit on a busy machine.
LAW = settings(derandomize=True, deadline=None, max_examples=60, database=None)


@dataclass(frozen=True)
class Const:
    """Marks an input of `make_node` as a constant (a weight, or shapes such as axes and pads)."""

    data: np.ndarray


def make_node(op_type: str, inputs: Sequence[np.ndarray | Const | None], attributes: dict[str, Any] | None = None,
              n_outputs: int | Sequence[bool] = 1, domain: str = "", judge: Callable | None = None) -> tuple[Node, list[np.ndarray | None]]:
    """A node of the newest opset and its input arrays; `judge` (onnx's reference) says what types and shapes its outputs have.

    `n_outputs` may be a list of booleans: False is an optional output nobody wants.
    """
    arrays = [i.data if isinstance(i, Const) else i for i in inputs]
    values = tuple(None if i is None else constant(f"i{k}", i.data) if isinstance(i, Const) else
                   Value(f"i{k}", TensorType(i.dtype, i.shape)) for k, i in enumerate(inputs))
    wanted = [True] * n_outputs if isinstance(n_outputs, int) else list(n_outputs)
    tidy = {k: _stored(v) for k, v in (attributes or {}).items() if v is not None}
    node = Node(op_type, values, tuple(Value(f"o{k}") if w else None for k, w in enumerate(wanted)), tidy, name=op_type.lower(),
                domain=domain, version=onnx.defs.onnx_opset_version())
    found = (judge or reference)(node, arrays)
    return with_output_types(node, found), arrays


def _stored(value: Any) -> Any:
    """An attribute as a model holds it: lists are tuples, floats have 32 bits."""
    if isinstance(value, (list, tuple)):
        return tuple(_stored(v) for v in value)
    return float(np.float32(value)) if isinstance(value, float) else value


def with_output_types(node: Node, outputs: Sequence[np.ndarray | None]) -> Node:
    """The node with outputs of those arrays' types: for nodes that onnx itself cannot run (fused ones)."""
    return replace(node, outputs=tuple(None if v is None else Value(v.name, TensorType(np.asarray(a).dtype, np.asarray(a).shape))
                                       for v, a in zip(node.outputs, outputs)))


def reference(node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """Every output of the node as onnx.reference computes it; None for an absent one."""
    model = one_node_model(node, arrays, onnx.defs.onnx_opset_version())
    found = ReferenceEvaluator(model).run(None, _feeds(node, arrays))
    return _by_output(node, [np.asarray(a) for a in found])


def ort_reference(node: Node, arrays: Sequence[np.ndarray | None], opset: int = 22) -> list[np.ndarray | None]:
    """Every output of the node as onnxruntime computes it: the judge where onnx.reference is known to be wrong."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    model = one_node_model(node, arrays, opset).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return _by_output(node, session.run(None, _feeds(node, arrays)))


def one_node_model(node: Node, arrays: Sequence[np.ndarray | None], opset: int) -> onnx.ModelProto:
    """An ONNX model of that one node; constants are initializers, outputs are untyped."""
    attributes = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in node.attributes.items()}
    proto = helper.make_node(node.op_type, ["" if v is None else v.name for v in node.inputs],
                             ["" if v is None else v.name for v in node.outputs], domain=node.domain, **attributes)
    distinct = {v.name: (v, np.asarray(a)) for v, a in zip(node.inputs, arrays) if v is not None}
    inputs = [helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for v, a in distinct.values() if v.data is None]
    initializers = [numpy_helper.from_array(v.data, v.name) for v, _ in distinct.values() if v.data is not None]
    outputs = [onnx.ValueInfoProto(name=v.name) for v in node.outputs if v is not None]
    graph = helper.make_graph([proto], "one_node", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(node.domain, 1)] if node.domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _feeds(node: Node, arrays: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    return {v.name: np.asarray(a) for v, a in zip(node.inputs, arrays) if v is not None and v.data is None}


def _by_output(node: Node, found: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    left = iter(found)
    return [None if v is None else next(left) for v in node.outputs]


def native(node: Node) -> Op:
    """The node's own operator; fails where there is none, or where it declines the node."""
    op = find_op(node.domain, node.op_type)
    assert op is not None, f"{node.qualified_type} has no meaning of its own"
    assert op.declines(node) is None, f"{node} is declined: {op.declines(node)}"
    return op.form(node)


def compute_whole(node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """Every output of the node, computed in one piece by coexec's own reference."""
    return compute_piece(node, arrays, Region.whole(node.output.shape))


def compute_piece(node: Node, arrays: Sequence[np.ndarray | None], out_region: Region) -> list[np.ndarray | None]:
    """One piece of every output, from read-only copies of exactly what `input_regions` names; types and shapes are checked."""
    op = native(node)
    regions = op.regions_read(node, out_region)
    assert len(regions) == len(node.inputs), f"{len(regions)} input regions for {len(node.inputs)} inputs"
    pieces: list[np.ndarray | None] = []
    for value, region, array in zip(node.inputs, regions, arrays):
        if value is None or region is None:
            pieces.append(None)
            continue
        assert len(region) == len(value.shape), f"input region {region} of {value} has the wrong rank"
        assert Region.whole(value.shape).covers(region), f"input region {region} of piece {out_region} leaves {value}"
        piece = np.array(np.asarray(array)[region.slices], order="C")
        assert piece.shape == region.shape, f"input region {region} of {value} is not within it"
        piece.flags.writeable = False
        pieces.append(piece)
    outputs = op.run(node, pieces, out_region)
    for value, region, array in zip(node.outputs, op.output_regions(node, out_region), outputs):
        if value is None:
            continue
        assert isinstance(array, np.ndarray), f"{value} of piece {out_region} is {type(array).__name__}, not an array"
        assert array.dtype == value.dtype, f"{value} of piece {out_region} has dtype {array.dtype}"
        assert array.shape == region.shape, f"{value} of piece {out_region} has shape {array.shape}, expected {region.shape}"
    return list(outputs)


def assert_close(found: np.ndarray, expected: np.ndarray, what: str = "", ulps: float = 64) -> None:
    """Equal for integers, booleans and strings; for floats within `ulps` units of the largest value and of each value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    if is_bfloat16(expected.dtype):
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2.0**-8, atol=0, err_msg=what)
        return
    if is_narrow(expected.dtype):
        np.testing.assert_array_equal(np.ascontiguousarray(found).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8), err_msg=what)
        return
    if expected.dtype.kind not in "fc":
        np.testing.assert_array_equal(found, expected, err_msg=what)
        return
    eps = float(np.finfo(expected.dtype).eps) * (ulps if expected.dtype.itemsize > 2 else min(ulps, 4))
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    scale = float(finite.max()) if finite.size else 1.0
    np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=eps, atol=eps * scale, err_msg=what)


def assert_matches(node: Node, arrays: Sequence[np.ndarray | None], expected: Sequence[np.ndarray | None] | None = None,
                   ulps: float = 256) -> None:
    """The whole node, computed here, equals `expected` (by default what onnx.reference says)."""
    expected = reference(node, arrays) if expected is None else expected
    for value, ours, theirs in zip(node.outputs, compute_whole(node, arrays), expected):
        if value is not None:
            assert_close(ours, theirs, f"{node}: {value}", ulps)


def legal_bounds(axis: SplitAxis, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Cuts of an axis: empty first and last pieces, thinnest pieces at both ends, every unit alone, random two and three pieces."""
    points = [*range(0, axis.extent, axis.multiple), axis.extent]
    first, last, end = points[min(1, len(points) - 1)], points[max(len(points) - 2, 0)], axis.extent
    yield (0, end)
    yield (0, 0, end)
    yield (0, end, end)
    yield (0, first, end)
    yield (0, last, end)
    middle = int(rng.choice(points))
    yield (0, middle, middle, end)
    if len(points) <= 7:
        yield tuple(points)
    for pieces in (2, 3, 3):
        yield (0, *sorted(int(p) for p in rng.choice(points, pieces - 1)), end)


def assert_law(node: Node, rng: np.random.Generator, arrays: Sequence[np.ndarray | None] | None = None, ulps: float = 64) -> None:
    """For every split axis and many legal cuts, the pieces put side by side are the whole: all outputs, each element written once.

    Without `arrays`, inputs that are not constant are drawn from `rng`.
    """
    op = native(node)
    if arrays is None:
        arrays = [None if v is None else v.data if v.data is not None else _draw(v, rng) for v in node.inputs]
    whole = compute_whole(node, arrays)
    axes = op.split_axes(node)
    assert len({a.name for a in axes}) == len(axes) == len({a.dim for a in axes}), f"{node}: axes are not distinct: {axes}"
    for axis in axes:
        assert axis.extent == node.output.shape[axis.dim], f"{node}: {axis} does not have the output's extent"
        for bounds in dict.fromkeys(legal_bounds(axis, rng)):
            what = f"{node} cut along {axis.name} at {bounds}"
            _assert_merges(node, op, arrays, whole, pieces_along(node, axis, bounds), what, ulps)


def _assert_merges(node: Node, op: Op, arrays: Sequence[np.ndarray | None], whole: Sequence[np.ndarray | None],
                   pieces: Sequence[Region], what: str, ulps: float) -> None:
    merged = [None if v is None else np.zeros(v.shape, v.dtype) for v in node.outputs]
    writes = [None if v is None else np.zeros(v.shape, np.int32) for v in node.outputs]
    for piece in pieces:
        for array, region, into, count in zip(compute_piece(node, arrays, piece), op.output_regions(node, piece), merged, writes):
            if into is not None and piece.size:
                into[region.slices] = array
                count[region.slices] += 1
    for value, ours, expected, count in zip(node.outputs, merged, whole, writes):
        if value is not None:
            assert (count == 1).all(), f"{what}: {value} is not written exactly once everywhere"
            assert_close(ours, expected, f"{what}: {value}", ulps)


def _draw(value: Value, rng: np.random.Generator) -> np.ndarray:
    if value.dtype == np.bool_:
        return rng.random(value.shape) < 0.5
    if value.dtype.kind in "iu":
        return rng.integers(0 if value.dtype.kind == "u" else -9, 10, value.shape).astype(value.dtype)
    return rng.standard_normal(value.shape).astype(value.dtype)
