"""Hugging Face folders with a GPT-2 model: config.json, safetensors and tokenizer files, as saved by transformers.

The safetensors package checks the files; their tensors are then read in place, without copying.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import pathlib
import re
import struct
from typing import Any

import numpy as np

from gpt2rt.converter.source import folder_name
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.errors import CheckpointError, Gpt2rtError, VocabularyError
from gpt2rt.modelfile import Hyperparameters, tensor_table

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_JSON = 64 << 20  # bytes of a JSON file
TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
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

Entry = tuple[mmap.mmap, str, tuple[int, ...], int]
Texts = tuple[dict[str, int], list[str], list[tuple[str, Any]]]


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
        config = _read_json(self.path / CONFIG)
        self.hyperparameters = self._hyperparameters(config)
        self.chat = {"format": "dialogpt"} if _is_conversational(config) else None
        self.licence = _licence(self.path / "README.md")
        self._tensors: dict[str, Entry] = {}  # {name without "transformer.": (file mapping, dtype, shape, offset)}
        self.files = self._weight_files()
        for file in self.files:
            self._open(file)
        self._names, self.is_tied = self._match()
        self.size = sum(4 * math.prod(t.shape) for t in tensor_table(self.hyperparameters, "f32", 0, self.is_tied))

    def vocabulary(self) -> Vocabulary:
        """Read the `Vocabulary` of tokenizer.json, or of vocab.json and merges.txt. Raises VocabularyError."""
        path = self.path / "tokenizer.json"
        if path.is_file():
            ids, merges, added = _read_tokenizer(path)
        else:
            path = self.path / "vocab.json"
            if not path.is_file():
                raise VocabularyError(
                    f"{self.path}: no tokenizer in it, expected tokenizer.json, or vocab.json and merges.txt"
                    " (tokenizer.save_pretrained(folder) of transformers writes them)"
                )
            ids, merges, added = _read_vocabulary(self.path)
        n_vocab = self.hyperparameters.n_vocab
        texts: list[str | None] = [None] * n_vocab
        for text, token in [*ids.items(), *added]:
            if type(token) is not int or not 0 <= token < n_vocab:
                raise VocabularyError(f"{path}: token {text!r:.80} has id {token!r:.80}, expected 0 to {n_vocab - 1}")
            if texts[token] not in (None, text):
                raise VocabularyError(f"{path}: tokens {texts[token]!r:.80} and {text!r:.80} both have id {token}")
            texts[token] = text
        # Some training tools pad n_vocab to a round number.
        names = [f"<|unused {token}|>" if text is None else text for token, text in enumerate(texts)]
        return Vocabulary.of(path, names, merges)

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        content, dtype, shape, offset = self._tensors[self._names[name]]
        array = np.frombuffer(content, TYPES[dtype], math.prod(shape), offset).reshape(shape)
        if dtype == "BF16":  # the upper half of an f32
            return (array.astype("<u4") << 16).view("<f4")
        return array if dtype == "F32" and array.flags.aligned else array.astype("<f4")

    def release(self, array: np.ndarray) -> None:
        """Release the pages of a part of a tensor that is mapped from a file."""
        for content, *_ in self._tensors.values():
            begin = array.ctypes.data - np.frombuffer(content, np.uint8).ctypes.data
            if 0 <= begin < len(content) and hasattr(mmap, "MADV_DONTNEED"):
                first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
                end = min(begin + array.nbytes, len(content)) // mmap.PAGESIZE * mmap.PAGESIZE
                if end > first:
                    content.madvise(mmap.MADV_DONTNEED, first, end - first)
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
            shards = _read_json(self.path / INDEX).get("weight_map")
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
        """Map a file and list its tensors, after safetensors has validated it."""
        try:
            from safetensors import SafetensorError, safe_open  # optional dependency
        except ImportError:
            raise CheckpointError(
                f'{self.path}: requires the package safetensors (pip install "gpt2rt[huggingface]")'
            ) from None
        try:
            with safe_open(path, framework="numpy"):
                pass
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                entries = json.loads(file.read(length))
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a valid safetensors file: {error!s:.200} (truncated?)") from None
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
        for name, entry in entries.items():
            short = name.removeprefix("transformer.")
            if name == "__metadata__" or BUFFERS.fullmatch(short):
                continue
            if short in self._tensors:
                raise CheckpointError(f"{path}: tensor {name!r:.80} appears twice")
            if entry["dtype"] not in TYPES:
                raise CheckpointError(
                    f"{path}: tensor {name!r:.80} is of type {entry['dtype']}, expected {', '.join(TYPES)}"
                )
            offset = 8 + length + entry["data_offsets"][0]
            self._tensors[short] = content, entry["dtype"], tuple(entry["shape"]), offset

    def _match(self) -> tuple[dict[str, str], bool]:
        """Return ({our tensor name: the file's}, is_tied).

        Raises:
            CheckpointError: a tensor is missing, extra or misshapen.
        """
        is_tied = HEAD not in self._tensors or self._is_same(HEAD, "wte.weight")
        names: dict[str, str] = {}
        for tensor in tensor_table(self.hyperparameters, "f32", 0, is_tied):
            names[tensor.name] = name = hf_name(tensor.name)
            if name not in self._tensors:
                raise CheckpointError(f"{self.path}: tensor {name!r} is missing")
            shape = self._tensors[name][2]
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

    def _is_same(self, one: str, other: str) -> bool:
        """Return whether two tensors are identical, bit for bit."""
        if other not in self._tensors or self._tensors[one][1:3] != self._tensors[other][1:3]:
            return False
        bits = []
        for name in (one, other):
            content, dtype, shape, offset = self._tensors[name]
            bits.append(np.frombuffer(content, TYPES[dtype].replace("f", "u"), math.prod(shape), offset))
        return np.array_equal(bits[0], bits[1])


def hf_name(name: str) -> str:
    """Return a tensor's name in transformers, without "transformer.": `h.0.attn.c_attn.weight`."""
    if name in ("wte", "wpe", "lm_head"):
        return f"{name}.weight"
    *module, kind = re.sub(r"^h(\d+)", r"h/\1", name).split("/")
    return ".".join([*module, "bias" if kind == "b" else "weight"])


def _read_json(path: pathlib.Path, error_class: type[Gpt2rtError] = CheckpointError) -> dict[str, Any]:
    """Read an object from a JSON file."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise error_class(f"{path}: larger than {MAX_JSON} bytes, expected a smaller file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise error_class(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise error_class(f"{path}: not valid JSON: {error!s:.200} (damaged download?)") from None
    if not isinstance(content, dict):
        raise error_class(f"{path}: contains a {type(content).__name__}, expected an object")
    return content


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


def _read_tokenizer(path: pathlib.Path) -> Texts:
    """Parse tokenizer.json: ({text: id}, merges in the format of vocab.bpe, [(text, id)] of added tokens)."""
    content = _read_json(path, VocabularyError)
    model, splitter = content.get("model"), content.get("pre_tokenizer")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise VocabularyError(f"{path}: unsupported tokenizer model, expected GPT-2's byte-level BPE")
    is_byte_level = (
        isinstance(splitter, dict) and splitter.get("type") == "ByteLevel" and splitter.get("use_regex", True)
    )
    if content.get("normalizer") is not None or not is_byte_level:
        raise VocabularyError(f"{path}: unsupported pre_tokenizer or normalizer, expected GPT-2's")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise VocabularyError(f"{path}: no merges, expected a list")
    merges = [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise VocabularyError(f"{path}: added_tokens must be a list of objects")
    return model["vocab"], merges, [(str(token.get("content")), token.get("id")) for token in added]


def _read_vocabulary(folder: pathlib.Path) -> Texts:
    """Parse vocab.json, merges.txt, added_tokens.json and tokenizer_config.json, as `_read_tokenizer`."""
    ids = _read_json(folder / "vocab.json", VocabularyError)
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise VocabularyError(f"{folder / 'merges.txt'}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{folder / 'merges.txt'}: byte {error.start} is not UTF-8 (damaged?)") from None
    merges = [line.removesuffix("\r") for line in lines]
    if merges[0].startswith("#version"):
        del merges[0]
    while merges and not merges[-1]:
        del merges[-1]
    added: list[tuple[str, Any]] = []
    if (folder / "added_tokens.json").is_file():
        added += _read_json(folder / "added_tokens.json", VocabularyError).items()
    if (folder / "tokenizer_config.json").is_file():
        tokens = _read_json(folder / "tokenizer_config.json", VocabularyError).get("added_tokens_decoder") or {}
        if not isinstance(tokens, dict) or not all(isinstance(token, dict) for token in tokens.values()):
            raise VocabularyError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder must contain objects")
        added += [
            (str(token.get("content")), int(number) if number.isdecimal() else number)
            for number, token in tokens.items()
        ]
    return ids, merges, added
