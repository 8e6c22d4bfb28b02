"""numba's files of compiled kernels, sealed: numba itself would unpickle, and so execute, whatever lies in its folder.

A file that is damaged, was copied from elsewhere or written by somebody else is as good as none: its kernel is compiled again.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

from ... import files, seals


class SealedFiles(IndexDataCacheFile):
    """The files of one function, where numba's cache of it would have its own: an index, and one for each kind of arguments."""

    def __init__(self, cache: FunctionCache):
        super().__init__(cache_path=cache.cache_path, filename_base=cache._impl.filename_base,
                         source_stamp=cache._impl.locator.get_source_stamp())

    def _load_index(self) -> dict[Any, str]:
        data = self._read(self._index_name)
        if data is None:
            return {}
        stream = io.BytesIO(data)
        if pickle.load(stream) != self._version:
            return {}
        stamp, names = pickle.load(stream)
        return names if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        data = self._read(name)
        if data is None:
            raise FileNotFoundError(name)  # numba's word for: compile it
        return pickle.loads(data)

    def _read(self, name: str) -> bytes | None:
        """What is in that file of the folder; None where there is none, or it is not ours."""
        try:
            with open(os.path.join(self._cache_path, name), "rb") as file:
                return seals.unsealed(name, file.read())
        except OSError:
            return None

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        files.write(filepath, seals.sealed(os.path.basename(filepath), content.getvalue()))
