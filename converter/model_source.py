"""gpt2rt's own f32 and f16 model files as a source, to convert them to another type without the checkpoint."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import numpy as np

from gpt2rt._tokenizer import Tokenizer
from gpt2rt.errors import CheckpointError, ModelFileError
from gpt2rt.modelfile import MAGIC, QUANTIZED, TILE, ModelFile, matrix_length, tensor_table

MAX_LINE = 200  # characters in the name of a model or of a license
MAX_ORIGIN = 400  # characters kept of the file's own origin


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins with our magic number. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class _Vocabulary:
    """A `SourceVocabulary` over the tables of a model file."""

    def __init__(self, file: ModelFile):
        self._file, self.n_vocab = file, file.hyperparameters.n_vocab

    def tables(self) -> dict[str, memoryview]:
        return self._file.vocabulary()

    def section(self) -> bytes:
        return bytes(self._file.sections["vocabulary"])


class ModelFileSource:
    """A source for `convert`, with the interface of `TensorFlowCheckpoint`. `file` is the `ModelFile`."""

    def __init__(self, source: str | os.PathLike[str]):
        """
        Args:
            source: path of the file.

        Raises:
            CheckpointError: its weights are quantized. ModelFileError: it is damaged.
        """
        self.path = pathlib.Path(source)
        self.file = file = ModelFile(source)
        if file.weight_type in QUANTIZED:
            raise CheckpointError(
                f"{source}: its weights are already quantized to {file.weight_type}, expected f32 or f16"
                " (convert the original checkpoint instead)"
            )
        for name, stored, actual in file.damaged_sections():
            raise ModelFileError(f"{source}: section {name!r} is damaged: checksum {actual:08x}, expected {stored:08x}")
        metadata = file.metadata
        self.name = self._line(metadata, "name") or self.path.stem
        self.notes: list[str] = []
        self.licence, self.chat = self._line(metadata, "licence"), metadata.get("chat")
        if not isinstance(self.chat, dict | None):
            raise ModelFileError(f"{source}: metadata 'chat' is a {type(self.chat).__name__}, expected an object")
        self.origin = f"model file {self.path.name}, made of {str(metadata.get('source'))[:MAX_ORIGIN]}"
        self.hyperparameters, self.is_tied, self.files = file.hyperparameters, file.is_tied, [self.path]
        self._tensors = {tensor.name: tensor for tensor in file.tensors}
        self.size = sum(4 * math.prod(t.shape) for t in tensor_table(self.hyperparameters, "f32", 0, self.is_tied))

    def _line(self, metadata: dict[str, Any], key: str) -> str | None:
        """Return a line of text from the metadata, or None. It is checked, as the file may come from anyone."""
        text = metadata.get(key)
        if text is None:
            return None
        if not isinstance(text, str) or not text.isprintable() or not 1 <= len(text) <= MAX_LINE:
            raise ModelFileError(f"{self.path}: metadata {key!r} is {text!r:.80}, expected a line of text")
        return text

    def vocabulary(self) -> _Vocabulary:
        """Return the file's own vocabulary. Raises ModelFileError if it is invalid."""
        tokenizer = Tokenizer(self.file.vocabulary(), self.hyperparameters.n_vocab)
        for problem in tokenizer.problems(1):
            raise ModelFileError(f"{self.path}: vocabulary: {problem}")
        return _Vocabulary(self.file)

    def tensor(self, name: str) -> np.ndarray:
        """Unpack a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        tensor = self._tensors[name]
        content = self.file.sections["weights"][tensor.offset : tensor.offset + tensor.length]
        if not tensor.is_matrix:
            return np.frombuffer(content, "<f4", math.prod(tensor.shape)).reshape(tensor.shape)
        n_out, n_in = tensor.shape
        dtype = np.dtype("<f4" if self.file.weight_type == "f32" else "<f2")
        stride = matrix_length(TILE, n_in, self.file.weight_type, 0)
        tiles = np.frombuffer(content, dtype).reshape(-1, stride // dtype.itemsize)[:, : n_in * TILE]
        tiles = tiles.reshape(-1, n_in, TILE)  # (n_out / 16, n_in, 16)
        if name in ("wte", "lm_head"):
            return tiles.transpose(0, 2, 1).astype("<f4", order="C").reshape(-1, n_in)[:n_out]
        return np.ascontiguousarray(tiles.transpose(1, 0, 2).astype("<f4", order="C").reshape(n_in, -1)[:, :n_out])

    def release(self, array: np.ndarray) -> None:
        """Do nothing: the memory is freed with the array."""
