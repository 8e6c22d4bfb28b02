"""What a caller hands in, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, suggest
from ..graph.ir import Value


def check_feeds(inputs: Sequence[Value], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The feeds as arrays, one for each graph input. Raises InputError naming the input, what was found and what was expected.

    Symbolic dimensions accept any size; two inputs that share a symbol must agree on it.
    """
    if not isinstance(feeds, Mapping):
        raise InputError("feeds must be a dict of input names and arrays", found=type(feeds).__name__, expected=_all(inputs))
    known = {v.name: v for v in inputs}
    for name in feeds:
        if name not in known:
            raise InputError(f"the model has no input '{name}'", expected=_all(inputs), hint=suggest(str(name), known))
    missing = [v for v in inputs if v.name not in feeds]
    if missing:
        raise InputError(f"missing input {_all(missing)}", found=", ".join(map(str, feeds)) or "no feeds", expected=_all(inputs))
    sizes: dict[str, int] = {}
    return {v.name: _one(v, feeds[v.name], sizes) for v in inputs}


class Familiar:
    """Feeds as they passed the checks last, by name, element type and shape: such pass again.

    After a run the caches hold that run's data; the whole checks then cost what a small kernel does.
    """

    def __init__(self) -> None:
        self._known: tuple[tuple[str, np.dtype, tuple[int, ...]], ...] = ()

    def learn(self, feeds: Mapping[str, Any]) -> None:
        """Feeds that passed. Those that the checks may convert (lists, strings, optional values) are never familiar."""
        plain = all(type(a) is np.ndarray and a.dtype != object for a in feeds.values())
        self._known = tuple((name, a.dtype, a.shape) for name, a in feeds.items()) if plain else ()

    def knows(self, feeds: Any) -> bool:
        """True where `feeds` is a dict of arrays like those learnt."""
        known = self._known
        if type(feeds) is not dict or len(feeds) != len(known):
            return False
        for name, dtype, shape in known:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                return False
        return bool(known)


def _one(value: Value, feed: Any, sizes: dict[str, int]) -> Any:
    declared = value.type
    if declared.dtype is None:
        return feed
    where = f"input '{value.name}'"
    try:
        array = np.asarray(feed)
    except (ValueError, TypeError) as error:
        raise InputError("not an array", where=where, found=str(error)[:100], expected=str(declared)) from None
    if declared.dtype == object:
        array = array.astype(object)
    elif array.dtype != declared.dtype:
        raise InputError("wrong element type", where=where, found=array.dtype, expected=declared.dtype,
                         hint=f"convert it with .astype('{declared.dtype}')")
    if declared.shape is None:
        return array
    fits = array.ndim == len(declared.shape) and all(not isinstance(d, int) or d == n for d, n in zip(declared.shape, array.shape))
    if not fits:
        raise InputError("wrong shape", where=where, found=list(array.shape), expected=str(declared))
    for symbol, size in zip(declared.shape, array.shape):
        if isinstance(symbol, str) and sizes.setdefault(symbol, size) != size:
            raise InputError(f"dimension '{symbol}' has two sizes", where=where, found=size, expected=sizes[symbol])
    return array


def _all(inputs: Sequence[Value]) -> str:
    return ", ".join(f"'{v.name}' {v.type}" for v in inputs) or "no inputs"
