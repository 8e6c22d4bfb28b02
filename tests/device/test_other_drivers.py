"""The kernels on two more OpenCL implementations: what PoCL forgives, these report."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: What Oclgrind says about kernels, and about calls; pyopencl itself asks devices for facts that old ones do not know.
COMPLAINTS = re.compile(r"Invalid (read|write)|data race|uninitialized|unaligned|Function: (?!clGetDeviceInfo)|OCLGRIND FATAL", re.IGNORECASE)


def run(command: list[str], module: str = "tests.device.driver_subset", **environment: str) -> subprocess.CompletedProcess:
    env, whole = {**os.environ, "POCL_MAX_PTHREAD_COUNT": "1", **environment}, [*command, sys.executable, "-m", module, "--quick"]
    return subprocess.run(whole, env=env, capture_output=True, text=True, timeout=600)


def test_oclgrind_finds_no_invalid_access_and_no_race():
    assert shutil.which("oclgrind"), "install oclgrind (Debian and Ubuntu package it); tools/test.sh does"
    done = run(["oclgrind", "--data-races", "--check-api"], COEXEC_OPENCL="oclgrind")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "oclgrind" in done.stdout.lower()
    complaints = [line for line in done.stderr.splitlines() if COMPLAINTS.search(line)]
    assert not complaints, "\n".join(complaints[:20])


def need_rusticl() -> None:
    """Skips where Mesa's OpenCL is there and has no rusticl (before 22.3, as in Ubuntu 22.04): no package would bring it."""
    vendors = [p.name for p in Path("/etc/OpenCL/vendors").glob("*.icd")]
    if not any("rusticl" in name for name in vendors):
        assert any("mesa" in name for name in vendors), "install mesa-opencl-icd (Debian and Ubuntu package it); tools/test.sh does"
        pytest.skip("rusticl is missing in the Mesa that this distribution packages: it came with 22.3")


def test_rusticl_on_llvmpipe_gives_the_same_answers():
    need_rusticl()
    done = run([], RUSTICL_ENABLE="llvmpipe", COEXEC_OPENCL="rusticl")
    assert done.returncode == 0 and "llvmpipe" in done.stdout, (done.stdout + done.stderr)[-4000:]


def test_chains_on_images_on_both():
    """Oclgrind looks for races and for pixels outside of an image, too."""
    done = run(["oclgrind", "--data-races", "--check-api"], "tests.device.image_chains", COEXEC_OPENCL="oclgrind")
    assert done.returncode == 0 and "pointwise" in done.stdout, (done.stdout + done.stderr)[-4000:]
    assert not (complaints := [line for line in done.stderr.splitlines() if COMPLAINTS.search(line)]), "\n".join(complaints[:20])
    need_rusticl()
    done = run([], "tests.device.image_chains", RUSTICL_ENABLE="llvmpipe", COEXEC_OPENCL="rusticl")
    assert done.returncode == 0 and "pointwise" in done.stdout and "llvmpipe" in done.stdout, (done.stdout + done.stderr)[-4000:]
