"""The reader of model files: opens, maps and validates them.

`docs/format.md` is normative; `validate()` checks the same list in the same order.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator

from gpt2rt._kernels import crc32c
from gpt2rt.errors import ModelFileError, UsageError
from gpt2rt.modelfile.layout import (
    ALIGNMENT,
    CHECKSUM,
    CHECKSUM_OFFSET,
    CONTROLS,
    FLAG_HEAD,
    GROUP_SIZES,
    HEADER,
    MAGIC,
    MAX_EOS,
    MAX_METADATA,
    MAX_TOKEN_BYTES,
    QUANTIZED,
    SECTION,
    SECTION_TABLE,
    SECTIONS,
    TENSOR_ALIGNMENT,
    VERSION,
    VERSIONS,
    VOCABULARY_HEADER,
    WEIGHT_TYPES,
    Hyperparameters,
    align,
    slots_for,
    tensor_table,
    vocabulary_tables,
)

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Path = str | os.PathLike[str]
    Metadata = dict[str, Any]


class ModelFile:
    """An open, validated model file: its header fields and read-only views of its sections.

    Attributes:
        path: the path passed in. size: bytes in the file.
        hyperparameters: `Hyperparameters`. weight_type: one of `WEIGHT_TYPES`.
        group_size: number of inputs that share a scale, 0 for float types.
        is_tied: whether `wte` is also the output head.
        sections: {name: memoryview}. checksums: {name: CRC32C}.
    """

    def __init__(self, path: Path, use_mmap: bool = True, prefetch: bool = True):
        """Open and validate a file in time that does not depend on the weights.

        Args:
            use_mmap: whether to map the file instead of reading it into memory.
            prefetch: whether to start reading a mapped file that is not in memory yet, for whoever uses the weights.

        Raises:
            ModelFileError: it is not a sound model file.
            UsageError: `path` is not a path.
        """
        try:
            self.path = os.fsdecode(path)
        except TypeError:
            raise UsageError(f"path: got {path!r:.80}, expected the path of a model file") from None
        try:
            if stat.S_ISFIFO(os.stat(self.path).st_mode):
                self._refuse("is a pipe, expected a model file")  # opening it could block forever
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < ALIGNMENT:
                    head = file.read(len(MAGIC))
                    if not MAGIC.startswith(head) or not head:
                        self._refuse(f"not a gpt2rt model file (it is {size} bytes long and starts with {head!r})")
                    self._refuse(f"{size} bytes, expected a header of {ALIGNMENT} (truncated? copy or convert again)")
                if use_mmap:
                    self._buffer: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    if prefetch and hasattr(mmap, "MADV_WILLNEED"):
                        self._buffer.madvise(mmap.MADV_WILLNEED)
                else:
                    self._buffer = file.read()
        except IsADirectoryError:
            self._refuse("is a folder, expected a model file (gpt2rt convert makes one from a checkpoint)")
        except FileNotFoundError:
            self._refuse("no such file (gpt2rt convert makes one from a checkpoint)")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            self._refuse(f"can't be opened: {getattr(error, 'strerror', None) or error}")
        self._view = memoryview(self._buffer)
        self.size = len(self._view)
        self.validate()

    def _refuse(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {what}")

    def validate(self) -> None:
        """Check everything listed in `docs/format.md` under "What a reader checks", in that order."""
        view = self._view
        magic, version, header_size, file_size, *numbers = HEADER.unpack_from(view)
        *five, type_code, group_size, flags = numbers
        if magic != MAGIC:
            self._refuse(f"not a gpt2rt model file (it starts with {magic!r}, expected {MAGIC!r})")
        if version not in VERSIONS:
            hint = "install a newer gpt2rt" if version > VERSION else "convert the checkpoint again"
            self._refuse(
                f"format version {version}, this gpt2rt reads versions {' and '.join(map(str, VERSIONS))} ({hint})"
            )
        stored = CHECKSUM.unpack_from(view, CHECKSUM_OFFSET)[0]
        actual = crc32c(view[:CHECKSUM_OFFSET])
        if stored != actual:
            self._refuse(f"the header is damaged: checksum {actual:08x}, expected {stored:08x} (copy or convert again)")
        if header_size != ALIGNMENT or flags & ~FLAG_HEAD:
            self._refuse(f"header size {header_size} and flags {flags:#x}, expected {ALIGNMENT} and 0 or 1")
        self.is_tied = not flags & FLAG_HEAD
        if file_size != self.size:
            hint = "truncated download?" if self.size < file_size else "something was appended?"
            self._refuse(f"{self.size} bytes, expected {file_size} from its header ({hint})")
        self.hyperparameters = Hyperparameters(*five)
        if problem := self.hyperparameters.problem():
            self._refuse(problem)
        if type_code >= len(WEIGHT_TYPES):
            self._refuse(f"weight type {type_code}, expected one of 0 to {len(WEIGHT_TYPES) - 1}")
        self.weight_type = WEIGHT_TYPES[type_code]
        self.group_size = group_size
        if self.weight_type in QUANTIZED and group_size not in GROUP_SIZES:
            self._refuse(f"group size {group_size}, expected one of {GROUP_SIZES}")
        if self.weight_type not in QUANTIZED and group_size:
            self._refuse(f"group size {group_size}, expected 0 for {self.weight_type}")

        self.sections, self.checksums, expected = {}, {}, ALIGNMENT
        for index, name in enumerate(SECTIONS):
            offset, length, checksum, reserved = SECTION.unpack_from(view, SECTION_TABLE + index * SECTION.size)
            if offset != expected or reserved:
                self._refuse(f"section {name!r} starts at byte {offset}, expected {expected}")
            if length > self.size or offset + length > self.size:
                self._refuse(f"section {name!r} ends at byte {offset + length}, but the file has {self.size}")
            self.sections[name] = view[offset : offset + length]
            self.checksums[name] = checksum
            expected = align(offset + length, ALIGNMENT)
        if offset + length != self.size:
            self._refuse(f"{self.size - offset - length} bytes after the last section, expected 0")

        if len(self.sections["metadata"]) > MAX_METADATA:
            self._refuse(f"metadata of {len(self.sections['metadata'])} bytes, expected at most {MAX_METADATA}")
        vocabulary = self.sections["vocabulary"]
        if len(vocabulary) < TENSOR_ALIGNMENT:
            self._refuse(f"section 'vocabulary' has {len(vocabulary)} bytes, expected at least {TENSOR_ALIGNMENT}")
        self._vocabulary_counts = VOCABULARY_HEADER.unpack_from(vocabulary)
        n_merges, n_slots, n_special, token_bytes, n_controls = self._vocabulary_counts
        n_vocab = self.hyperparameters.n_vocab
        if n_merges > n_vocab or n_special > n_vocab or n_slots != slots_for(n_merges) or token_bytes > MAX_TOKEN_BYTES:
            self._refuse(
                f"invalid vocabulary header for {n_vocab} tokens: {n_merges} merges in {n_slots} slots,"
                f" {n_special} special tokens and {token_bytes} bytes"
            )
        fixed = CONTROLS.size // 4
        if n_controls and (version == 1 or not fixed <= n_controls <= fixed + MAX_EOS):
            self._refuse(f"invalid vocabulary header: {n_controls} controls in a file of version {version}")
        last = vocabulary_tables(n_vocab, *self._vocabulary_counts)[-1]
        if last.offset + last.length != len(vocabulary):
            self._refuse(f"section 'vocabulary' has {len(vocabulary)} bytes, expected {last.offset + last.length}")
        self.tensors = tensor_table(self.hyperparameters, self.weight_type, self.group_size, self.is_tied)
        end = self.tensors[-1].offset + self.tensors[-1].length
        if end != len(self.sections["weights"]):
            self._refuse(
                f"section 'weights' has {len(self.sections['weights'])} bytes, expected {end}"
                f" for {self.weight_type} and {self.hyperparameters}"
            )

    @property
    def metadata(self) -> Metadata:
        """The metadata, a dict. Raises ModelFileError if it is not a JSON object."""
        import json  # not needed before the first token

        try:
            metadata = json.loads(bytes(self.sections["metadata"]))
        except (ValueError, RecursionError) as error:
            self._refuse(f"section 'metadata' is not valid JSON: {error} (gpt2rt verify lists damaged sections)")
        if not isinstance(metadata, dict):
            self._refuse(f"section 'metadata' contains a {type(metadata).__name__}, expected a JSON object")
        return metadata

    def vocabulary(self) -> dict[str, memoryview]:
        """Return read-only views of the vocabulary's tables: {name: memoryview of bytes}."""
        section = self.sections["vocabulary"]
        tables = vocabulary_tables(self.hyperparameters.n_vocab, *self._vocabulary_counts)
        return {table.name: section[table.offset : table.offset + table.length] for table in tables}

    def damaged_sections(self) -> Iterator[tuple[str, int, int]]:
        """Read the whole file; yield (section, stored CRC32C, actual CRC32C) for each section where they differ."""
        for name in SECTIONS:
            actual = crc32c(self.sections[name])
            if actual != self.checksums[name]:
                yield name, self.checksums[name], actual

    def nonzero_padding(self) -> int | None:
        """Return the offset of the first byte between the sections that is not zero, or None."""
        end = SECTION_TABLE + len(SECTIONS) * SECTION.size
        gaps = [(HEADER.size, SECTION_TABLE), (end, CHECKSUM_OFFSET)]
        position = ALIGNMENT
        for name in SECTIONS:
            gaps.append((position + len(self.sections[name]), align(position + len(self.sections[name]), ALIGNMENT)))
            position = gaps[-1][1]
        for start, stop in gaps[:-1]:  # nothing follows the weights
            for offset, byte in enumerate(self._view[start:stop], start):
                if byte:
                    return offset
        return None
