"""The model file: its layout, its limits, how it is written, opened and checked.

`docs/format.md` is normative; `validate()` checks the same list in the same order. Reader and writer share this
module, and nothing else knows an offset.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import struct
import sys
from collections import namedtuple
from collections.abc import Iterable, Iterator

from gpt2rt._kernels import crc32c
from gpt2rt.errors import ModelFileError, UsageError

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any, NoReturn, Self

    Path = str | os.PathLike[str]
    Metadata = dict[str, Any]

MAGIC = b"\x89GPT2RT\n"
VERSION = 1
ALIGNMENT = 4096  # of sections
TENSOR_ALIGNMENT = 64  # of tensors in the weights, and of tables in the vocabulary: one cache line
TILE = 16  # rows of a matrix that lie together

WEIGHT_TYPES = ("f32", "f16", "int8", "int4")  # the header holds the index
QUANTIZED = ("int8", "int4")
GROUP_SIZES = (16, 32, 64, 128, 256)
DEFAULT_GROUP_SIZE = {"f32": 0, "f16": 0, "int8": 64, "int4": 32}

MAX_N_VOCAB = 1 << 20
MAX_N_CTX = 1 << 16
MAX_N_EMBD = 1 << 14
MAX_N_HEAD = 1 << 10
MAX_N_LAYER = 1 << 10
MAX_METADATA = 1 << 20  # bytes
METADATA_ROOM = 1024  # bytes that the metadata may still grow while the weights are written
MAX_TOKEN_BYTES = 1 << 28  # of all tokens of a vocabulary together

HEADER = struct.Struct("<8sIIQIIIIIIII")  # up to the section table
SECTION = struct.Struct("<QQII")
SECTION_TABLE = 64  # offset of the section table in the header
SECTIONS = ("metadata", "vocabulary", "weights")
FLAG_HEAD = 1  # the output head is a matrix of its own
CHECKSUM = struct.Struct("<I")
CHECKSUM_OFFSET = ALIGNMENT - CHECKSUM.size
VOCABULARY_HEADER = struct.Struct("<IIII")  # n_merges, n_slots, n_special, token_bytes
MERGE_SLOT = struct.Struct("<IIII")  # left, right, rank, merged id

Tensor = namedtuple("Tensor", "name shape is_matrix offset length")
Tensor.__doc__ = "A tensor of the weights section: name and shape as in the checkpoint, byte offset in the section."

Table = namedtuple("Table", "name offset length")
Table.__doc__ = "A table of the vocabulary section: name, byte offset in the section, length in bytes."


def align(n: int, to: int) -> int:
    """The least multiple of `to` that is not below `n`."""
    return -(-n // to) * to


class Hyperparameters(namedtuple("Hyperparameters", "n_vocab n_ctx n_embd n_head n_layer")):
    """The five numbers that fix a GPT-2, named as in the release's hparams.json."""

    __slots__ = ()

    def problem(self) -> str | None:
        """What is wrong with these numbers, as the end of a sentence, or None."""
        limits = (MAX_N_VOCAB, MAX_N_CTX, MAX_N_EMBD, MAX_N_HEAD, MAX_N_LAYER)
        for name, value, limit in zip(self._fields, self, limits, strict=True):
            if not 1 <= value <= limit:
                return f"{name} is {value}, expected 1 to {limit}"
        if self.n_embd % self.n_head:
            return f"n_embd {self.n_embd} is no multiple of n_head {self.n_head}"
        return None

    @property
    def n_parameters(self) -> int:
        """Number of trained values of a GPT-2, whose output head is `wte` and not counted twice."""
        n: int = self.n_embd
        per_layer = 12 * n**2 + 13 * n
        n_parameters: int = (self.n_vocab + self.n_ctx) * n + self.n_layer * per_layer + 2 * n
        return n_parameters


