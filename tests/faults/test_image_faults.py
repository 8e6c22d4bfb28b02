"""Faults of image storage: the images cannot be had, their kernels do not compile, or work on them fails in a run."""

from __future__ import annotations

import logging

import numpy as np
import pyopencl as cl
import pytest

import coexec
from coexec import settings
from coexec.api.models import bind, default_shapes, load, random_feeds
from coexec.devices.opencl import images, launch, program
from coexec.errors import CoexecError, DeviceLost
from tests.device.image_chains import assert_right, chain


@pytest.fixture(scope="module")
def case():
    model = load(chain(np.random.default_rng(7), 9))
    graph = bind(model, default_shapes(model))
    feeds = random_feeds(graph)
    with coexec.InferenceSession(graph, strategy="cpu") as session:
        return graph, feeds, {v.name: a for v, a in zip(graph.outputs, session.run(None, feeds))}


def on_images(graph, strict: bool = False) -> coexec.InferenceSession:
    with settings.override(storage="image"):
        return coexec.InferenceSession(graph, coexec.SessionOptions(strict=strict), strategy="gpu")


def right(session, feeds, expected) -> None:
    assert_right({v.name: a for v, a in zip(session.get_outputs(), session.run(None, feeds))}, expected)


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("strict", [False, True])
def test_no_memory_for_images(monkeypatch, caplog, case, strict):
    graph, feeds, expected = case

    def none_left(*_):
        raise cl.MemoryError("clCreateImage failed: MEM_OBJECT_ALLOCATION_FAILURE")

    monkeypatch.setattr(images, "image", lambda context, width, height: images.allocate(context, none_left, width * height))
    if strict:
        with pytest.raises(CoexecError, match="cannot allocate memory") as caught:
            on_images(graph, strict=True)
        assert caught.value.exit_code == 1
        return
    with on_images(graph) as session:
        right(session, feeds, expected)
        assert session.plan.devices == {"cpu"}
    said, = warnings(caplog)
    assert "cannot allocate memory" in said


@pytest.mark.parametrize("strict", [False, True])
def test_image_kernels_that_do_not_compile(monkeypatch, caplog, case, strict):
    graph, feeds, expected = case
    program.forget()
    whole = program.source
    monkeypatch.setattr(program, "source", lambda name: whole(name) + ("\n#error injected\n" if name == "images.cl" else ""))
    if strict:
        with pytest.raises(CoexecError, match="injected"):
            on_images(graph, strict=True)
        return
    with on_images(graph) as session:
        right(session, feeds, expected)
    said, = warnings(caplog)
    assert "injected" in said


@pytest.mark.parametrize("strict", [False, True])
def test_an_image_kernel_that_cannot_be_started(monkeypatch, caplog, case, strict):
    graph, feeds, expected = case
    with on_images(graph, strict) as session:
        right(session, feeds, expected)
        drawn = next((s, k) for s, k in session._ready.kernels.items() if "_image_" in k.implementation)

        def enqueue(queue, kernel, *sizes):
            if kernel is drawn[1].launches[0].kernel:
                raise cl.RuntimeError("clEnqueueNDRangeKernel failed: OUT_OF_RESOURCES")
            return real(queue, kernel, *sizes)

        real = launch._enqueue
        monkeypatch.setattr(launch, "_enqueue", enqueue)
        if strict:
            with pytest.raises(DeviceLost, match=drawn[0].node.name):
                session.run(None, feeds)
            return
        right(session, feeds, expected)
        fault, = session.faults
        assert drawn[0].node.name in fault.node and fault.kernel == drawn[1].implementation
        monkeypatch.setattr(launch, "_enqueue", real)
        session.retry_device()
        with settings.override(storage="image"):
            right(session, feeds, expected)
        assert session._ready.pictures, "tried again, on images again"
    assert len(warnings(caplog)) == 1
