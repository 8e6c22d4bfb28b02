"""Every way of sharing memory that a driver claims, on a cut model: refused by the trial, or the right answer.

    COEXEC_OPENCL=rusticl RUSTICL_ENABLE=llvmpipe python -m tests.device.sharing_subset

Prints a line per way; ends with 1 where an answer is wrong.
"""

from __future__ import annotations

import sys

import numpy as np

import coexec
from coexec import settings
from coexec.devices.registry import gpu_device
from coexec.errors import UsageError
from tests.test_smoke import tiny_model


def main() -> int:
    x, wrong = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32), 0
    with coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        expected = session.run(None, {"x": x})[0]
    for way in gpu_device().facts.sharing:
        try:
            with settings.override(sharing=way, timeout=0), coexec.InferenceSession(tiny_model(), strategy="fixed:gpu=0.5") as session:
                right = all(np.allclose(session.run(None, {"x": x})[0], expected, atol=1e-5) for _ in range(3)) and not session.faults
                assert "gpu" in session.plan.devices
                print(f"{way}: {'right' if right else 'WRONG'}, {session.copied_bytes_per_run} bytes copied a run", flush=True)
                wrong += not right
        except UsageError as error:
            print(f"{way}: refused, {error.found}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