def matrix_length(n_out: int, n_in: int, weight_type: str, group_size: int) -> int:
    """Bytes of a matrix of n_out rows (outputs) and n_in columns (inputs), in tiles of 16 rows."""
    if weight_type in QUANTIZED:
        groups = -(-n_in // group_size)
        values = groups * group_size * TILE
        tile = align(groups * TILE * 2, TENSOR_ALIGNMENT) + (values if weight_type == "int8" else values // 2)
    else:
        tile = align(n_in * TILE * (4 if weight_type == "f32" else 2), TENSOR_ALIGNMENT)
    return -(-n_out // TILE) * tile


def tensor_table(
    hyperparameters: Hyperparameters, weight_type: str, group_size: int, is_tied: bool = True
) -> list[Tensor]:
    """All tensors of the weights section, in the order in which a forward pass reads them.

    Args:
        is_tied: whether the output head is `wte`, as GPT-2's is; else `lm_head` follows.

    Returns:
        A list of `Tensor`; shapes are (n_out, n_in) for the matrices of the layers, `wte` and `lm_head`.
    """
    n_vocab, n_ctx, n, _, n_layer = hyperparameters
    table: list[Tensor] = []
    offset = 0

    def add(name: str, shape: tuple[int, ...], is_matrix: bool = False) -> None:
        nonlocal offset
        if is_matrix:
            length = matrix_length(shape[0], shape[1], weight_type, group_size)
        elif len(shape) == 1:
            length = align(4 * shape[0], TENSOR_ALIGNMENT)
        else:
            length = align(4 * shape[0] * shape[1], TENSOR_ALIGNMENT)
        table.append(Tensor(name, shape, is_matrix, offset, length))
        offset += length

    add("wpe", (n_ctx, n))
    for layer in range(n_layer):
        h = f"h{layer}"
        add(f"{h}/ln_1/g", (n,))
        add(f"{h}/ln_1/b", (n,))
        add(f"{h}/attn/c_attn/w", (3 * n, n), True)
        add(f"{h}/attn/c_attn/b", (3 * n,))
        add(f"{h}/attn/c_proj/w", (n, n), True)
        add(f"{h}/attn/c_proj/b", (n,))
        add(f"{h}/ln_2/g", (n,))
        add(f"{h}/ln_2/b", (n,))
        add(f"{h}/mlp/c_fc/w", (4 * n, n), True)
        add(f"{h}/mlp/c_fc/b", (4 * n,))
        add(f"{h}/mlp/c_proj/w", (n, 4 * n), True)
        add(f"{h}/mlp/c_proj/b", (n,))
    add("ln_f/g", (n,))
    add("ln_f/b", (n,))
    add("wte", (n_vocab, n), True)
    if not is_tied:
        add("lm_head", (n_vocab, n), True)
    return table


def vocabulary_tables(n_vocab: int, n_merges: int, n_slots: int, n_special: int, token_bytes: int) -> list[Table]:
    """The tables of the vocabulary section, behind its 64-byte header, in order."""
    tables, offset = [], TENSOR_ALIGNMENT
    for name, length in (
        ("token_offsets", 4 * (n_vocab + 1)),
        ("byte_tokens", 4 * 256),
        ("special_tokens", 4 * n_special),
        ("merge_slots", MERGE_SLOT.size * n_slots),
        ("token_bytes", token_bytes),
    ):
        tables.append(Table(name, offset, length))
        offset = align(offset + length, TENSOR_ALIGNMENT)
    return tables


def slots_for(n_merges: int) -> int:
    """Slots of the merge table: a power of two, at most half full."""
    return 1 << max(4, (2 * n_merges - 1).bit_length()) if n_merges else 16


class ModelFile:
    """An open, validated model file: its numbers and read-only views of its sections.

    Attributes:
        path: as it was given. hyperparameters: `Hyperparameters`. weight_type: one of `WEIGHT_TYPES`.
        group_size: inputs that share a scale, 0 for float types. is_tied: whether `wte` is the output head.
        size: bytes of the file. sections: {name: memoryview}. checksums: {name: CRC32C}.
    """

    def __init__(self, path: Path, use_mmap: bool = True):
        """Opens and validates in time that does not depend on the weights. Raises ModelFileError."""
        self.path = os.fspath(path)
        try:
            if stat.S_ISFIFO(os.stat(self.path).st_mode):
                self._refuse("is a pipe, expected a model file")  # to open it might wait for ever
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < ALIGNMENT:
                    head = file.read(len(MAGIC))
                    if not MAGIC.startswith(head) or not head:
                        self._refuse(f"not a gpt2rt model file (it is {size} bytes long and starts with {head!r})")
                    self._refuse(f"{size} bytes, expected a header of {ALIGNMENT} (cut short? copy or convert again)")
                if use_mmap:
                    self._buffer: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    if hasattr(mmap, "MADV_WILLNEED"):
                        self._buffer.madvise(mmap.MADV_WILLNEED)
                else:
                    self._buffer = file.read()
        except IsADirectoryError:
            self._refuse("is a folder, expected a model file (gpt2rt convert makes one from a checkpoint)")
        except FileNotFoundError:
            self._refuse("no such file (gpt2rt convert makes one from a checkpoint)")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            self._refuse(f"can't be opened: {getattr(error, 'strerror', None) or error}")
        self._view = memoryview(self._buffer)
        self.size = len(self._view)
        self.validate()

    def _refuse(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {what}")

    def validate(self) -> None:
        """Checks everything that `docs/format.md` lists under "What a reader checks", in that order."""
        view = self._view
        magic, version, header_size, file_size, *numbers = HEADER.unpack_from(view)
        *five, type_code, group_size, flags = numbers
        if magic != MAGIC:
            self._refuse(f"not a gpt2rt model file (it starts with {magic!r}, expected {MAGIC!r})")
        if version != VERSION:
            hint = "install a newer gpt2rt" if version > VERSION else "convert the checkpoint again"
            self._refuse(f"format version {version}, this gpt2rt reads version {VERSION} ({hint})")
        stored = CHECKSUM.unpack_from(view, CHECKSUM_OFFSET)[0]
        actual = crc32c(view[:CHECKSUM_OFFSET])
        if stored != actual:
            self._refuse(f"the header is damaged: checksum {actual:08x}, expected {stored:08x} (copy or convert again)")
        if header_size != ALIGNMENT or flags & ~FLAG_HEAD:
            self._refuse(f"header size {header_size} and flags {flags:#x}, expected {ALIGNMENT} and 0 or 1")
        self.is_tied = not flags & FLAG_HEAD
        if file_size != self.size:
            hint = "truncated download?" if self.size < file_size else "something was appended?"
            self._refuse(f"{self.size} bytes, its header says {file_size} ({hint})")
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
                self._refuse(f"section {name!r} ends at byte {offset + length}, the file has {self.size}")
            self.sections[name] = view[offset : offset + length]
            self.checksums[name] = checksum
            expected = align(offset + length, ALIGNMENT)
        if offset + length != self.size:
            self._refuse(f"{self.size - offset - length} bytes behind the last section, expected none")

        if len(self.sections["metadata"]) > MAX_METADATA:
            self._refuse(f"metadata of {len(self.sections['metadata'])} bytes, expected at most {MAX_METADATA}")
        vocabulary = self.sections["vocabulary"]
        if len(vocabulary) < TENSOR_ALIGNMENT:
            self._refuse(f"section 'vocabulary' has {len(vocabulary)} bytes, expected at least {TENSOR_ALIGNMENT}")
        self._vocabulary_counts = n_merges, n_slots, n_special, token_bytes = VOCABULARY_HEADER.unpack_from(vocabulary)
        n_vocab = self.hyperparameters.n_vocab
        if n_merges > n_vocab or n_special > n_vocab or n_slots != slots_for(n_merges) or token_bytes > MAX_TOKEN_BYTES:
            self._refuse(
                f"a vocabulary of {n_merges} merges in {n_slots} slots, {n_special} special tokens and"
                f" {token_bytes} bytes does not fit {n_vocab} tokens"
            )
        last = vocabulary_tables(n_vocab, *self._vocabulary_counts)[-1]
        if last.offset + last.length != len(vocabulary):
            self._refuse(
                f"section 'vocabulary' has {len(vocabulary)} bytes, its tables need {last.offset + last.length}"
            )
        self.tensors = tensor_table(self.hyperparameters, self.weight_type, self.group_size, self.is_tied)
        end = self.tensors[-1].offset + self.tensors[-1].length
        if end != len(self.sections["weights"]):
            self._refuse(
                f"section 'weights' has {len(self.sections['weights'])} bytes, expected {end}"
                f" for {self.weight_type} and {self.hyperparameters}"
            )

    @property
    def metadata(self) -> Metadata:
        """The metadata, a dict. Raises ModelFileError where it is no JSON object."""
        import json  # not needed on the way to the first token

        try:
            metadata = json.loads(bytes(self.sections["metadata"]))
        except (ValueError, RecursionError) as error:
            self._refuse(f"section 'metadata' is no JSON: {error} (gpt2rt verify tells which sections are damaged)")
        if not isinstance(metadata, dict):
            self._refuse(f"section 'metadata' holds a {type(metadata).__name__}, expected a JSON object")
        return metadata

    def vocabulary(self) -> dict[str, memoryview]:
        """Read-only views of the vocabulary's tables: {name: memoryview of bytes}."""
        section = self.sections["vocabulary"]
        tables = vocabulary_tables(self.hyperparameters.n_vocab, *self._vocabulary_counts)
        return {table.name: section[table.offset : table.offset + table.length] for table in tables}

    def damaged_sections(self) -> Iterator[tuple[str, int, int]]:
        """Reads the whole file; yields (section, stored CRC32C, actual CRC32C) of each one that differs."""
        for name in SECTIONS:
            actual = crc32c(self.sections[name])
            if actual != self.checksums[name]:
                yield name, self.checksums[name], actual

    def nonzero_padding(self) -> int | None:
        """The offset of the first byte between the sections that is not zero, or None."""
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


class Writer:
    """Writes a model file next to its final place and moves it there when it is whole.

    Use as a context manager: on an exception nothing is left behind, and a file that was there before is untouched.
    Tensors are written in the order of `tensors`, so that only one has to be in memory. The metadata is written last,
    so that it can tell of the weights: `metadata` may be changed until then, and grow by METADATA_ROOM bytes.
    """

    def __init__(
        self,
        path: Path,
        hyperparameters: Hyperparameters,
        weight_type: str,
        group_size: int,
        metadata: Metadata,
        vocabulary: bytes,
        force: bool = False,
        is_tied: bool = True,
    ):
        """
        Args:
            path: the file to make; UsageError where it exists, unless `force`, or is anything but a file.
            metadata: a JSON-ready dict. vocabulary: the bytes of the vocabulary section (`vocabulary_section`).
            is_tied: as for `tensor_table`.
        """
        self.path = os.fspath(path)
        if problem := hyperparameters.problem():
            raise UsageError(f"{self.path}: {problem}")
        if weight_type in QUANTIZED and group_size not in GROUP_SIZES:
            raise UsageError(f"group size {group_size}: expected one of {', '.join(map(str, GROUP_SIZES))}")
        if os.path.isdir(self.path):
            raise UsageError(f"{self.path}: is a folder, expected the name of a file to write")
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise UsageError(f"{self.path}: is no ordinary file, expected the name of a file to write")
        if not force and os.path.lexists(self.path):
            self._refuse_to_overwrite()
        self.force = force
        self.hyperparameters, self.weight_type, self.group_size = hyperparameters, weight_type, group_size
        self.is_tied = is_tied
        self.tensors = tensor_table(hyperparameters, weight_type, group_size, is_tied)
        self.metadata = metadata
        self._metadata_length = align(len(self._encoded_metadata()) + METADATA_ROOM, ALIGNMENT)
        self._vocabulary = vocabulary
        self._written = 0

    def _refuse_to_overwrite(self) -> NoReturn:
        raise UsageError(f"{self.path}: exists already (--force overwrites it)")

    def _encoded_metadata(self) -> bytes:
        import json

        try:
            encoded = json.dumps(self.metadata, ensure_ascii=False, indent=1).encode()
        except UnicodeEncodeError:
            raise UsageError(f"{self.path}: its metadata, {self.metadata!r:.200}, is no text in UTF-8") from None
        if len(encoded) > MAX_METADATA - METADATA_ROOM - ALIGNMENT:
            raise UsageError(f"{self.path}: metadata of {len(encoded)} bytes, expected less than {MAX_METADATA}")
        return encoded

    def __enter__(self) -> Self:
        folder, name = os.path.split(self.path)
        # Not in a folder for temporary files: only within a file system can a file be moved in one step.
        self._temporary = os.path.join(folder, f".{name[:200]}.{os.urandom(4).hex()}.part")
        try:
            self._file = open(self._temporary, "xb")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{folder or '.'}: can't write there: {getattr(error, 'strerror', None) or error}"
            ) from None
        try:
            with self._errors_named():
                self._begin()
        except BaseException:
            self._abandon()
            raise
        return self

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = (
                "free some space or write elsewhere with -o"
                if error.errno == errno.ENOSPC
                else "nothing was left there"
            )
            raise ModelFileError(f"{self.path}: can't be written: {error.strerror or error} ({hint})") from None

    def _begin(self) -> None:
        vocabulary_offset = ALIGNMENT + self._metadata_length
        self._file.write(bytes(vocabulary_offset))  # header and metadata come last
        self._file.write(self._vocabulary)
        end = vocabulary_offset + len(self._vocabulary)
        self._weights_offset, self._weights_checksum, self._weights_length = align(end, ALIGNMENT), 0, 0
        self._file.write(bytes(self._weights_offset - end))

    def write_tensor(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Writes the next tensor of `tensors`.

        Args:
            chunks: an iterable of buffers that are together exactly its length, padding included.
        """
        tensor = self.tensors[self._written]
        length = 0
        for chunk in chunks:
            with self._errors_named():
                self._file.write(chunk)
            self._weights_checksum = crc32c(chunk, self._weights_checksum)
            length += len(chunk)
        if length != tensor.length:
            raise ValueError(f"{tensor.name}: got {length} bytes, expected {tensor.length}")
        self._weights_length += length
        self._written += 1

    def written_weights(self) -> memoryview:
        """The weights section as it lies in the file once all tensors are written: a read-only view of a mapping.

        Whoever holds it must let go of it before the writer ends: some systems move no file that is mapped.
        """
        with self._errors_named():
            self._file.flush()
            with open(self._temporary, "rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(mapping)[self._weights_offset : self._weights_offset + self._weights_length]

    def _finish(self) -> None:
        if self._written != len(self.tensors):
            raise ValueError(f"{self._written} tensors were written, expected {len(self.tensors)}")
        encoded = self._encoded_metadata()
        if len(encoded) > self._metadata_length:
            raise ValueError(f"the metadata grew to {len(encoded)} bytes, expected at most {self._metadata_length}")
        metadata = encoded.ljust(self._metadata_length)  # JSON may end with spaces
        header = bytearray(ALIGNMENT)
        HEADER.pack_into(
            header,
            0,
            MAGIC,
            VERSION,
            ALIGNMENT,
            self._weights_offset + self._weights_length,
            *self.hyperparameters,
            WEIGHT_TYPES.index(self.weight_type),
            self.group_size,
            0 if self.is_tied else FLAG_HEAD,
        )
        sections = (
            (ALIGNMENT, len(metadata), crc32c(metadata), 0),
            (ALIGNMENT + len(metadata), len(self._vocabulary), crc32c(self._vocabulary), 0),
            (self._weights_offset, self._weights_length, self._weights_checksum, 0),
        )
        for index, section in enumerate(sections):
            SECTION.pack_into(header, SECTION_TABLE + index * SECTION.size, *section)
        CHECKSUM.pack_into(header, CHECKSUM_OFFSET, crc32c(header[:CHECKSUM_OFFSET]))
        with self._errors_named():
            self._file.seek(0)
            self._file.write(header)
            self._file.write(metadata)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._move()

    def _move(self) -> None:
        """Gives the file its name; without `force` a file that has come to be there meanwhile stays."""
        if self.force:
            os.replace(self._temporary, self.path)
            return
        try:
            if sys.platform == "win32":
                os.rename(self._temporary, self.path)  # refuses to overwrite, there
            else:
                os.link(self._temporary, self.path)
                os.unlink(self._temporary)
        except FileExistsError:
            self._refuse_to_overwrite()
        except OSError:  # a file system without links
            if os.path.lexists(self.path):
                self._refuse_to_overwrite()
            os.replace(self._temporary, self.path)

    def _abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException:
                self._abandon()
                raise
        else:
            self._abandon()


def vocabulary_section(n_vocab: int, n_merges: int, tables: Mapping[str, bytes]) -> bytes:
    """The bytes of a vocabulary section.

    Args:
        tables: {name: bytes} of `vocabulary_tables`: `token_offsets` u32 (n_vocab + 1,), `byte_tokens` u32 (256,),
            `special_tokens` u32 (n_special,), `merge_slots` of `slots_for(n_merges)` slots, `token_bytes`.
    """
    counts = n_merges, slots_for(n_merges), len(tables["special_tokens"]) // 4, len(tables["token_bytes"])
    layout = vocabulary_tables(n_vocab, *counts)
    section = bytearray(layout[-1].offset + layout[-1].length)
    VOCABULARY_HEADER.pack_into(section, 0, *counts)
    for table in layout:
        content = tables[table.name]
        if len(content) != table.length:
            raise ValueError(f"table {table.name!r}: got {len(content)} bytes, expected {table.length}")
        section[table.offset : table.offset + table.length] = content
    return bytes(section)
