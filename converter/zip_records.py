"""The records of a zip archive whose content is stored as it is: where each lies in the file.

torch.save writes such archives. The standard library's zipfile reads through a copy, and trusts counts that a damaged
file may claim; here each number is checked against the file's size first.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

from gpt2rt.converter.source_file import SourceFile

MAX_RECORDS = 1 << 15
MAX_COMMENT = 1 << 16  # bytes between the end record and the end of the file
PIECE = 4 << 20  # bytes checked at a time

CENTRAL = struct.Struct("<4s6H3I5H2I")  # an entry of the directory, up to its name
LOCAL = struct.Struct("<4s5H3I2H")  # the header before a record, up to its name
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR64 = struct.Struct("<4sIQI")
ENCRYPTED = 1  # a bit of the flags
IN_EXTRA = 0xFFFFFFFF  # instead of a number that needs 64 bits and is in the entry's extra field


class BadZipError(Exception):
    """A malformed archive; the message is the rest of a sentence that begins with the path."""


class Record(NamedTuple):
    """Where a record lies, in bytes, and its CRC-32; 0 where none was computed."""

    offset: int
    size: int
    checksum: int

    def is_damaged(self, file: SourceFile) -> bool:
        """Return whether the record differs from its checksum."""
        if not self.checksum:
            return False
        checksum = 0
        for begin in range(self.offset, self.offset + self.size, PIECE):
            checksum = zlib.crc32(file[begin : min(begin + PIECE, self.offset + self.size)], checksum)
        return checksum != self.checksum


def read_records(file: SourceFile) -> dict[str, Record]:
    """Return the records of an archive by name.

    Raises:
        BadZipError: it is damaged or too large, or a record is compressed or encrypted.
    """
    position, end, n_records = _directory(file)
    if n_records > MAX_RECORDS:
        raise BadZipError(f"{n_records} records, expected at most {MAX_RECORDS}")
    records: dict[str, Record] = {}
    directory = position
    for _ in range(n_records):
        entry = _unpacked(CENTRAL, file, position, end)
        if entry[0] != b"PK\1\2":
            raise BadZipError(f"its directory has no entry at byte {position}")
        flags, method, checksum, compressed, size, n_name, n_extra, n_comment, offset = (
            entry[3:5] + entry[7:13] + entry[16:]
        )
        position += CENTRAL.size
        if position + n_name + n_extra + n_comment > end:
            raise BadZipError(f"an entry of its directory ends after byte {end}")
        name = file[position : position + n_name].decode(errors="replace")
        extra = file[position + n_name : position + n_name + n_extra]
        size, compressed, offset = _wide(extra, [size, compressed, offset])
        position += n_name + n_extra + n_comment
        if method or compressed != size:
            raise BadZipError(f"record {name!r:.80} is compressed, expected the archive that torch.save wrote")
        if flags & ENCRYPTED:
            raise BadZipError(f"record {name!r:.80} is encrypted")
        header = _unpacked(LOCAL, file, offset, directory)
        if header[0] != b"PK\3\4":
            raise BadZipError(f"record {name!r:.80} does not begin at byte {offset}")
        begin = offset + LOCAL.size + header[9] + header[10]
        if begin + size > directory:
            raise BadZipError(f"record {name!r:.80} ends at byte {begin + size}, expected at most {directory}")
        if name in records:
            raise BadZipError(f"record {name!r:.80} appears twice")
        records[name] = Record(begin, size, checksum)
    return records


def _directory(file: SourceFile) -> tuple[int, int, int]:
    """Return where the directory begins and ends, and the number of its entries."""
    begin = max(0, len(file) - MAX_COMMENT - END.size)
    at = begin + file[begin:].rfind(b"PK\5\6")
    if at < begin:
        raise BadZipError("it has no directory at its end")
    _, disk, first_disk, _, n_records, size, begin, _ = _unpacked(END, file, at, len(file))
    if n_records == 0xFFFF or IN_EXTRA in (size, begin):
        locator, _, at, _ = _unpacked(LOCATOR64, file, at - LOCATOR64.size, at)
        if locator != b"PK\6\7":
            raise BadZipError("it has no 64-bit directory")
        sign, _, _, _, disk, first_disk, _, n_records, size, begin = _unpacked(END64, file, at, len(file))
        if sign != b"PK\6\6":
            raise BadZipError(f"its 64-bit directory does not end at byte {at}")
    if disk or first_disk:
        raise BadZipError("it is one part of several")
    if begin + size > at:
        raise BadZipError(f"its directory ends at byte {begin + size}, expected at most {at}")
    return begin, begin + size, n_records


def _unpacked(layout: struct.Struct, file: SourceFile, position: int, end: int) -> tuple[Any, ...]:
    if not 0 <= position <= end - layout.size:
        raise BadZipError(f"its header at byte {position} ends after byte {end}")
    return file.unpack(layout, position)


def _wide(extra: bytes, numbers: list[int]) -> list[int]:
    """Return the numbers of an entry, with those that need 64 bits taken from its extra field."""
    if IN_EXTRA not in numbers:
        return numbers
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            n_wide = numbers.count(IN_EXTRA)
            if size < 8 * n_wide or position + 4 + 8 * n_wide > len(extra):
                break
            wide = iter(struct.unpack_from(f"<{n_wide}Q", extra, position + 4))
            return [next(wide) if number == IN_EXTRA else number for number in numbers]
        position += 4 + size
    raise BadZipError("an entry of its directory lacks its 64-bit numbers")
