"""No test touches the user's cache: what tests compile and measure is kept in a folder of their own, from one test run to the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

OWN = Path(__file__).resolve().parent.parent / ".pytest_cache" / "coexec"
os.environ.setdefault("COEXEC_CACHE_DIR", str(OWN))
os.environ.setdefault("COEXEC_KEY_FILE", str(OWN / "key"))


@pytest.fixture(scope="module")
def pocl() -> Iterator[None]:
    """PoCL is the GPU, whatever other there is: for what real drivers cannot do, as memory that is one for both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COEXEC_OPENCL", "pocl")
        yield
