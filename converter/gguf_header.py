"""The header of a GGUF file: its metadata, and where its tensors lie.

Every count, size and offset is checked against the file's size and the limits here before it is used.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

from gpt2rt.converter.source_file import SourceFile
from gpt2rt.modelfile import MAX_N_LAYER, align

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 16 * MAX_N_LAYER
MAX_KEYS = 10_000
MAX_KEY = 65_535  # bytes
MAX_HEADER = 1 << 24  # bytes
MAX_TEXT = 1 << 20  # bytes of a string in the metadata
MAX_ITEMS = 900_000  # in all arrays of the metadata together
MAX_ALIGNMENT = 1 << 20
MAX_RANK = 4
ALIGNMENT = 32  # of the tensors, unless the file specifies another
PIECE = 1 << 20  # bytes read at a time

# {type of a value: struct's letter}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
U32, TEXT, LIST = 4, 8, 9
# {type: (name, values of a block, its bytes)}
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 8: ("Q8_0", 32, 34), 30: ("BF16", 1, 2)}
OTHER_TYPES = {
    **{2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"},
    **{20: "IQ4_NL", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"},
}


class MalformedGgufError(Exception):
    """Malformed bytes; the message is the rest of a sentence that begins with the path."""


class GgufTensor(NamedTuple):
    """Where a tensor lies: offset and size are in bytes, from the beginning of the file; shape is row-major."""

    offset: int
    kind: str
    shape: tuple[int, ...]
    size: int


def read_header(file: SourceFile) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Return the metadata and the tensors, both by name.

    Raises:
        MalformedGgufError: a value is invalid, or the file has not all that its header claims.
    """
    if not len(file):
        raise MalformedGgufError("the file is empty")
    scan = _Scan(file)
    if (magic := scan.take(min(4, len(file)))) != MAGIC:
        raise MalformedGgufError(f"it begins with {magic!r}, expected {MAGIC!r}")
    if (version := scan.number(4)) not in VERSIONS:
        raise MalformedGgufError(f"version {version}, expected 2 or 3 in little-endian order")
    n_tensors = scan.count("tensors", MAX_TENSORS)
    n_keys = scan.count("keys", MAX_KEYS)
    metadata: dict[str, Any] = {}
    alignment = ALIGNMENT
    for _ in range(n_keys):
        key, kind = scan.text("a key", MAX_KEY), scan.number(4)
        if key in metadata:
            raise MalformedGgufError(f"key {key!r:.80} appears twice")
        metadata[key] = value = scan.value(kind)
        if key == "general.alignment":
            alignment = value if kind == U32 else 0
    if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise MalformedGgufError(f"general.alignment is {alignment}, expected a power of two of type u32")
    entries = [scan.tensor() for _ in range(n_tensors)]
    begin = align(scan.position, alignment)
    tensors: dict[str, GgufTensor] = {}
    for name, entry in entries:
        if entry.offset % alignment:
            raise MalformedGgufError(
                f"tensor {name!r:.80} is at byte {entry.offset}, expected a multiple of {alignment}"
            )
        end = begin + entry.offset + entry.size
        if end > len(file):
            raise MalformedGgufError(f"tensor {name!r:.80} ends at byte {end}, but the file has {len(file)} bytes")
        if name in tensors:
            raise MalformedGgufError(f"tensor {name!r:.80} appears twice")
        tensors[name] = entry._replace(offset=begin + entry.offset)
    return metadata, tensors


class _Scan:
    """A cursor over the header of a file."""

    def __init__(self, file: SourceFile):
        self._file, self._piece, self._at = file, b"", 0  # what was read, and where the cursor is in it
        self._begin = 0  # of the piece, in the file
        self._items_left = MAX_ITEMS

    @property
    def position(self) -> int:
        return self._begin + self._at

    def take(self, n_bytes: int) -> bytes:
        """Return the next bytes."""
        if self._at + n_bytes > len(self._piece):
            position = self.position
            if position + n_bytes > MAX_HEADER:
                raise MalformedGgufError(f"its header has more than {MAX_HEADER} bytes")
            if position + n_bytes > len(self._file):
                raise MalformedGgufError(
                    f"its header ends at byte {position + n_bytes} or later, but the file has {len(self._file)}"
                )
            self._piece = self._file[position : position + max(n_bytes, PIECE)]
            self._begin, self._at = position, 0
        self._at += n_bytes
        return self._piece[self._at - n_bytes : self._at]

    def number(self, n_bytes: int) -> int:
        return int.from_bytes(self.take(n_bytes), "little")

    def count(self, what: str, limit: int) -> int:
        count = self.number(8)
        if count > limit:
            raise MalformedGgufError(f"{count} {what}, expected at most {limit}")
        return count

    def text(self, what: str, limit: int) -> str:
        content = self.take(self.count(f"bytes of {what}", limit))
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise MalformedGgufError(f"a text is not UTF-8: {content!r:.80}") from None

    def scalars(self, kind: int, n: int) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{n}{SCALARS[kind]}")
        return layout.unpack(self.take(layout.size))

    def value(self, kind: int) -> Any:
        """Return a value of the metadata."""
        if kind == LIST:
            item, n_items = self.number(4), self.count("more array items", self._items_left)
            self._items_left -= n_items
            if item == TEXT:
                return [self.text("a string", MAX_TEXT) for _ in range(n_items)]
            if item in SCALARS:
                return list(self.scalars(item, n_items))
            raise MalformedGgufError(f"an array has items of unknown type {item}")
        if kind == TEXT:
            return self.text("a string", MAX_TEXT)
        if kind in SCALARS:
            return self.scalars(kind, 1)[0]
        raise MalformedGgufError(f"a value is of unknown type {kind}")

    def tensor(self) -> tuple[str, GgufTensor]:
        """Read the next tensor's entry and return its name and itself; its offset is that after the header."""
        name = self.text("a tensor name", MAX_KEY)
        rank = self.number(4)
        if rank > MAX_RANK:
            raise MalformedGgufError(f"tensor {name!r:.80} has {rank} dimensions, expected at most {MAX_RANK}")
        shape = tuple(self.number(8) for _ in range(rank))
        kind, offset = self.number(4), self.number(8)
        if kind not in TYPES:
            raise MalformedGgufError(
                f"tensor {name!r:.80} is of type {OTHER_TYPES.get(kind, kind)}, expected F32, F16, BF16 or Q8_0"
                " (use such a file)"
            )
        type_name, n_values, n_bytes = TYPES[kind]
        if shape and shape[0] % n_values:
            raise MalformedGgufError(
                f"tensor {name!r:.80} of {type_name} has rows of {shape[0]}, expected a multiple of 32"
            )
        return name, GgufTensor(offset, type_name, shape[::-1], math.prod(shape) // n_values * n_bytes)
