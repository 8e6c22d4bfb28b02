"""Memory as planned, as measured, and as allowed; bytes that a run copies."""

import numpy as np
import pytest

import coexec
from coexec import settings
from coexec.errors import MemoryLimit
from coexec.runtime import executor
from tests.gpus import gpu_that_shares
from tests.test_smoke import tiny_model

X = np.ones((1, 3, 12, 12), np.float32)


def test_a_limit_refuses_before_anything_is_allocated(monkeypatch):
    with coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        needed = session.peak_memory_bytes
    with settings.override(memory_limit=needed), coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        session.run(None, {"x": X})
    monkeypatch.setattr(executor, "TensorView", None)  # what comes after the allocation
    for strategy in ("cpu", "fixed:gpu=0.5"):
        with settings.override(memory_limit=64), pytest.raises(MemoryLimit, match="found .* bytes, expected at most 64") as caught:
            coexec.InferenceSession(tiny_model(), strategy=strategy)
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("text, value", [("1000", 1000), ("2K", 2048), ("3m", 3 << 20), ("1G", 1 << 30), ("0", 0)])
def test_limits_have_units(monkeypatch, text, value):
    monkeypatch.setenv("COEXEC_MEMORY_LIMIT", text)
    assert settings.get("memory_limit") == value


def test_measured_memory_is_what_was_planned():
    with coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        session.run(None, {"x": X})
        measured = session.measured_memory_bytes
        assert measured is None or abs(measured - session.peak_memory_bytes) <= 2 * 4096


def test_what_lies_on_both_sides_counts_twice():
    found = {}
    for sharing in ("svm", "copy"):
        with (settings.override(sharing=sharing, opencl=gpu_that_shares(sharing)),
              coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session):
            session.run(None, {"x": X})
            measured, found[sharing] = session.measured_memory_bytes, session.peak_memory_bytes
            assert measured is None or abs(measured - session.peak_memory_bytes) <= 4 * 4096
    assert found["copy"] >= 2 * found["svm"]


@pytest.mark.parametrize("sharing", ["svm", "copy"])
def test_copied_bytes_are_none_where_memory_is_shared(sharing):
    with (settings.override(sharing=sharing, opencl=gpu_that_shares(sharing)),
          coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session):
        session.run(None, {"x": X})
        assert "gpu" in session.plan.devices
        assert (session.copied_bytes_per_run > 0) == (sharing == "copy")
