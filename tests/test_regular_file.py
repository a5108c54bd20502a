"""Files are read with a limit, and only if they are regular."""

import os
import stat
import sys
import tracemalloc

import pytest

from gpt2rt.regular_file import open_regular, read_regular

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")


@POSIX
def test_a_pipe_is_not_opened_at_all(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe"):  # opening it would wait for a writer
        open_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a device"):
        read_regular("/dev/zero", 10)
    with pytest.raises(OSError, match="null"):
        open_regular("a\0b")


@pytest.mark.parametrize("size", [0, 10, 11])
def test_a_file_is_read_up_to_its_limit(tmp_path, size):
    (tmp_path / "x").write_bytes(b"a" * size)
    if size <= 10:
        assert read_regular(tmp_path / "x", 10) == b"a" * size
    else:
        with pytest.raises(OSError, match="11 bytes, expected at most 10"):
            read_regular(tmp_path / "x", 10)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_a_file_with_more_than_its_size_says_is_refused():
    assert os.stat("/proc/self/status").st_size == 0
    with pytest.raises(OSError, match="11 bytes, expected at most 10"):
        read_regular("/proc/self/status", 10)


def test_a_small_file_takes_no_more_memory_where_a_large_one_is_allowed(tmp_path):
    (tmp_path / "small").write_bytes(b"1234")
    tracemalloc.start()
    try:
        assert read_regular(tmp_path / "small", 1 << 26) == b"1234"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@POSIX
def test_a_file_that_grows_while_it_is_read_is_read_to_its_limit(tmp_path, monkeypatch):
    (tmp_path / "growing").write_bytes(b"12345678")
    fstat = os.fstat

    def earlier(descriptor):
        status = list(fstat(descriptor))
        status[stat.ST_SIZE] = 4
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", earlier)
    assert read_regular(tmp_path / "growing", 8) == b"12345678"
    with pytest.raises(OSError, match="8 bytes, expected at most 7"):
        read_regular(tmp_path / "growing", 7)
