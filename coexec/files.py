"""Files that appear whole or not at all: whoever is killed, interrupted or out of disk while he writes leaves what was there before.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     write(Path(folder) / "a.txt", "whole")
...     (Path(folder) / "a.txt").read_text()
'whole'
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def written(path: str | os.PathLike[str], mode: str = "w", permissions: int = 0o666) -> Iterator[Any]:
    """A file open for writing (`w`, text in UTF-8, or `wb`) that takes the place of `path` when the block ends, and is gone where it raises.

    The block writes to a file of another name beside it. A link stays one; what is no ordinary file (/dev/stdout, a pipe) is written to
    directly. permissions: as for open(2), less the user's umask. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    if _is_special(target):
        with open(target, mode, **text) as file:  # type: ignore[call-overload]
            yield file
        return
    part = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), permissions)
    try:
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes that file, whole or not at all. Raises OSError."""
    with written(path, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)


def keep(path: Path, content: str | bytes) -> None:
    """The same for a file of the cache, whose folder is made where it is missing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)


def _is_special(path: Path) -> bool:
    try:
        kind = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)
