"""The C library's heap while a driver builds programs.

PoCL 3.1 reads a program's bitcode into a buffer of 2 MiB and keeps it, whatever the bitcode's size (`pocl_read_file`, seen by a hook on malloc).
Where glibc takes that from its heap it comes out of what the compiler has just used and given back, so that every program holds memory that
nobody reads (`tools/bench_creation.py` shows it). Taken from the system by itself it costs the few pages that are read.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

#: mallopt's numbers (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: From this size on a block is taken from the system by itself while a program is built; otherwise from this one on, which glibc itself comes
#: to in a process that works with arrays (DEFAULT_MMAP_THRESHOLD_MAX of 64-bit machines), and gives back at the top what is twice as much.
BUILDING_BYTES, OTHERWISE_BYTES = 1 << 20, 32 << 20


@contextmanager
def blocks_apart() -> Iterator[None]:
    """Large blocks lie apart from the heap meanwhile; what was freed is given back at the end. One thread at a time. Nothing but glibc's heap."""
    functions = _glibc()
    if functions is None:
        yield
        return
    mallopt, trim = functions
    mallopt(_MMAP_THRESHOLD, BUILDING_BYTES)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, OTHERWISE_BYTES)
        mallopt(_TRIM_THRESHOLD, 2 * OTHERWISE_BYTES)
        trim(0)


@cache
def _glibc() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    """mallopt and malloc_trim; None where the C library is another."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return None
    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        return None
