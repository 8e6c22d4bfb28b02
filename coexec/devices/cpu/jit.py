"""numba as this package uses it: nogil, cached on disk beside profiles, compiled on first use.

This is the one module that touches numba's configuration; importing it imports numba (about a second), so only kernel files do.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher

from ... import settings
from .kernel_cache import SealedFiles

#: Reassociation and contraction are free; NaN and infinity keep their meaning (Relu of NaN is NaN, masks are -inf).
FASTMATH = {"reassoc", "contract", "nsz", "arcp", "afn"}
#: Without numba's reference counting: kernels allocate nothing, and a count per call of an inlined helper costs more than its work.
_COMMON = {"nogil": True, "error_model": "numpy", "_nrt": False}


@lru_cache(maxsize=1)
def cache_dir() -> str:
    """Where compiled kernels are kept: one folder per version of this package's kernels, or "" where nothing can be written.

    numba looks only at the file a function is in; the digest covers the helpers inlined into it too.
    """
    sources = b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))
    folder = Path(settings.get("cache_dir")) / "numba" / hashlib.sha256(sources).hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder) if os.access(folder, os.W_OK | os.X_OK) else ""


def kernel(function: Callable | None = None, **options: Any) -> Callable:
    """Decorator: a kernel that runs without the GIL. Arrays are passed flat (1-D, C order) with offsets and strides in elements."""
    if function is None:
        return lambda f: kernel(f, **options)
    wanted = {**_COMMON, "fastmath": FASTMATH, **options}
    if numba.config.CACHE_DIR:
        return _cached(function, wanted)
    folder = cache_dir()
    if not folder:
        return numba.njit(**wanted)(function)
    numba.config.CACHE_DIR = folder  # only while our own function looks it up: the user's functions keep their places
    try:
        return _cached(function, wanted)
    finally:
        numba.config.CACHE_DIR = ""


def _cached(function: Callable, wanted: dict[str, Any]) -> Callable:
    try:
        made = numba.njit(cache=True, **wanted)(function)
    except RuntimeError:  # numba found no place it may write to
        return numba.njit(**wanted)(function)
    made._cache._cache_file = SealedFiles(made._cache)
    return made


#: Kernels that are compiled, with the kinds of arguments: numba's own look takes as long as some kernels run.
_prepared: set[tuple[Any, ...]] = set()


def prepare(task: Callable) -> None:
    """Compiles the kernel behind a bound call (or loads it from the cache) without running it; other callables are left alone."""
    function = getattr(task, "func", None)
    if not isinstance(function, Dispatcher):
        return
    alike = (function, *(f"{a.dtype.char}{a.ndim}.{a.flags.num}" if type(a) is np.ndarray else type(a) for a in task.args))
    if alike in _prepared and tuple not in alike:
        return
    kinds = tuple(function.typeof_pyval(a) for a in task.args)
    try:
        function.compile(kinds)
    except OSError:  # the cache became unwritable, or its disk full, since it was looked at
        function._cache = NullCache()
        function.compile(kinds)
    _prepared.add(alike)


def inlined(function: Callable) -> Callable:
    """Decorator: a helper that LLVM inlines into the kernels that call it; its arithmetic is kept in the order written."""
    return numba.njit(fastmath={"contract", "nsz"}, forceinline=True, **_COMMON)(function)


def helper(function: Callable) -> Callable:
    """Decorator: a function that kernels call and that stays one, for what is long or called in many places."""
    return numba.njit(fastmath={"contract", "nsz"}, no_cpython_wrapper=True, **_COMMON)(function)


class _Memory:
    """Memory of an array under another shape, for numpy.asarray; keeps the array alive."""

    def __init__(self, owner: np.ndarray, count: int, dtype: np.dtype):
        self.owner = owner
        self.__array_interface__ = {"version": 3, "shape": (count,), "typestr": dtype.str, "data": (owner.ctypes.data, False)}


def flat(view: np.ndarray, dtype: Any = None) -> np.ndarray:
    """The memory from a view's first element to its last as one 1-D array, so that kernels see one type whatever the strides.

    It passes for writable even where the view is not (a constant): kernels are compiled for one kind of array. They write to outputs only.
    Where it is not aligned (a constant in a mapped file), a copy. With a dtype (bytes), elements of that type, where they lie.
    Raises ValueError for negative strides.
    """
    if dtype is None and not view.flags.aligned:
        return flat(view, np.uint8).copy().view(view.dtype)
    dtype = view.dtype if dtype is None else np.dtype(dtype)
    if not view.size:
        return np.empty(0, dtype)
    if any(s < 0 for s in view.strides):
        raise ValueError("a view with negative strides has no flat form")
    nbytes = sum((n - 1) * s for n, s in zip(view.shape, view.strides)) + view.itemsize
    return np.asarray(_Memory(view, nbytes // dtype.itemsize, dtype))


def strides(view: np.ndarray) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(s // view.itemsize for s in view.strides)


def rows_contiguous(*views: np.ndarray | None) -> bool:
    """True where the last axis of each view has its elements side by side."""
    return all(v is None or v.ndim == 0 or v.shape[-1] <= 1 or v.strides[-1] == v.itemsize for v in views)
