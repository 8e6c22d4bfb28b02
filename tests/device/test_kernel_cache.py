"""Compiled kernels of the CPU on disk: found again, and never believed where they are not this user's own."""

from __future__ import annotations

import os
import pickle
import stat
import threading

import numpy as np
import pytest

from coexec import seals, settings
from coexec.devices.cpu import jit

executed: list[str] = []


def go_off(what: str) -> None:
    executed.append(what)


class Bomb:
    def __reduce__(self):
        return go_off, ("a file of the cache",)


def twice(x):
    for i in range(x.size):
        x[i] *= 2


@pytest.fixture
def own(tmp_path):
    """A cache and a key of the test's own."""
    with settings.override(cache_dir=tmp_path / "cache", key_file=tmp_path / "state" / "key"):
        forget()
        yield tmp_path
    forget()


def forget() -> None:
    jit.cache_dir.cache_clear()
    seals._key.cache_clear()


def hits() -> int:
    """How often a new process would find the kernel on disk; the kernel is right in any case."""
    function, x = jit.kernel(twice), np.arange(5.0)
    function(x)
    np.testing.assert_array_equal(x, 2 * np.arange(5.0))
    return sum(function.stats.cache_hits.values())


def kept(folder) -> list:
    return sorted(p for p in (folder / "cache").rglob("*") if p.is_file())


def test_a_kernel_is_found_again(own):
    assert hits() == 0 and {p.suffix for p in kept(own)} == {".nbi", ".nbc"}
    assert hits() == 1
    forget()
    assert hits() == 1, "the key was read again"


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "flipped", "bomb", "bomb behind the old seal", "swapped"])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_file_that_is_not_ours_is_not_executed(own, damage, suffix):
    hits()
    path, = (p for p in kept(own) if p.suffix == suffix)
    good, bomb = path.read_bytes(), pickle.dumps("0") + pickle.dumps(Bomb()) if suffix == ".nbi" else pickle.dumps(Bomb())
    path.write_bytes({"empty": b"", "cut": good[:len(good) // 2], "noise": os.urandom(len(good)), "flipped": good[:-1] + bytes([good[-1] ^ 1]),
                      "bomb": bomb, "bomb behind the old seal": good[:seals.SIZE] + bomb,
                      "swapped": seals.sealed("another", good[seals.SIZE:])}[damage])
    assert hits() == 0 and not executed
    assert hits() == 1 and not executed, "it was written anew"
    assert not [p for p in kept(own) if p.suffix == ".part"]


def test_a_bomb_would_go_off():
    """What the tests above throw does execute code where it is unpickled."""
    pickle.loads(pickle.dumps(Bomb()))
    assert executed.pop() == "a file of the cache"


def test_a_cache_from_elsewhere_is_made_anew(own):
    hits()
    (own / "state" / "key").unlink()
    forget()
    assert hits() == 0 and hits() == 1


def test_the_key_is_this_users_alone(own):
    hits()
    key = own / "state" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == seals.SIZE
    assert [p.name for p in key.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("wrong", ["others may read it", "too short", "a folder", "no folder to be in"])
def test_a_key_of_no_use_is_one_warning_and_nothing_is_believed(own, caplog, wrong):
    key = own / "state" / "key"
    hits()
    if wrong == "others may read it":
        key.chmod(0o644)
    elif wrong == "too short":
        key.write_bytes(b"short")
    elif wrong == "a folder":
        key.unlink()
        key.mkdir()
    else:
        key.unlink()
        key.parent.rmdir()
        key.parent.write_text("")
    forget()
    assert hits() == 0
    said, = (r.getMessage() for r in caplog.records if "key of the cache" in r.getMessage())
    assert "COEXEC_KEY_FILE" in said and "\n" not in said
    assert hits() == 1, "within the process it is"
    forget()
    assert hits() == 0, "and in no other"


def test_two_who_make_a_key_at_once_have_the_same(tmp_path):
    for turn in range(20):
        path, ready, keys = tmp_path / str(turn) / "key", threading.Barrier(4), []

        def make(path=path, ready=ready, keys=keys):
            ready.wait()
            seals._make(path)
            keys.append(seals._read(path))

        team = [threading.Thread(target=make) for _ in range(4)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        assert len(keys) == 4 and len(set(keys)) == 1
