"""Hugging Face folders with a GPT-2 model, as saved by transformers: config.json, weights and tokenizer files."""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from gpt2rt.converter.pytorch import read_tensors
from gpt2rt.converter.source import folder_name
from gpt2rt.converter.stored_tensor import TYPES, StoredTensor
from gpt2rt.converter.tokenizer_files import chat_settings, chat_template, read_json, read_tokenizer
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.converter.weight_files import CONFIG, default_weights, listed_files, weights_in, weights_with
from gpt2rt.errors import CheckpointError
from gpt2rt.modelfile import Hyperparameters, tensor_table
from gpt2rt.regular_file import open_regular

EPSILON = 1e-5  # of the layer norms; the kernels support no other value
TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # names of the same function

# The values of a config that the kernels support; any of these keys may be absent.
EXPECTED = {
    "model_type": ("gpt2",),
    "activation_function": TANH_GELUS,
    "layer_norm_epsilon": (EPSILON,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
SIZES = {"vocab_size": "n_vocab", "n_positions": "n_ctx", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # attention masks, which older versions saved as well
HEAD, EMBEDDING = "lm_head.weight", "wte.weight"
TIED = "tie_word_embeddings"  # whether the head is the embedding; true where a config does not say so
# Modules that torch.compile and parallel training put around a model or its parts, which then are in the names.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Heads for other tasks, next to the output head: values of reinforcement learning, classification, answers.
EXTRA_HEADS = ("v_head", "value_head", "score", "classifier", "qa_outputs", "multiple_choice_head", "summary")


def is_huggingface(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a model saved by transformers."""
    return (pathlib.Path(folder) / CONFIG).is_file()


class HuggingFaceFolder:
    """A source for `convert`, with the interface of `TensorFlowCheckpoint`; `chat` is set for chat models."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        name: str | None = None,
        origin: str | None = None,
        weights: pathlib.Path | None = None,
    ):
        """
        Args:
            source: path of the folder.
            name, origin: as for `TensorFlowCheckpoint`; None derives them from the folder's name.
            weights: a file in the folder to read instead of the folder's default; a shard stands for all of them.

        Raises:
            CheckpointError: it is damaged or incomplete, or the model is not a GPT-2.
        """
        self.path = pathlib.Path(source)
        if weights and not is_huggingface(self.path):
            raise CheckpointError(f"{weights}: no {CONFIG} in its folder, expected the model's configuration")
        self._config = config = read_json(self.path / CONFIG)
        self.hyperparameters = read_hyperparameters(config, self.path / CONFIG)
        weights = weights_with(weights) if weights else weights_in(self.path)
        self.files = listed_files(weights)
        called = folder_name(self.path) or "model"
        if weights.name == default_weights(os.listdir(self.path)):
            self.name, self.origin = name or called, origin or f"Hugging Face folder {called}"
        else:
            self.name = name or f"{called}-{pathlib.Path(weights.name.removesuffix('.index.json')).stem}"
            self.origin = origin or f"Hugging Face folder {called}, file {weights.name}"
        self.licence = licence_of(self.path / "README.md")
        self.notes: list[str] = []
        is_dialogpt = _is_conversational(config)
        self.chat = {"format": "dialogpt"} if is_dialogpt else chat_settings(chat_template(self.path), self.notes)
        self._tensors: dict[str, StoredTensor] = {}  # by their names without "transformer."
        ignored: set[str] = set()
        for file in self.files:
            ignored |= add_tensors(self._tensors, file, read_tensors(file), EXTRA_HEADS)
        if ignored:
            heads = ", ".join(f"{head}.*" for head in sorted(ignored))
            self.notes.append(f"tensors of heads for other tasks are ignored: {heads}")
        self.is_tied = self._has_tied_head(config.get(TIED, True))
        self._names = self._match()
        self.size = sum(4 * math.prod(t.shape) for t in tensor_table(self.hyperparameters, "f32", 0, self.is_tied))

    def vocabulary(self) -> Vocabulary:
        """Read the `Vocabulary` of the folder's tokenizer files. Raises VocabularyError."""
        return read_tokenizer(self.path, self.hyperparameters.n_vocab, self._config)

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        return self._tensors[self._names[name]].values()

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read some rows of a tensor; see `TensorFlowCheckpoint.rows`."""
        return self._tensors[self._names[name]].rows(begin, end)

    def _has_tied_head(self, tied: Any) -> bool:
        """Return whether the output head is the token embedding.

        Args:
            tied: what the config says.
        """
        path, tensors = self.path / CONFIG, self._tensors
        if not isinstance(tied, bool):
            raise CheckpointError(f"{path}: {TIED} is {tied!r:.80}, expected true or false")
        if HEAD not in tensors:
            if not tied:
                raise CheckpointError(
                    f"{path}: {TIED} is false, so the model has an output head of its own, but the weights have no"
                    f" {HEAD} (save the model again with its head, or set {TIED} to true if the head is the token"
                    " embedding)"
                )
            return True
        if tied and EMBEDDING not in tensors:  # saved once, under either name
            tensors[EMBEDDING] = tensors[HEAD]
        is_same = tensors[HEAD].is_same(tensors.get(EMBEDDING))
        if tied and not is_same:
            self.notes.append(
                f"{CONFIG} says that the token embedding is the output head ({TIED} is true, or left out), but the"
                f" weights have a different {HEAD}, which is used"
            )
        return is_same

    def _match(self) -> dict[str, str]:
        """Return {our tensor name: the file's}.

        Raises:
            CheckpointError: a tensor is missing, extra or misshapen.
        """
        names: dict[str, str] = {}
        for tensor in tensor_table(self.hyperparameters, "f32", 0, self.is_tied):
            names[tensor.name] = name = hf_name(tensor.name)
            if name not in self._tensors:
                raise CheckpointError(f"{self.path}: tensor {name!r} is missing")
            shape = self._tensors[name].shape
            is_inputs_first = tensor.is_matrix and tensor.name not in ("wte", "lm_head")
            expected = tensor.shape[::-1] if is_inputs_first else tensor.shape
            if shape != expected:
                raise CheckpointError(
                    f"{self.path}: tensor {name!r} has shape {list(shape)}, expected {list(expected)} from {CONFIG}"
                )
        for name in self._tensors:
            if name not in {HEAD, *names.values()}:
                raise CheckpointError(f"{self.path}: unexpected tensor {name!r:.80} for a GPT-2")
        return names


def read_hyperparameters(config: dict[str, Any], path: pathlib.Path) -> Hyperparameters:
    """Return the hyperparameters of a GPT-2's config.

    Args:
        config: the content of config.json. path: its path, for messages.

    Raises:
        CheckpointError: the model is not a GPT-2, or computes differently.
    """
    for key, expected in EXPECTED.items():
        if key in config and config[key] not in expected:
            raise CheckpointError(f"{path}: {key} is {config[key]!r:.80}, expected {' or '.join(map(str, expected))}")
    if "model_type" not in config:
        raise CheckpointError(f"{path}: no model_type, expected gpt2")
    numbers = {}
    for key, name in SIZES.items():
        value = config.get(key, config.get("n_ctx") if key == "n_positions" else None)
        if type(value) is not int:
            raise CheckpointError(f"{path}: {key} is {value!r:.80}, expected an integer")
        numbers[name] = value
    hyperparameters = Hyperparameters(**numbers)
    if problem := hyperparameters.problem():
        raise CheckpointError(f"{path}: {problem}")
    if config.get("n_inner") not in (None, 4 * hyperparameters.n_embd):
        raise CheckpointError(f"{path}: n_inner is {config['n_inner']!r:.80}, expected 4 times n_embd")
    return hyperparameters


def add_tensors(
    found: dict[str, StoredTensor], path: pathlib.Path, tensors: Mapping[str, StoredTensor], heads: Collection[str] = ()
) -> set[str]:
    """Add the tensors of a file to those found before, by their names in the model itself.

    Args:
        heads: modules that are left out.

    Returns:
        Those of these modules that the file has.

    Raises:
        CheckpointError: a name appears twice, or a tensor is of a type that can't be read.
    """
    left_out = set()
    for name, tensor in tensors.items():
        short = _without_wrappers(name)
        if BUFFERS.fullmatch(short):
            continue
        if (module := short.partition(".")[0]) in heads:
            left_out.add(module)
            continue
        if short in found:
            raise CheckpointError(f"{path}: tensor {name!r:.80} appears twice")
        if tensor.dtype not in TYPES:
            raise CheckpointError(f"{path}: tensor {name!r:.80} is of type {tensor.dtype}, expected {', '.join(TYPES)}")
        found[short] = tensor
    return left_out


def _without_wrappers(name: str) -> str:
    """Return a tensor's name in the model itself: `h.0.ln_1.bias` of `module.transformer.h.0.ln_1.bias`."""
    short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    return short.removeprefix("transformer.")


def hf_name(name: str) -> str:
    """Return a tensor's name in transformers, without "transformer.": `h.0.attn.c_attn.weight`."""
    if name in ("wte", "wpe", "lm_head"):
        return f"{name}.weight"
    *module, kind = re.sub(r"^h(\d+)", r"h/\1", name).split("/")
    return ".".join([*module, "bias" if kind == "b" else "weight"])


def _is_conversational(config: dict[str, Any]) -> bool:
    """Return whether the model chats with turns separated by <|endoftext|>, as DialoGPT and its fine-tunes do."""
    tasks = config.get("task_specific_params")
    return isinstance(tasks, dict) and "conversational" in tasks


def licence_of(card: pathlib.Path) -> str | None:
    """Return the `license:` value in the header of a model card, or None."""
    try:
        with open_regular(card) as file:
            head = file.read(1 << 16).decode("utf-8-sig", "replace")
    except OSError:
        return None
    found = re.match(r"---\r?\n(?:.*\r?\n)*?license: *([\w .+-]{1,200})\r?\n", head)
    return found[1].strip() if found else None
