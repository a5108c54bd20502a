"""gpt2rt's own f32 and f16 model files as a source, to convert them to another type without the checkpoint."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import numpy as np

from gpt2rt._modelfile import Tensor, crc32c
from gpt2rt._tokenizer import Tokenizer
from gpt2rt.converter.source_file import SourceFile
from gpt2rt.errors import CheckpointError, ModelFileError
from gpt2rt.modelfile import MAGIC, QUANTIZED, TILE, ModelFile, matrix_length, tensor_table
from gpt2rt.regular_file import open_regular

MAX_LINE = 200  # characters in the name of a model or of a license
MAX_ORIGIN = 400  # characters kept of the file's own origin
PIECE = 4 << 20  # bytes checked at a time


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins with our magic number. Raises OSError."""
    with open_regular(path) as file:
        return file.read(len(MAGIC)) == MAGIC


class _Vocabulary:
    """A `SourceVocabulary` over the tables of a model file."""

    def __init__(self, file: ModelFile):
        self.n_vocab = file.hyperparameters.n_vocab
        self._tables = {name: bytes(table) for name, table in file.vocabulary().items()}
        self._section = bytes(file.sections["vocabulary"])

    def tables(self) -> dict[str, bytes]:
        return self._tables

    def section(self) -> bytes:
        return self._section


class ModelFileSource:
    """A source for `convert`, with the interface of `TensorFlowCheckpoint`.

    The file is mapped only while it is opened: its weights are read, so that a file that is cut meanwhile is an error.
    """

    def __init__(self, source: str | os.PathLike[str]):
        """
        Args:
            source: path of the file.

        Raises:
            CheckpointError: its weights are quantized. ModelFileError: it is damaged.
        """
        self.path = pathlib.Path(source)
        file = ModelFile(source, prefetch=False)
        if file.weight_type in QUANTIZED:
            raise CheckpointError(
                f"{source}: its weights are already quantized to {file.weight_type}, expected f32 or f16"
                " (convert the original checkpoint instead)"
            )
        try:
            self._file = SourceFile(source)
        except OSError as error:
            raise ModelFileError(f"{source}: can't be read: {error.strerror or error}") from error
        for name, offset, length, stored in file.section_table():
            actual = self._checksum(offset, length)
            if actual != stored:
                raise ModelFileError(
                    f"{source}: section {name!r} is damaged: checksum {actual:08x}, expected {stored:08x}"
                )
            self._weights = offset  # the last section
        metadata = file.metadata
        self.name = self._line(metadata, "name") or self.path.stem
        self.notes: list[str] = []
        self.licence, self.chat = self._line(metadata, "licence"), metadata.get("chat")
        if not isinstance(self.chat, dict | None):
            raise ModelFileError(f"{source}: metadata 'chat' is a {type(self.chat).__name__}, expected an object")
        self.origin = f"model file {self.path.name}, made of {str(metadata.get('source'))[:MAX_ORIGIN]}"
        self.hyperparameters, self.is_tied, self.files = file.hyperparameters, file.is_tied, [self.path]
        self._type, self._tensors = file.weight_type, {tensor.name: tensor for tensor in file.tensors}
        self._vocabulary = _Vocabulary(file)
        self.size = sum(4 * math.prod(t.shape) for t in tensor_table(self.hyperparameters, "f32", 0, self.is_tied))

    def _line(self, metadata: dict[str, Any], key: str) -> str | None:
        """Return a line of text from the metadata, or None. It is checked, as the file may come from anyone."""
        text = metadata.get(key)
        if text is None:
            return None
        if not isinstance(text, str) or not text.isprintable() or not 1 <= len(text) <= MAX_LINE:
            raise ModelFileError(f"{self.path}: metadata {key!r} is {text!r:.80}, expected a line of text")
        return text

    def _checksum(self, offset: int, length: int) -> int:
        """Return the CRC32C of a part of the file."""
        checksum = 0
        for begin in range(offset, offset + length, PIECE):
            checksum = crc32c(self._file[begin : min(begin + PIECE, offset + length)], checksum)
        return checksum

    def vocabulary(self) -> _Vocabulary:
        """Return the file's own vocabulary. Raises ModelFileError if it is invalid."""
        tokenizer = Tokenizer(self._vocabulary.tables(), self.hyperparameters.n_vocab)
        for problem in tokenizer.problems(1):
            raise ModelFileError(f"{self.path}: vocabulary: {problem}")
        return self._vocabulary

    def tensor(self, name: str) -> np.ndarray:
        """Unpack a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        tensor = self._tensors[name]
        if not tensor.is_matrix:
            return self._file.array("<f4", self._weights + tensor.offset, tensor.shape)
        n_out, n_in = tensor.shape
        if name in ("wte", "lm_head"):
            return self.rows(name, 0, n_out)
        tiles = self._tiles(tensor, 0, n_out)
        return np.ascontiguousarray(tiles.transpose(1, 0, 2).astype("<f4", order="C").reshape(n_in, -1)[:, :n_out])

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read some rows of a tensor; see `TensorFlowCheckpoint.rows`."""
        tensor = self._tensors[name]
        first = begin // TILE
        rows = self._tiles(tensor, first, end).transpose(0, 2, 1).astype("<f4", order="C").reshape(-1, tensor.shape[1])
        return rows[begin - first * TILE : end - first * TILE]

    def _tiles(self, tensor: Tensor, first: int, end: int) -> np.ndarray:
        """Read the tiles of a matrix from `first` to the one with the row before `end`: (n, n_in, 16)."""
        n_in, n = tensor.shape[1], -(-end // TILE) - first
        stride = matrix_length(TILE, n_in, self._type, 0)
        dtype = np.dtype("<f4" if self._type == "f32" else "<f2")
        stored = self._file.array(
            dtype.str, self._weights + tensor.offset + first * stride, (n, stride // dtype.itemsize)
        )
        return stored[:, : n_in * TILE].reshape(-1, n_in, TILE)
