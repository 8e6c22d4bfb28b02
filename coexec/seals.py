"""Seals of compiled code in the cache: what is executed was put there by this user, whoever else may write to the folder.

A seal is the HMAC-SHA256 of a file's name and content with a key that only this user can read and that does not lie in the cache
(`COEXEC_KEY_FILE`). A cache that was copied from elsewhere, or written to by somebody else, is made anew; nothing of it is looked into.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import stat
from functools import lru_cache
from pathlib import Path

from . import settings

log = logging.getLogger("coexec")

#: Bytes of a seal, and of the key.
SIZE = 32


def sealed(name: str, data: bytes) -> bytes:
    """What to write into a file of that name: the seal, then the data."""
    return _seal(name, data) + data


def unsealed(name: str, content: bytes) -> bytes | None:
    """The data of a file of that name, or None where the seal is not ours, or another file's, or the content was changed."""
    data = content[SIZE:]
    return data if hmac.compare_digest(content[:SIZE], _seal(name, data)) else None


def _seal(name: str, data: bytes) -> bytes:
    made = hmac.new(_key(settings.get("key_file")), name.encode() + b"\0", "sha256")
    made.update(data)
    return made.digest()


@lru_cache(maxsize=8)
def _key(path: Path) -> bytes:
    """The key in that file, made where there is none; where it can be neither read nor made, one for this process alone."""
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("[%s] the key of the cache cannot be used: %s; compiled kernels are made anew each time; set COEXEC_KEY_FILE", path, reason)
        return secrets.token_bytes(SIZE)


def _make(path: Path) -> None:
    """A new key, whole from the moment it is there; of two processes that make one at once, the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(SIZE))
        try:
            os.link(part, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(part)


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        if facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077:
            raise ValueError("others can read it (expected a file of this user's, mode 600)")
        key = file.read(SIZE + 1)
    if len(key) != SIZE:
        raise ValueError(f"found {len(key)} bytes, expected {SIZE} (remove it, and a new one is made)")
    return key
