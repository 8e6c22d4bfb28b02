"""ONNX's own backend tests through coexec.backend: with fallback allowed, and on the OpenCL device with fallback forbidden."""

import pytest

from .backend_suite import exceptions, fast_set_names, run_one, suite

HALVES = suite("fixed:gpu=0.5", False)
#: Operators by themselves: written out as functions of others they are among HALVES (`python -m tests.models.backend_suite` tries all).
STRICT = {name: test for name, test in suite("gpu", True).items() if name in fast_set_names() and "_expanded" not in name}
NOT_PASSING, NOT_ON_THE_GPU = exceptions("backend_exceptions.txt"), exceptions("backend_exceptions_opencl.txt")


def judge(reason: str | None, listed: str | None) -> None:
    """A test passes, or it is listed; a listed test that passes must leave the list, and nothing may fail in a way nobody foresaw."""
    if listed is None:
        assert reason is None, reason
    elif listed.startswith("random numbers"):
        assert reason is None or reason.startswith("AssertionError"), reason  # right by chance is right too
    else:
        assert reason is not None, f"passes now: take it off the list ({listed})"


@pytest.mark.parametrize("name", sorted(HALVES))
def test_with_fallback_allowed(name):
    judge(run_one(HALVES[name]), NOT_PASSING.get(name))


@pytest.mark.parametrize("name", sorted(STRICT))
def test_on_opencl_with_fallback_forbidden(name):
    judge(run_one(STRICT[name]), NOT_ON_THE_GPU.get(name))


def test_enough_of_the_suite_passes():
    assert len(HALVES) >= 2000 and set(NOT_PASSING) <= set(HALVES) and len(NOT_PASSING) <= 0.05 * len(HALVES)
    assert set(NOT_ON_THE_GPU) <= set(STRICT)
    assert all(len(reason) > 10 for reason in (*NOT_PASSING.values(), *NOT_ON_THE_GPU.values()))
