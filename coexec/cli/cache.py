"""Shows or empties the cache: this machine's profile, compiled kernels, tuning results, checked plans. Everything in it can be made again."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from .. import settings
from ..errors import UsageError
from .console import Console, table

HELP = "what is kept between runs"
EXAMPLES = (
    "coexec cache info",
    "coexec cache clear         # everything",
    "coexec cache clear opencl  # compiled kernels only",
)
NOTES = """Sizes are in bytes with --json. COEXEC_CACHE_DIR moves the cache; `clear` removes only coexec's own folders in it."""

#: Folders of the cache and what they hold. Nothing else is ever removed: COEXEC_CACHE_DIR may point at a folder with other things in it.
PARTS = {
    "profiles": "profiles of this machine",
    "opencl": "compiled OpenCL kernels",
    "numba": "compiled CPU kernels",
    "tuning": "kernel choices",
    "plans": "plans that --verify kept",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("info", "clear"), metavar="info|clear", help="show what is kept, and how large it is; or remove it")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")


def execute(options: argparse.Namespace, console: Console) -> int:
    for part in options.parts:
        if part not in PARTS:
            raise UsageError(f"the cache has no part '{part}'", expected=", ".join(PARTS))
    folder = settings.get("cache_dir")
    rows = {part: measure(folder / part) for part in options.parts or PARTS}
    if options.action == "clear":
        for part in rows:
            remove(folder / part)
    cleared = options.action == "clear"
    console.emit({"cache_dir": str(folder), "cleared": cleared, "parts": {p: {"files": n, "bytes": size} for p, (n, size) in rows.items()}})
    console.result(f"{'Cleared' if cleared else 'Cache'}: {folder}")
    console.result(
        table([(p, n, f"{size / 1e6:.2f} MB", PARTS[p]) for p, (n, size) in rows.items()], ("part", "files", "size", "what"), "lrrl")
    )
    return 0


def measure(folder: Path) -> tuple[int, int]:
    """(files, bytes) below a folder."""
    sizes = [p.lstat().st_size for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()] if folder.is_dir() else []
    return len(sizes), sum(sizes)


def remove(folder: Path) -> None:
    """Removes a folder; a link is unlinked, what it points to stays. Raises OSError."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
