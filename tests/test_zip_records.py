"""The records of a ZIP archive, and each way in which its directory can be malformed."""

import io
import struct
import zipfile

import pytest

from gpt2rt.converter.source_file import SourceFile
from gpt2rt.converter.zip_records import BadZipError, read_records

RECORDS = {"x/data.pkl": b"pickle", "x/data/01": bytes(range(40)), "x/version": b"3\n"}
# Offsets of the fields of an entry of the directory, and of the end of the directory.
FLAGS, COMPRESSED, SIZE, N_NAME, N_EXTRA, N_COMMENT, OFFSET, NAME = 8, 20, 24, 28, 30, 32, 42, 46
DISK, FIRST_DISK, N_RECORDS, DIRECTORY_SIZE, DIRECTORY = 4, 6, 10, 12, 16


@pytest.fixture
def archive():
    """The content of a sound archive, where it has its last entry, and its end."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in RECORDS.items():
            made.writestr(name, content)
    content = bytearray(buffer.getvalue())
    return content, content.rindex(b"PK\1\2"), content.rindex(b"PK\5\6")


@pytest.fixture
def read(tmp_path):
    def read(content):
        (tmp_path / "x.zip").write_bytes(content)
        return read_records(SourceFile(tmp_path / "x.zip"))

    return read


def test_records_lie_where_the_directory_says(archive, read):
    content, *_ = archive
    found = read(content)
    assert {name: content[one.offset : one.offset + one.size] for name, one in found.items()} == RECORDS


@pytest.mark.parametrize("name", RECORDS)
def test_a_changed_record_is_damaged(archive, read, tmp_path, name):
    content, *_ = archive
    content[read(content)[name].offset] ^= 1
    found, file = read(content), SourceFile(tmp_path / "x.zip")
    assert [each for each, one in found.items() if one.is_damaged(file)] == [name]


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (N_NAME, 1, "an entry of its directory ends after byte"),
        (N_EXTRA, 1, "an entry of its directory ends after byte"),
        (N_COMMENT, 1, "an entry of its directory ends after byte"),
        (FLAGS, 1, "record 'x/version' is encrypted"),
        (SIZE, 1, "record 'x/version' is compressed"),
        (COMPRESSED, 1, "record 'x/version' is compressed"),
        (OFFSET, 1, "record 'x/version' does not begin at byte"),
        (0, 1, "its directory has no entry at byte"),
    ],
)
def test_a_malformed_entry_is_refused(archive, read, field, change, message):
    content, entry, _ = archive
    content[entry + field] += change
    with pytest.raises(BadZipError, match=message):
        read(content)


def test_a_record_that_runs_into_the_directory_is_refused(archive, read):
    content, entry, _ = archive
    for field in (SIZE, COMPRESSED):
        content[entry + field] += 1
    with pytest.raises(BadZipError, match=r"record 'x/version' ends at byte \d+, expected at most \d+"):
        read(content)


def test_two_records_with_one_name_are_refused(archive, read):
    content, entry, _ = archive
    content[entry + NAME : entry + NAME + 9] = b"x/data/00"  # of the last record
    with pytest.raises(BadZipError, match="record 'x/data/00' appears twice"):
        read(content.replace(b"x/data/01", b"x/data/00"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (0, b"XX", "it has no directory at its end"),
        (DISK, b"\1", "it is one part of several"),
        (FIRST_DISK, b"\1", "it is one part of several"),
        (N_RECORDS, b"\xff\xff", "it has no 64-bit directory"),
        (DIRECTORY_SIZE, b"\xff\xff\xff\xff", "it has no 64-bit directory"),
        (DIRECTORY, b"\xff\xff\xff\xff", "it has no 64-bit directory"),
    ],
)
def test_a_malformed_end_is_refused(archive, read, field, value, message):
    content, _, end = archive
    content[end + field : end + field + len(value)] = value
    with pytest.raises(BadZipError, match=message):
        read(content)


def test_a_directory_that_runs_into_its_end_is_refused(archive, read):
    content, _, end = archive
    (size,) = struct.unpack_from("<I", content, end + DIRECTORY_SIZE)
    struct.pack_into("<I", content, end + DIRECTORY_SIZE, size + 1)
    with pytest.raises(BadZipError, match=rf"its directory ends at byte {end + 1}, expected at most {end}"):
        read(content)


def test_an_entry_more_than_there_are_is_refused(archive, read):
    content, _, end = archive
    content[end + N_RECORDS] += 1
    with pytest.raises(BadZipError):
        read(content)


# --- numbers of 64 bits


@pytest.fixture
def large(monkeypatch):
    """An archive that holds its numbers as one of more than 4 GB does, where its last entry's 64-bit numbers begin."""
    for name in ("ZIP64_LIMIT", "ZIP_FILECOUNT_LIMIT"):
        monkeypatch.setattr(zipfile, name, 1)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in RECORDS.items():
            made.writestr(name, content)
    content = bytearray(buffer.getvalue())
    end = content.rindex(b"PK\5\6")  # zipfile leaves the numbers here, where they fit
    content[end + N_RECORDS : end + DIRECTORY + 4] = b"\xff" * 10
    return content, content.index(b"x/version", content.rindex(b"PK\1\2")) + len("x/version")


def test_records_of_a_large_archive_are_found(large, read):
    content, extra = large
    assert content[extra : extra + 2] == b"\1\0"
    found = read(content)
    assert {name: content[one.offset : one.offset + one.size] for name, one in found.items()} == RECORDS


@pytest.mark.parametrize(("at", "value"), [(0, 2), (2, 15), (2, 0)])
def test_an_entry_without_its_64_bit_numbers_is_refused(large, read, at, value):
    content, extra = large
    content[extra + at] = value
    with pytest.raises(BadZipError, match="an entry of its directory lacks its 64-bit numbers"):
        read(content)


@pytest.mark.parametrize(
    ("signature", "message"),
    [(b"PK\6\7", "it has no 64-bit directory"), (b"PK\6\6", "its 64-bit directory does not end at byte")],
)
def test_a_large_archive_without_its_directory_is_refused(large, read, signature, message):
    content, _ = large
    content[content.rindex(signature)] ^= 1
    with pytest.raises(BadZipError, match=message):
        read(content)
