"""Memory that the system really gave: Linux hands out a page when it is first touched."""

from __future__ import annotations

import mmap

import numpy as np


def touched_bytes(address: int, nbytes: int) -> int | None:
    """Bytes of the pages of this process that hold such a range and are in memory by now. None where the system does not tell.

    Linux says in /proc/self/pagemap which are there: bit 63 of each page's word.
    """
    page = mmap.PAGESIZE
    first, last = address // page, -(-(address + nbytes) // page)
    try:
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(first * 8)
            words = np.frombuffer(file.read((last - first) * 8), np.uint64)
    except OSError:
        return None
    return int(np.count_nonzero(words >> np.uint64(63))) * page
