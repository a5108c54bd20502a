"""Checkpoints of nanoGPT, ckpt.pt: a model's weights and sizes, and the state of its training, which is ignored."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import numpy as np

from gpt2rt.converter.huggingface import HEAD, add_tensors, hf_name
from gpt2rt.converter.pytorch import checked_tensors, read_pytorch
from gpt2rt.converter.source import folder_name
from gpt2rt.converter.stored_tensor import StoredTensor
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.converter.vocabulary_folder import WHERE, read_vocabulary_folder
from gpt2rt.converter.weight_files import CONFIG
from gpt2rt.errors import CheckpointError, VocabularyError
from gpt2rt.modelfile import Hyperparameters, tensor_table

CHECKPOINT = "ckpt.pt"
META = "meta.pkl"  # the vocabulary of a data set of single characters
SIZES = {"vocab_size": "n_vocab", "block_size": "n_ctx", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}
OTHER_ARGS = ("bias", "dropout")
MIN_N_VOCAB = 257  # of a byte-level vocabulary: the bytes and <|endoftext|>
GELU_NOTE = (
    "nanoGPT trains with the exact GELU since 2023, and gpt2rt computes GPT-2's tanh approximation of it, so the logits"
    " differ slightly (docs/convert.md)"
)


class NanoGptCheckpoint:
    """A source for `convert`, with the interface of `TensorFlowCheckpoint`."""

    licence: str | None = None
    chat: dict[str, str] | None = None

    def __init__(self, source: str | os.PathLike[str], vocabulary: str | os.PathLike[str] | None = None):
        """
        Args:
            source: path of the file. vocabulary: the folder of its vocabulary.

        Raises:
            CheckpointError: it is damaged, or not a checkpoint of nanoGPT's GPT-2.
        """
        self.path, self._vocabulary = pathlib.Path(source), vocabulary
        called = folder_name(self.path.parent) or "model"
        self.name = called if self.path.name == CHECKPOINT else self.path.stem
        self.origin, self.files, self.notes = f"nanoGPT checkpoint {called}/{self.path.name}", [self.path], [GELU_NOTE]
        content = read_pytorch(self.path)
        if not all(isinstance(content.get(key), dict) for key in ("model", "model_args")):
            raise CheckpointError(
                f"{self.path}: no model and model_args in it, as in a checkpoint of nanoGPT, and no {CONFIG} in its"
                " folder, as next to a model of transformers"
            )
        self.hyperparameters, has_biases = self._read_args(content["model_args"])
        if (self.path.parent / META).is_file():
            raise CheckpointError(
                f"{self.path.parent / META}: the vocabulary of a data set of characters, expected GPT-2's (train on a"
                f" data set of GPT-2's tokens; if {META} is not this model's, move it to another folder)"
            )
        self._tensors: dict[str, StoredTensor] = {}  # by their names without `transformer.` and wrappers
        add_tensors(self._tensors, self.path, checked_tensors(self.path, content["model"]))
        head = self._tensors.get(HEAD)
        self.is_tied = head is None or head.is_same(self._tensors.get("wte.weight"))
        table = tensor_table(self.hyperparameters, "f32", 0, self.is_tied)
        self._names = {tensor.name: hf_name(tensor.name) for tensor in table}
        self._absent = set() if has_biases else {name for name in self._names if name.endswith("/b")}
        self._shapes = {tensor.name: tensor.shape for tensor in table}
        self._match({tensor.name for tensor in table if tensor.is_matrix} - {"wte", "lm_head"})
        self.size = sum(4 * math.prod(shape) for shape in self._shapes.values())

    def vocabulary(self) -> Vocabulary:
        """Read the `Vocabulary` of the folder that the user named. Raises VocabularyError."""
        if self._vocabulary is None:
            raise VocabularyError(f"{self.path}: a checkpoint of nanoGPT has no vocabulary ({WHERE})")
        return read_vocabulary_folder(self._vocabulary, self.hyperparameters.n_vocab)

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        if name in self._absent:
            return np.zeros(self._shapes[name], np.float32)
        tensor = self._tensors[self._names[name]]
        return tensor.transposed() if name in self._matrices else tensor.values()

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read some rows of a tensor; see `TensorFlowCheckpoint.rows`."""
        return self._tensors[self._names[name]].rows(begin, end)

    def _read_args(self, args: dict[Any, Any]) -> tuple[Hyperparameters, bool]:
        """Return (hyperparameters, whether there are biases)."""
        if unknown := [key for key in args if key not in SIZES and key not in OTHER_ARGS]:
            shown = repr(unknown[0]) if type(unknown[0]) is str else f"a key that is a {type(unknown[0]).__name__}"
            raise CheckpointError(
                f"{self.path}: model_args has {shown:.80}, which nanoGPT does not have (a model that computes"
                " differently?)"
            )
        for key in SIZES:
            if type(args.get(key)) is not int:
                raise CheckpointError(f"{self.path}: {key} in model_args is not an integer")
        numbers = {name: args[key] for key, name in SIZES.items()}
        if not all(-(1 << 63) < number < 1 << 63 for number in numbers.values()):
            raise CheckpointError(f"{self.path}: a size in model_args is not a 64-bit integer")
        hyperparameters = Hyperparameters(**numbers)
        if problem := hyperparameters.problem():
            raise CheckpointError(f"{self.path}: {problem}")
        if hyperparameters.n_vocab < MIN_N_VOCAB:
            raise CheckpointError(
                f"{self.path}: vocab_size is {hyperparameters.n_vocab}, so its tokens are characters ({META} of its"
                " data set), expected GPT-2's byte-level tokens, 50257 or more"
            )
        has_biases = args.get("bias", True)
        if type(has_biases) is not bool:
            raise CheckpointError(f"{self.path}: bias in model_args is not true or false")
        return hyperparameters, has_biases

    def _match(self, matrices: set[str]) -> None:
        """Check that every tensor is there, with the shape of a Linear layer: (n_out, n_in)."""
        self._matrices = matrices
        for name, shape in self._shapes.items():
            theirs = self._names[name]
            if theirs not in self._tensors:
                if name in self._absent:
                    continue
                raise CheckpointError(f"{self.path}: tensor {theirs!r} is missing")
            if self._tensors[theirs].shape != shape:
                raise CheckpointError(
                    f"{self.path}: tensor {theirs!r} has shape {list(self._tensors[theirs].shape)}, expected"
                    f" {list(shape)} from model_args"
                )
        for name in self._tensors:
            if name not in {HEAD, *self._names.values()} or name in {self._names[absent] for absent in self._absent}:
                raise CheckpointError(f"{self.path}: unexpected tensor {name!r:.80} for nanoGPT's model_args")
