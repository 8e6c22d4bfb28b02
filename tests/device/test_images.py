"""Image storage of the GPU's side: the law on random plans, each kernel beside the reference, and what chooses it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyopencl as cl
import pytest

import coexec
from coexec import settings
from coexec.api.models import bind, default_shapes, load, random_feeds
from coexec.cost.compose import CostModel
from coexec.cost.images import extra_us, with_images
from coexec.devices.registry import find_devices, gpu_device
from coexec.errors import MemoryLimit, NumericMismatch, PlanMismatch, UsageError
from coexec.ops.evaluate import evaluate
from coexec.partition import images
from coexec.partition.plan import Plan
from coexec.partition.strategies.base import parse_strategy
from coexec.profiles import from_yaml, to_yaml
from coexec.profiling.images import HOPELESS, KINDS, image_costs, sample
from coexec.runtime.executor import PreparedRun
from coexec.runtime.pictures import Size, place
from coexec.runtime.schedule import Start, schedule
from tests.runtime.random_graphs import random_plan

from .image_chains import assert_right, chain, holds_on_random_chains
from .test_waits import profiled


@pytest.mark.parametrize(("sharing", "counters"), [("svm", False), ("svm", True), ("copy", False)])
def test_random_plans_of_random_chains_equal_the_reference(sharing, counters):
    kinds, transforms = holds_on_random_chains(sharing, counters)
    assert kinds == set(KINDS), "every kernel must have worked on images"
    assert transforms == {"in", "out"}


def all_gpu(graph) -> Plan:
    return parse_strategy("gpu").plan(graph, None, None)


@pytest.fixture(scope="module")
def graph():
    model = load(chain(np.random.default_rng(7), 9))
    return bind(model, default_shapes(model))


def test_a_setting_forces_it_and_another_forbids_it(graph):
    devices, feeds = find_devices(need_gpu=True), random_feeds(graph)
    expected = evaluate(graph, feeds)
    for storage, plan, used in (("image", all_gpu(graph), True), ("", all_gpu(graph), False),
                                ("", replace(all_gpu(graph), images=tuple(n.name for n in graph.nodes)), True),
                                ("buffer", replace(all_gpu(graph), images=tuple(n.name for n in graph.nodes)), False)):
        with settings.override(storage=storage):
            prepared = PreparedRun(graph, plan, devices)
        assert bool(prepared.pictures) == used and any("_image_" in k.implementation for k in prepared.kernels.values()) == used
        assert_right(prepared.run(feeds), expected)
        prepared.close()


def test_a_check_sees_what_lies_in_images(graph, monkeypatch):
    """Every node is compared, and one whose image kernel is wrong is named."""
    with settings.override(storage="image"), coexec.InferenceSession(graph, strategy="gpu") as session:
        seen = []
        session.run_checked(random_feeds(graph), report=seen.append)
        assert [e.name for e in seen] == [n.name for n in graph.nodes] and all(e.ok for e in seen) and session._ready.pictures
    from coexec.devices.opencl import images as kernels

    monkeypatch.setitem(kernels.PLAIN, "Add", "a0 - a1")
    with settings.override(storage="image"), coexec.InferenceSession(graph, strategy="gpu") as session:
        named = next(n.name for n in graph.nodes if n.op_type == "Add")
        with pytest.raises(NumericMismatch, match=f"Add '{named}'"):
            session.run_checked(random_feeds(graph))


@pytest.mark.usefixtures("pocl")
def test_memory_counts_images_as_planned_and_as_measured_and_refuses_before_the_run(graph):
    with settings.override(storage="image"), coexec.InferenceSession(graph, strategy="gpu") as session:
        planned = session._ready.image_plan.nbytes
        assert planned == sum(b.nbytes for b in session._ready.images) > 0
        assert session.peak_memory_bytes == session.memory.nbytes + planned
        session.run(None, random_feeds(graph))
        measured, pages = [b.resident_bytes() for b in session._ready.images], 2 * 4096
        assert all(b.nbytes / 2 <= m <= b.nbytes + pages for b, m in zip(session._ready.images, measured)), "an image is used again by smaller ones"
        assert session.measured_memory_bytes == session._ready.buffer.resident_bytes() + sum(measured)
        needed = session.peak_memory_bytes
        with settings.override(memory_limit=needed - 1), pytest.raises(MemoryLimit, match=f"{needed} bytes"):
            coexec.InferenceSession(graph, strategy="gpu")


def test_an_image_that_nobody_touched_takes_little():
    """On a driver that keeps images in the host's memory; elsewhere the driver's word is taken."""
    gpu = gpu_device()
    image = gpu.picture(1024, 512)
    queue = cl.CommandQueue(gpu.context)
    before = image.resident_bytes()
    cl.enqueue_fill_image(queue, image.handle, np.ones(4, np.float32), (0, 0, 0), (1024, 512, 1)).wait()
    filled = image.resident_bytes()
    image.close()
    assert filled >= image.nbytes == 1024 * 512 * 16 and filled <= image.nbytes + 2 * 4096
    if "Portable Computing Language" in gpu.facts.driver:
        assert before < filled / 2, "memory that is planned was taken for memory that is used"


def test_images_are_used_again_and_never_while_they_are_read(graph):
    plan = all_gpu(graph)
    kept = images.inside(graph, plan.partitions, {n.name for n in graph.nodes if images.kind_of(n)})
    steps = schedule(graph, plan, frozenset({"gpu"}))
    found = place(graph, steps, kept)
    assert len(found.sizes) < len(kept) == len(found.where)
    order = {s.node.name: i for i, s in enumerate(x for x in steps if isinstance(x, Start))}
    lives = {v: (order[graph.producers[v].name], max(order[r.name] for r in graph.consumers[v])) for v in kept}
    for v, at in found.where.items():
        size = Size.of(kept[v])
        assert size.width <= found.sizes[at].width and size.height <= found.sizes[at].height
        for w, other in found.where.items():
            if w is not v and other == at:
                assert lives[v][1] < lives[w][0] or lives[w][1] < lives[v][0]


def test_what_others_read_stays_in_buffers():
    """An image holds nothing of the graph's outputs, of what the host reads, or of what a view renames."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        model = load(chain(rng, 8))
        graph = bind(model, default_shapes(model))
        plan = random_plan(graph, rng)
        kept = images.inside(graph, plan.partitions, {n.name for n in graph.nodes if images.kind_of(n)})
        assert not {*kept} & {*graph.outputs, *graph.inputs}
        for value, region in kept.items():
            assert images.on_gpu(graph.producers[value], plan[graph.producers[value].name]) == region
            assert all(images.kind_of(r) for r in graph.consumers[value])


