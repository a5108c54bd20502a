"""The writer of model files: writes them completely or not at all."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable

from gpt2rt._modelfile import ALIGNMENT, GROUP_SIZES, MAX_METADATA, Shape, crc32c, header
from gpt2rt.errors import UsageError
from gpt2rt.modelfile.layout import METADATA_ROOM, QUANTIZED, Hyperparameters, align
from gpt2rt.modelfile.unfinished import Unfinished, check_output, errors_named, move

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from gpt2rt.modelfile.reader import Metadata, Path


class Writer:
    """Writes a model file under a temporary name in the same folder, and renames it when it is complete.

    Use it as a context manager: after an exception the temporary file is removed, and an existing file is unchanged.
    Tensors are written in the order of `tensors`, so that only one has to be in memory. The metadata is written last,
    so that it can describe the weights: `metadata` may be changed until then, and grow by METADATA_ROOM bytes.
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
            path: the file to write.
            metadata: a JSON-serializable dict.
            vocabulary: the bytes of the vocabulary section (`vocabulary_section`).
            force: overwrite an existing file.
            is_tied: as for `tensor_table`.

        Raises:
            UsageError: the file exists and `force` is not set, or is not a regular file, or an argument is invalid.
        """
        self.path = os.fspath(path)
        if problem := hyperparameters.problem():
            raise UsageError(f"{self.path}: {problem}")
        if weight_type in QUANTIZED and group_size not in GROUP_SIZES:
            raise UsageError(f"group size {group_size}: expected one of {', '.join(map(str, GROUP_SIZES))}")
        check_output(self.path, force)
        self.force = force
        self.hyperparameters = hyperparameters
        self.shape = Shape(hyperparameters, weight_type, group_size, is_tied)
        self.tensors = self.shape.tensors()
        self.metadata = metadata
        self._metadata_length = align(len(self._encoded_metadata()) + METADATA_ROOM, ALIGNMENT)
        self._vocabulary = vocabulary
        self._written = 0

    def _encoded_metadata(self) -> bytes:
        import json

        try:
            encoded = json.dumps(self.metadata, ensure_ascii=False, indent=1).encode()
        except UnicodeEncodeError:
            raise UsageError(f"{self.path}: the metadata can't be encoded in UTF-8: {self.metadata!r:.200}") from None
        if len(encoded) > MAX_METADATA - METADATA_ROOM - ALIGNMENT:
            raise UsageError(f"{self.path}: metadata of {len(encoded)} bytes, expected less than {MAX_METADATA}")
        return encoded

    def __enter__(self) -> Self:
        self._unfinished = Unfinished(self.path)
        try:
            self._unfinished.make()
            self._temporary = self._unfinished.path
            with errors_named(self.path):
                self._file = open(self._temporary, "wb")
                self._begin()
        except BaseException:
            self._abandon()
            raise
        return self

    def _begin(self) -> None:
        vocabulary_offset = ALIGNMENT + self._metadata_length
        self._file.write(bytes(vocabulary_offset))  # header and metadata come last
        self._file.write(self._vocabulary)
        end = vocabulary_offset + len(self._vocabulary)
        self._weights_offset, self._weights_checksum, self._weights_length = align(end, ALIGNMENT), 0, 0
        self._file.write(bytes(self._weights_offset - end))

    def write_tensor(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Write the next tensor of `tensors`.

        Args:
            chunks: an iterable of buffers whose total length is the tensor's, padding included.
        """
        tensor = self.tensors[self._written]
        length = 0
        for chunk in chunks:
            with errors_named(self.path):
                self._file.write(chunk)
            self._weights_checksum = crc32c(chunk, self._weights_checksum)
            length += len(chunk)
        if length != tensor.length:
            raise ValueError(f"{tensor.name}: got {length} bytes, expected {tensor.length}")
        self._weights_length += length
        self._written += 1

    def written_weights(self) -> memoryview:
        """Return a read-only view of the weights section in the file. All tensors must have been written.

        It must be released before the writer exits, because some systems can't rename a file that is mapped.
        """
        with errors_named(self.path):
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
        sections = (
            (ALIGNMENT, len(metadata), crc32c(metadata)),
            (ALIGNMENT + len(metadata), len(self._vocabulary), crc32c(self._vocabulary)),
            (self._weights_offset, self._weights_length, self._weights_checksum),
        )
        with errors_named(self.path):
            self._file.seek(0)
            self._file.write(header(self.shape, sections))
            self._file.write(metadata)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            move(self._temporary, self.path, self.force)

    def _abandon(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it may not be open yet
            self._file.close()
        self._unfinished.remove()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException:
                self._abandon()
                raise
            self._unfinished.release()
        else:
            self._abandon()
