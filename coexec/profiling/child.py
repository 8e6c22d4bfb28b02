"""Processes of coexec's own."""

from __future__ import annotations

import sys


def running(module: str) -> list[str]:
    """What runs `main(arguments)` of that module of coexec in another process, arguments to follow.

    It finds what this process finds: `python -m` would look into the working directory first, and run whatever lies there under a module's name.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main(sys.argv[1:])"]