def test_the_profile_measures_each_kind_and_the_transforms(monkeypatch):
    gpu = gpu_device()
    with monkeypatch.context() as told:
        told.setattr("coexec.profiling.images._times", lambda device, kind, region, *ways: [1.0, HOPELESS + 1.0, 1.0][:len(ways)])
        assert {*image_costs(gpu).shares} == {"elementwise"}, "without hardware for images one kind says enough"
    monkeypatch.setattr("coexec.profiling.images.HOPELESS", 1e9)
    found = image_costs(gpu)
    assert set(found.shares) == set(KINDS) and all(0.01 < s < 1e4 for s in found.shares.values()) and found.us >= 0 and found.gbs > 0
    assert [images.kind_of(sample(kind)) for kind in KINDS] == list(KINDS)
    known = profiled("g", image_shares=found.shares, image_us=found.us, image_gbs=found.gbs)
    assert from_yaml(to_yaml(known)) == known
    assert "image" not in to_yaml(profiled("g")), "a profile from before keeps its digest"


class NoImages(type(gpu_device())):
    """A device as it is, whose driver has no images."""

    def __init__(self, device):
        super().__init__(device)
        self.facts = replace(self.facts, extra={**self.facts.extra, "image2d_max": None})


def test_a_device_without_images_or_with_small_ones_keeps_buffers(graph):
    devices = find_devices(need_gpu=True)
    cl_device = devices["gpu"].device
    without = NoImages(cl_device)
    assert image_costs(without) is None
    small = NoImages(cl_device)
    small.facts = replace(small.facts, extra={**small.facts.extra, "image2d_max": [8, 8]})
    feeds = random_feeds(graph)
    for gpu in (without, small):
        with settings.override(storage="image"):
            prepared = PreparedRun(graph, all_gpu(graph), {**devices, "gpu": gpu})
        assert not prepared.pictures
        assert_right(prepared.run(feeds), evaluate(graph, feeds))
        prepared.close()


