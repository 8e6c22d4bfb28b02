"""Whether the GPU's side of a chain is better kept in images: priced by what the profile measured, chosen where the whole run gains."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from .. import settings
from ..graph.ir import Graph
from ..partition import images
from ..partition.halos import keep_halos
from ..partition.plan import Partition, Plan
from ..profiles import DeviceProfile
from .compose import CostModel


def may_gain(profile: DeviceProfile) -> bool:
    """Whether any kernel of that board's GPU may be faster on images, or they are asked for."""
    asked, gpu = settings.get("storage"), profile.gpu
    return gpu is not None and asked != "buffer" and (bool(asked) or min(gpu.image_shares.values(), default=1.0) < 1.0)


def with_images(plan: Plan, graph: Graph, cost: CostModel) -> Plan:
    """The plan with those runs of its nodes on images that make it faster as predicted; as the setting `storage` says where it says something."""
    asked = settings.get("storage")
    if images.GPU not in plan.devices or not may_gain(cost.profile):
        return plan
    parts = keep_halos(graph, [plan[n.name] for n in graph.nodes])
    found, now = frozenset[str](), cost.total_us(graph, parts)
    before = now
    for run in images.runs(graph, parts):
        trial = found | {*(run if asked else _best_part(cost, graph, parts, run))}
        us = cost.total_us(graph, parts, extra_us(cost, graph, parts, trial))
        if asked or us < now:
            found, now = trial, us
    names = tuple(n.name for n in graph.nodes if n.name in found)
    return replace(plan, images=names, predicted_ms=None if plan.predicted_ms is None else plan.predicted_ms + (now - before) / 1e3)


def _best_part(cost: CostModel, graph: Graph, partitions: Sequence[Partition], run: Sequence[str]) -> tuple[str, ...]:
    """The run without what costs more than it gains at its ends."""
    best = tuple(run)
    least = sum(extra_us(cost, graph, partitions, best).values())
    while len(best) > 1:
        shorter = {part: sum(extra_us(cost, graph, partitions, part).values()) for part in (best[1:], best[:-1])}
        part = min(shorter, key=shorter.__getitem__)
        if shorter[part] >= least:
            break
        best, least = part, shorter[part]
    return best


def extra_us(cost: CostModel, graph: Graph, partitions: Sequence[Partition], names: Collection[str]) -> dict[str, float]:
    """By node: how much longer its GPU piece takes on images than on buffers (negative where it is quicker), transforms at the ends included.

    Nodes that would share no image stay on buffers and are left out. Kinds that were not measured are taken to cost as
    much more as the worst that was.
    """
    gpu, by_name = cost.profile.gpu, {p.name: p for p in partitions}
    unknown = max(gpu.image_shares.values(), default=1.0)
    kept, found = images.inside(graph, partitions, names), {}
    for node in graph.nodes:
        if node.name not in names or not any(v in kept for v in (*node.inputs, node.output)):
            continue
        region, share = images.on_gpu(node, by_name[node.name]), gpu.image_shares.get(images.kind_of(node), unknown)
        moved = [r.size * node.output.dtype.itemsize for r in images.transforms(node, region, kept)]
        found[node.name] = cost.kernel(node, region, images.GPU).us * (share - 1.0) + sum(transform_us(cost, nbytes) for nbytes in moved)
    return found


def transform_us(cost: CostModel, nbytes: float) -> float:
    """What it takes to bring so many bytes from a buffer to an image, or back."""
    gpu = cost.profile.gpu
    return gpu.image_us + nbytes / ((gpu.image_gbs or gpu.bandwidth_gbs) * 1e3)


def of_plan(cost: CostModel, graph: Graph, plan: Plan) -> Mapping[str, float]:
    """`extra_us` of a plan's own choice."""
    return extra_us(cost, graph, keep_halos(graph, [plan[n.name] for n in graph.nodes]), plan.images) if plan.images else {}
