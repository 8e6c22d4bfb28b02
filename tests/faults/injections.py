"""How many faults the tests of this folder inject: `python -m tests.faults.injections` lists and counts them.

One injection is one thing that goes wrong at one place; that it is tried on two kinds of memory, with and without `strict`, or on the CPU
alone as well, does not count again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

#: Of the tests' parameters, those that say under which conditions a fault is injected, not which.
CONDITIONS = {"True", "False", "opencl", "two copies", "strict", "no", "cpu", "fixed:gpu=0.5", "forked", ""}
#: Tests of what follows a fault that another test injects, or of what is none.
NONE = {"test_nan_that_the_model_computes_is_an_answer", "test_quarantine_ends_when_the_user_asks", "test_retries_are_counted",
        "test_the_warning_names_the_node_and_kernel_that_hangs", "test_the_count_of_injections_is_what_the_page_says"}


def injections() -> list[str]:
    """Every distinct injection, as `test` or `test: which`."""
    asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/faults"]
    plain = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}  # -v there would be another listing
    listed = subprocess.run(asked, capture_output=True, text=True, check=True, env=plain).stdout
    found = set()
    for name, which in re.findall(r"^tests/faults/\w+\.py::(\w+)(?:\[(.*)\])?$", listed, re.MULTILINE):
        kept = [part for part in which.split("-") if part not in CONDITIONS and not part.isdecimal()]
        if name not in NONE:
            found.add(f"{name.removeprefix('test_').replace('_', ' ')}{': ' if kept else ''}{'-'.join(kept)}")
    return sorted(found)


if __name__ == "__main__":
    listed = injections()
    print("\n".join(listed), f"\n{len(listed)} distinct injections")