def priced(graph, shares: dict[str, float], **more) -> tuple[CostModel, Plan, Plan]:
    known = profiled("g", image_shares=shares, **more)
    known = replace(known, gpu=replace(known.gpu, operators=()))
    cost, plan = CostModel(known), replace(all_gpu(graph), predicted_ms=1.0)
    return cost, plan, with_images(plan, graph, cost)


def test_images_are_chosen_only_where_they_are_faster(graph):
    cost, plan, slow = priced(graph, dict.fromkeys(KINDS, 1.5))
    assert slow is plan
    cost, plan, fast = priced(graph, dict.fromkeys(KINDS, 0.25))
    assert set(fast.images) and fast.predicted_ms < plan.predicted_ms
    gained_us = sum(extra_us(cost, graph, fast.partitions, fast.images).values())
    assert gained_us < 0 and cost.total_us(graph, fast.partitions, extra_us(cost, graph, fast.partitions, fast.images)) == pytest.approx(
        cost.total_us(graph, fast.partitions) + gained_us), "all of it is on one queue"
    _, _, dear = priced(graph, dict.fromkeys(KINDS, 0.25), image_us=1e5)
    assert not dear.images, "transforms cost more than images gain"
    assert Plan.from_dict(fast.to_dict()) == replace(fast, planning_ms=None) and "work on images" in str(fast)
    with settings.override(storage="buffer"):
        assert not with_images(plan, graph, cost).images
    with settings.override(storage="image"):
        forced = with_images(plan, graph, CostModel(profiled("g")))
        assert set(forced.images) == {name for run in images.runs(graph, plan.partitions) for name in run}


def test_kinds_that_were_not_tried_cost_as_much_more_as_the_worst_that_was(graph):
    cost, plan, slow = priced(graph, {"elementwise": 20.0})
    names = {name for run in images.runs(graph, plan.partitions) for name in run}
    everything, _, _ = priced(graph, dict.fromkeys(KINDS, 20.0))
    assert slow is plan and extra_us(cost, graph, plan.partitions, names) == extra_us(everything, graph, plan.partitions, names)


def test_ends_that_cost_more_than_they_gain_are_left_out(graph):
    """Only convolutions are quicker on images: what stands at the ends of a run and is slower there stays on buffers."""
    shares = {**dict.fromkeys(KINDS, 4.0), "conv": 0.1, "pointwise": 0.1, "depthwise": 0.1}
    *_, made = priced(graph, shares)
    assert made.images
    for run in images.runs(graph, made.partitions):
        mine = [name for name in run if name in made.images]
        assert not mine or all(images.kind_of(graph.node(name)) in ("conv", "pointwise", "depthwise") for name in (mine[0], mine[-1]))


def test_words_that_are_none_are_refused(monkeypatch):
    with pytest.raises(PlanMismatch, match="images"):
        Plan.from_dict({"format": 1, "model": "m", "model_digest": "d", "strategy": "s", "nodes": [], "images": [3]})
    with pytest.raises(coexec.errors.ProfileMismatch, match="image_shares.conv"):
        from_yaml(to_yaml(profiled("g", image_shares={"conv": 2.0})).replace("conv: 2.0", "conv: -2.0"))
    monkeypatch.setenv("COEXEC_STORAGE", "tape")
    with pytest.raises(UsageError, match="COEXEC_STORAGE"):
        settings.get("storage")
