"""Numbers nearer to zero than the smallest that has all its digits (1.2e-38 as float32) count as zero while a run lasts.

An x86 core takes many times as long for a sum or product that meets one, and trained models are full of them: what training let fade
away never quite reaches zero. Of the answers nobody sees a digit of it. GPUs of phones do not know such numbers at all, and other cores
compute with them as quickly as with any. COEXEC_DENORMALS=1 keeps them.
"""

from __future__ import annotations

import platform
import sys
import threading

#: In an x86 core's control word: results that are denormal, and operands that are, count as zero.
FLUSH = 0x8000 | 0x0040

POSSIBLE = platform.machine().lower() in ("x86_64", "amd64")


class _Thread(threading.local):
    depth = 0
    word: int | None = None


_thread = _Thread()


def flush() -> None:
    """From here on, on this thread, until as many `restore`. Where nothing else has needed numba yet, nothing happens: it would take a second."""
    if _thread.depth == 0 and POSSIBLE and "coexec.devices.cpu.jit" in sys.modules:
        from .control import exchange

        _thread.word = exchange(FLUSH, -1)
    _thread.depth += 1


def restore() -> None:
    """Ends what the `flush` before it began; the last one gives the thread back as it was."""
    _thread.depth -= 1
    if _thread.depth == 0 and _thread.word is not None:
        from .control import exchange

        word, _thread.word = _thread.word, None
        exchange(0, word)
