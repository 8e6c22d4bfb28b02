"""Files appear whole or not at all, as other programs may read them, and nothing is left beside them."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from coexec import files


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("before", [None, "old"])
def test_what_was_there_stays_where_the_writer_fails(tmp_path, error, before):
    target = tmp_path / "a.txt"
    if before is not None:
        target.write_text(before)
    with pytest.raises(error), files.written(target) as file:
        file.write("half of ")
        file.flush()
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_the_umask_says_who_may_read_it(tmp_path, umask):
    files.write(tmp_path / "a", b"\x00\r\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\r\n" and stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    with files.written(tmp_path / "b", permissions=0o600):
        pass
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


def test_text_is_written_as_it_is(tmp_path):
    files.write(tmp_path / "a", "µs\r\n\n")
    assert (tmp_path / "a").read_bytes() == "µs\r\n\n".encode()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far" / "a")
    files.write(tmp_path / "near", "x")
    assert (tmp_path / "near").is_symlink() and (tmp_path / "far" / "a").read_text() == "x"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write(tmp_path / "pipe", "through")
    reader.join(10)
    assert got == ["through"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_the_cache_makes_its_folder_and_says_where_it_cannot(tmp_path):
    files.keep(tmp_path / "a" / "b" / "c.json", "{}")
    assert (tmp_path / "a" / "b" / "c.json").read_text() == "{}"
    with pytest.raises(OSError):
        files.keep(tmp_path / "a" / "b" / "c.json" / "d", "{}")


def test_names_as_long_as_the_system_takes(tmp_path):
    name = "n" * 250 + ".json"
    files.write(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]
