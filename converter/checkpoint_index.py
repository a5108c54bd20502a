"""The index of a TensorFlow checkpoint (V2): the list of tensors and the location of each.

It is a sorted table in LevelDB's format (its `doc/table_format.md`), whose values are protobuf messages (TensorFlow's
`tensor_bundle.proto`). Malformed input of any kind raises CheckpointError and nothing else.
"""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

from gpt2rt._modelfile import crc32c
from gpt2rt.errors import CheckpointError
from gpt2rt.regular_file import read_regular

MAGIC = 0xDB4775248B80FB57
FOOTER_SIZE = 48  # two block handles, zeros, magic
TRAILER_SIZE = 5  # of a block: compression type and checksum
UNCOMPRESSED = 0
BUNDLE_VERSION = 1  # the newest supported version

MAX_INDEX = 1 << 20  # bytes; 1558M with its optimizer's slots needs 80,000
MAX_ENTRIES = 100_000
MAX_KEY = 1024  # bytes
MAX_RANK = 16

DTYPES = {
    **{1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64"},
    **{9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 20: "resource", 22: "uint32", 23: "uint64"},
}

Entry = namedtuple("Entry", "dtype shape shard offset size checksum is_sliced")
Entry.__doc__ = """A tensor: dtype is TensorFlow's name; offset and size are in bytes, in data file number `shard`;
checksum is the CRC32C of these bytes; is_sliced says whether it was saved in pieces."""

Index = namedtuple("Index", "n_shards entries")
Index.__doc__ = "A whole index: the number of data files, and {tensor name: Entry}."


class UnsupportedCheckpointError(CheckpointError):
    """A checkpoint that appears valid but that only TensorFlow can read."""


class _MalformedError(Exception):
    """Malformed bytes; the message is the rest of a sentence that begins with the path."""


def unmasked(checksum: int) -> int:
    """Return the CRC32C that is stored as `checksum`: LevelDB rotates it and adds a constant."""
    rotated = (checksum - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read and check an index.

    Returns:
        An `Index`; no field of an entry is negative.

    Raises:
        CheckpointError: the file can't be read, is damaged, or was written by a big-endian machine.
        UnsupportedCheckpointError: its blocks are compressed.
    """
    try:
        content = read_regular(path, MAX_INDEX)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
    try:
        return _parse(path, content)
    except _MalformedError as error:
        raise CheckpointError(
            f"{path}: {error} (damaged, or not a checkpoint index; copy or download it again)"
        ) from None


def _parse(path: str | os.PathLike[str], content: bytes) -> Index:
    if len(content) < FOOTER_SIZE:
        raise _MalformedError(f"{len(content)} bytes, expected at least {FOOTER_SIZE}")
    footer = content[-FOOTER_SIZE:]
    magic = int.from_bytes(footer[-8:], "little")
    if magic != MAGIC:
        raise _MalformedError(f"it ends with the magic number {magic:016x}, expected {MAGIC:016x}")
    metaindex, position = _handle(footer[:-8], 0)
    index, _ = _handle(footer[:-8], position)
    _block(path, content, metaindex)  # empty in a checkpoint, so only checked

    n_shards: int | None = None
    entries: dict[str, Entry] = {}
    last: bytes | None = None
    n_read = 0  # bytes in blocks
    for _, value in _block_entries(_block(path, content, index)):
        block = _block(path, content, _handle(value, 0)[0])
        n_read += len(block)
        if n_read > len(content):
            raise _MalformedError("its blocks overlap")
        for key, message in _block_entries(block):
            if last is not None and key <= last:
                raise _MalformedError("its keys are not in order")
            last = key
            if n_shards is None:
                if key:
                    raise _MalformedError(f"its first key is {key!r}, expected the header's, which is empty")
                n_shards = _n_shards(path, message)
            elif key[:1] != b"\0":  # such keys are pieces of a sliced tensor
                entries[_text(key)] = _entry(message)
                if len(entries) > MAX_ENTRIES:
                    raise _MalformedError(f"more than {MAX_ENTRIES} entries")
    if n_shards is None:
        raise _MalformedError("it has no header")
    for name, entry in entries.items():
        if entry.shard >= n_shards:
            raise _MalformedError(f"tensor {name!r} is in data file {entry.shard}, expected 0 to {n_shards - 1}")
    return Index(n_shards, entries)


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise _MalformedError(f"a tensor name is not UTF-8: {key!r}") from None


def _varint(buffer: bytes, position: int) -> tuple[int, int]:
    """Return an unsigned number of up to 64 bits, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(buffer):
            raise _MalformedError("a number is truncated")
        byte = buffer[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, position
    raise _MalformedError("a number has more than 64 bits")


def _handle(buffer: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return the (offset, size) of a block, and the position after them."""
    offset, position = _varint(buffer, position)
    size, position = _varint(buffer, position)
    return (offset, size), position


def _block(path: str | os.PathLike[str], content: bytes, handle: tuple[int, int]) -> bytes:
    """Return the bytes of a block, after checking its bounds and checksum."""
    offset, size = handle
    end = offset + size
    if end + TRAILER_SIZE > len(content) - FOOTER_SIZE:
        limit = len(content) - FOOTER_SIZE
        raise _MalformedError(f"a block ends at byte {end + TRAILER_SIZE}, expected at most {limit}")
    stored = unmasked(int.from_bytes(content[end + 1 : end + TRAILER_SIZE], "little"))
    actual = crc32c(content[offset : end + 1])
    if stored != actual:
        raise _MalformedError(f"the block at byte {offset} has checksum {actual:08x}, expected {stored:08x}")
    if content[end] != UNCOMPRESSED:
        raise UnsupportedCheckpointError(f"{path}: its blocks are compressed")
    return content[offset:end]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a block; each key shares a prefix with the one before it."""
    if len(block) < 4:
        raise _MalformedError(f"a block of {len(block)} bytes, expected at least 4")
    limit = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")  # restart points serve only for searching
    if limit < 0:
        raise _MalformedError("a block is too short for its restart points")
    position, key = 0, b""
    while position < limit:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or shared + unshared > MAX_KEY or position + unshared + length > limit:
            raise _MalformedError("an entry extends past the end of its block")
        key = key[:shared] + block[position : position + unshared]
        position += unshared + length
        yield key, block[position - length : position]


_FIXED_SIZES = {1: 8, 5: 4}  # bytes, by wire type
_VARINT, _BYTES, _FIXED32 = 0, 2, 5


def _fields(message: bytes, wire_types: dict[int, int]) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) for the fields of a protobuf message listed in `wire_types`, {number: wire type}."""
    position = 0
    value: int | bytes
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
        elif wire_type == _BYTES or wire_type in _FIXED_SIZES:
            length = _FIXED_SIZES.get(wire_type)
            if length is None:
                length, position = _varint(message, position)
            if length > len(message) - position:
                raise _MalformedError("a message is truncated")
            value = message[position : position + length]
            position += length
        else:
            raise _MalformedError(f"a message has a field of wire type {wire_type}")
        if number in wire_types:
            if wire_type != wire_types[number]:
                raise _MalformedError(f"field {number} has wire type {wire_type}, expected {wire_types[number]}")
            yield number, value


def _n_shards(path: str | os.PathLike[str], message: bytes) -> int:
    """Parse the number of data files from a BundleHeaderProto.

    Its fields: 1 num_shards, 2 endianness, 3 version (2 min_consumer).
    """
    n_shards = 0
    for number, value in _fields(message, {1: _VARINT, 2: _VARINT, 3: _BYTES}):
        if number == 1:
            n_shards = value
        elif number == 2 and value:
            raise CheckpointError(
                f"{path}: written by a big-endian machine, expected little-endian (save it again on another machine)"
            )
        elif number == 3:
            for _, needed in _fields(value, {2: _VARINT}):
                if needed > BUNDLE_VERSION:
                    raise UnsupportedCheckpointError(f"{path}: requires a reader of version {needed}")
    if not 1 <= n_shards <= 99_999:  # five digits in the files' names
        raise _MalformedError(f"{n_shards} data files, expected 1 to 99999")
    return n_shards


def _entry(message: bytes) -> Entry:
    """Parse a BundleEntryProto: 1 dtype, 2 shape, 3 shard_id, 4 offset, 5 size, 6 crc32c, 7 slices."""
    numbers, checksum, is_sliced = {1: 0, 3: 0, 4: 0, 5: 0}, 0, False
    shape: tuple[int, ...] = ()
    wire_types = {1: _VARINT, 2: _BYTES, 3: _VARINT, 4: _VARINT, 5: _VARINT, 6: _FIXED32, 7: _BYTES}
    for number, value in _fields(message, wire_types):
        if number == 2:
            shape = _shape(value)
        elif number == 6:
            checksum = unmasked(int.from_bytes(value, "little"))
        elif number == 7:
            is_sliced = True
        elif value >> 63:
            raise _MalformedError("an entry contains a negative number")
        else:
            numbers[number] = value
    dtype = DTYPES.get(numbers[1], f"type {numbers[1]}")
    return Entry(dtype, shape, numbers[3], numbers[4], numbers[5], checksum, is_sliced)


def _shape(message: bytes) -> tuple[int, ...]:
    """Parse a TensorShapeProto (2 dim, 3 unknown_rank), whose dims have one field (1 size)."""
    shape: list[int] = []
    for number, value in _fields(message, {2: _BYTES, 3: _VARINT}):
        if number == 3:
            if value:
                raise _MalformedError("a tensor's rank is unknown")
            continue
        size = 0
        for _, size in _fields(value, {1: _VARINT}):  # noqa: B007 (the last one counts)
            pass
        if size >> 63 or len(shape) == MAX_RANK:
            raise _MalformedError(f"a tensor has a negative dimension, or more than {MAX_RANK} dimensions")
        shape.append(size)
    return tuple(shape)
