"""The second opinion: a run in which every node is compared with the unsplit reference, computed from the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import NumericMismatch
from ..graph.ir import Node
from ..ops import op_for
from ..regions import subtract
from .executor import PreparedRun
from .schedule import HOST, Start


@dataclass(frozen=True)
class NodeError:
    """How far one node's outputs are from the reference: absolute, and relative to the reference's largest magnitude."""

    name: str
    op_type: str
    cut: str
    max_abs_error: float
    max_rel_error: float
    ok: bool
    index: tuple[int, ...] = ()
    value: float = 0.0
    reference: float = 0.0


def run_checked(prepared: PreparedRun, feeds: Mapping[str, Any], rtol: float = 1e-3, atol: float = 1e-5,
                stop: bool = True, report: Callable[[NodeError], None] | None = None) -> dict[str, Any]:
    """Runs node after node, waiting after each, and compares every output with the reference.

    An element is wrong where |value - reference| > atol + rtol * max|reference|. Raises NumericMismatch at the first node that is
    wrong, naming node, cut, index and both values, unless `stop` is False; `report` is told about each node.
    """
    prepared._feed(feeds)
    prepared.uncounted()
    actions = prepared.actions
    last = {step.node.name: position for position, (step, _) in enumerate(actions) if isinstance(step, Start)}
    for position, (step, action) in enumerate(actions):
        action()
        if not isinstance(step, Start) or last[step.node.name] != position:
            continue
        node = prepared.graph.node(step.node.name)
        _settle(prepared, node, [s for s, _ in actions[: position + 1] if isinstance(s, Start) and s.node.name == node.name])
        error = compare(prepared, node, rtol, atol)
        if report is not None:
            report(error)
        if stop and not error.ok:
            raise NumericMismatch("differs from the unsplit reference", where=f"{node.op_type} '{node.name}' ({error.cut})",
                                  found=f"{error.value:g} at index {list(error.index)}",
                                  expected=f"{error.reference:g} within {atol:g} + {rtol:g} of the peak",
                                  hint="a wrong kernel or driver; force the node to the CPU, and report it")
    return prepared._results()


def _settle(prepared: PreparedRun, node: Node, starts: list[Start]) -> None:
    """Waits for the node's pieces and brings all of them to the host, so that it has every later node's inputs too."""
    op, own = op_for(node), [s.region for s in starts if s.device == HOST]
    for step in starts:
        if step.device == HOST:
            continue
        queue = prepared.queues[step.device]
        queue.finish()
        for value, kept, region in zip(node.outputs, step.node.outputs, op.output_regions(node, step.region)):
            if value is None or region is None or not region.size:
                continue
            prepared.reveal(value, kept, region, step.device)
            if not prepared.buffer.shared:
                queue.download(prepared.views[kept].sub(region)).wait()
            if kept is not value:  # the device's own copy; what both computed the host has already
                for part in subtract([region], own):
                    prepared.views[value].array[part.slices] = prepared.views[kept].array[part.slices]


def compare(prepared: PreparedRun, node: Node, rtol: float, atol: float) -> NodeError:
    """The node's outputs as they stand in memory, beside the reference computed from its inputs as they stand in memory."""
    op = op_for(node)
    inputs = [None if v is None else prepared._fetch(v) for v in node.inputs]
    references = op.run_whole(node, inputs)
    partition = prepared.plan[node.name]
    worst = NodeError(node.name, node.op_type, str(partition), 0.0, 0.0, True)
    for value, reference in zip(node.outputs, references):
        if value is None or reference is None:
            continue
        found = difference(prepared.views[value].array, np.asarray(reference), rtol, atol)
        if found[0] > worst.max_abs_error or not found[2]:
            worst = NodeError(node.name, node.op_type, str(partition), *found)
        if not found[2]:
            break
    return worst


def difference(found: np.ndarray, reference: np.ndarray, rtol: float, atol: float) -> tuple[float, float, bool, tuple[int, ...], float, float]:
    """(max abs error, the same over the peak, within tolerance, worst index, value there, reference there); equal NaN and inf agree."""
    if found.shape != reference.shape:
        return float("inf"), float("inf"), False, (), float("nan"), float("nan")
    if not found.size:
        return 0.0, 0.0, True, (), 0.0, 0.0
    if found.dtype.kind not in "fc" and found.dtype.kind in "biuOSU":
        gap = ((found != reference).astype(np.float64) if found.dtype.kind in "bOSU"
               else np.abs(found.astype(np.float64) - reference.astype(np.float64)))
        peak = 1.0
    else:
        a, b = found.astype(np.float64), reference.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        gap = np.where(np.isnan(gap), np.inf, gap)
        finite = np.abs(b[np.isfinite(b)])
        peak = float(finite.max()) if finite.size else 0.0
    index = np.unravel_index(int(np.argmax(gap)), gap.shape)
    worst = float(gap[index])
    number = lambda v: float(v) if np.issubdtype(np.asarray(v).dtype, np.number) or np.asarray(v).dtype == bool else float("nan")  # noqa: E731
    return worst, worst / peak if peak else worst, worst <= atol + rtol * peak, tuple(map(int, index)), number(found[index]), number(reference[index])


