"""Hugging Face folders with a GPT-2 model: config.json, safetensors and tokenizer files, as saved by transformers."""

from __future__ import annotations

import math
import os
import pathlib
import re
from typing import Any

import numpy as np

from gpt2rt.converter.source import folder_name
from gpt2rt.converter.stored_tensor import TYPES, StoredTensor, read_safetensors
from gpt2rt.converter.tokenizer_files import chatml, read_json, read_tokenizer
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.errors import CheckpointError
from gpt2rt.modelfile import Hyperparameters, tensor_table

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
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
HEAD = "lm_head.weight"


def is_huggingface(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a model saved by transformers."""
    return (pathlib.Path(folder) / CONFIG).is_file()


class HuggingFaceFolder:
    """A source for `convert`, with the interface of `TensorFlowCheckpoint`; `chat` is set for chat models."""

    def __init__(self, source: str | os.PathLike[str], name: str | None = None, origin: str | None = None):
        """
        Args:
            source: path of the folder.
            name, origin: as for `TensorFlowCheckpoint`; None derives them from the folder's name.

        Raises:
            CheckpointError: it is damaged or incomplete, or the model is not a GPT-2.
        """
        self.path = pathlib.Path(source)
        self.name = name or folder_name(self.path) or "model"
        self.origin = origin or f"Hugging Face folder {self.name}"
        self._config = config = read_json(self.path / CONFIG)
        self.hyperparameters = self._hyperparameters(config)
        self.chat = {"format": "dialogpt"} if _is_conversational(config) else chatml(self.path)
        self.licence = _licence(self.path / "README.md")
        self._tensors: dict[str, StoredTensor] = {}  # by their names without "transformer."
        self.files = self._weight_files()
        for file in self.files:
            self._open(file)
        self._names, self.is_tied = self._match()
        self.size = sum(4 * math.prod(t.shape) for t in tensor_table(self.hyperparameters, "f32", 0, self.is_tied))

    def vocabulary(self) -> Vocabulary:
        """Read the `Vocabulary` of the folder's tokenizer files. Raises VocabularyError."""
        return read_tokenizer(self.path, self.hyperparameters.n_vocab, self._config)

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        return self._tensors[self._names[name]].values()

    def release(self, array: np.ndarray) -> None:
        """Release the pages of a part of a tensor that is mapped from a file."""
        for tensor in self._tensors.values():
            if tensor.release(array):
                return

    def _hyperparameters(self, config: dict[str, Any]) -> Hyperparameters:
        path = self.path / CONFIG
        for key, expected in EXPECTED.items():
            if key in config and config[key] not in expected:
                raise CheckpointError(
                    f"{path}: {key} is {config[key]!r:.80}, expected {' or '.join(map(str, expected))}"
                )
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

    def _weight_files(self) -> list[pathlib.Path]:
        """Return the files of the weights, sorted by name."""
        if (self.path / WEIGHTS).is_file():
            return [self.path / WEIGHTS]
        if (self.path / INDEX).is_file():
            shards = read_json(self.path / INDEX).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise CheckpointError(f"{self.path / INDEX}: no weight_map, expected {{tensor: file}}")
            names = sorted(set(map(str, shards.values())))
            for name in names:
                if not re.fullmatch(r"[\w.-]+\.safetensors", name):
                    raise CheckpointError(f"{self.path / INDEX}: file name {name!r:.80} is not one in this folder")
                if not (self.path / name).is_file():
                    raise CheckpointError(f"{self.path}: {name} is missing (incomplete download?)")
            return [self.path / name for name in names]
        if any((self.path / name).is_file() for name in PICKLES):
            raise CheckpointError(
                f"{self.path}: {PICKLES[0]} is a pickle, which can run code when it is loaded (save the model as"
                " safetensors with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW))"
            )
        raise CheckpointError(f"{self.path}: has {CONFIG} but no {WEIGHTS} (incomplete download?)")

    def _open(self, path: pathlib.Path) -> None:
        """List the tensors of a file."""
        for name, tensor in read_safetensors(path).items():
            short = name.removeprefix("transformer.")
            if BUFFERS.fullmatch(short):
                continue
            if short in self._tensors:
                raise CheckpointError(f"{path}: tensor {name!r:.80} appears twice")
            if tensor.dtype not in TYPES:
                raise CheckpointError(
                    f"{path}: tensor {name!r:.80} is of type {tensor.dtype}, expected {', '.join(TYPES)}"
                )
            self._tensors[short] = tensor

    def _match(self) -> tuple[dict[str, str], bool]:
        """Return ({our tensor name: the file's}, is_tied).

        Raises:
            CheckpointError: a tensor is missing, extra or misshapen.
        """
        is_tied = HEAD not in self._tensors or self._tensors[HEAD].is_same(self._tensors.get("wte.weight"))
        names: dict[str, str] = {}
        for tensor in tensor_table(self.hyperparameters, "f32", 0, is_tied):
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
        return names, is_tied


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


def _licence(card: pathlib.Path) -> str | None:
    """Return the `license:` value in the header of a model card, or None."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            head = file.read(1 << 16)
    except OSError:
        return None
    found = re.match(r"---\r?\n(?:.*\r?\n)*?license: *([\w .+-]{1,200})\r?\n", head)
    return found[1].strip() if found else None
