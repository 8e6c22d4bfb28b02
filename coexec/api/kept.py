"""The prepared runs that a session keeps, by the input shapes, and values that decide shapes, that each was made for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ..runtime.executor import PreparedRun
from ..runtime.recovery import abandon, far_devices, retire

#: So many; the least recently used goes first.
KEPT_SHAPES = 4


class Kept:
    """Prepared runs by key. `current`: the one that ran last, None where there is none or it is gone."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple | None, PreparedRun] = OrderedDict()
        self.current: PreparedRun | None = None

    def __iter__(self) -> Iterator[PreparedRun]:
        return iter(self._runs.values())

    def use(self, key: tuple) -> PreparedRun | None:
        """What was prepared for that, which is the current one from now on; None where nothing was."""
        if key not in self._runs:
            return None
        self._runs.move_to_end(key)
        self.current = self._runs[key]
        return self.current

    def put(self, key: tuple | None, prepared: PreparedRun) -> None:
        """Keeps it as the current one, in the place of what was kept for that key: ending it is the caller's. Closes what is one too many."""
        self._runs[key] = self.current = prepared
        while len(self._runs) > KEPT_SHAPES:
            self._runs.popitem(last=False)[1].close()

    def forget(self, prepared: PreparedRun) -> tuple | None:
        """Keeps it no longer: ending it is the caller's. Returns what it was kept for."""
        key = next((k for k, p in self._runs.items() if p is prepared), None)
        self._runs.pop(key, None)
        if self.current is prepared:
            self.current = None
        return key

    def succeed(self, prepared: PreparedRun, successor: PreparedRun) -> None:
        """Another run takes the place of that one, which ends."""
        self.put(next(k for k, p in self._runs.items() if p is prepared), successor)
        retire(prepared)

    def abandon_far(self) -> None:
        """Gives up all that use a device which may not answer any more."""
        for prepared in [p for p in self if far_devices(p.plan)]:
            abandon(prepared)
            self.forget(prepared)

    def retire(self) -> None:
        """Ends all, whatever their devices say to it."""
        for prepared in self:
            retire(prepared)
        self._runs.clear()
        self.current = None

    def close(self) -> None:
        """Ends all."""
        for prepared in self:
            prepared.close()
        self._runs.clear()
        self.current = None
