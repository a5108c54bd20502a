"""GGUF files of architecture gpt2, as written by llama.cpp's tools: weights and vocabulary in one file."""

from __future__ import annotations

import math
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from gpt2rt.converter.gguf_header import MAGIC, GgufTensor, MalformedGgufError, read_header
from gpt2rt.converter.source_file import SourceFile
from gpt2rt.converter.tokenizer_files import chat_settings
from gpt2rt.converter.vocabulary import END_OF_TEXT, Controls, Vocabulary
from gpt2rt.errors import CheckpointError, VocabularyError
from gpt2rt.modelfile import Hyperparameters, tensor_table
from gpt2rt.regular_file import open_regular

Path = str | os.PathLike[str]

COMPARED = 4 << 20  # bytes that are compared at a time
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # types of tokens; the others are normal ones
EPSILON = 1e-5  # of the layer norms; the kernels support no other value
SPLITTERS = (None, "default", "gpt-2")  # names of GPT-2's pre-tokenizer
NUMBER, COUNT, N_TENSORS = "split.no", "split.count", "split.tensors.count"  # of the parts of a split file
PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
HEAD = "output.weight"  # optional: without it, the head is the token embedding
GLOBAL_NAMES = {
    **{"wpe": "position_embd.weight", "wte": "token_embd.weight"},
    **{"ln_f/g": "output_norm.weight", "ln_f/b": "output_norm.bias", "lm_head": HEAD},
}
LAYER_NAMES = {
    **{"ln_1": "attn_norm", "attn/c_attn": "attn_qkv", "attn/c_proj": "attn_output"},
    **{"ln_2": "ffn_norm", "mlp/c_fc": "ffn_up", "mlp/c_proj": "ffn_down"},
}


def is_gguf(path: Path) -> bool:
    """Return whether a file begins with GGUF's magic number. Raises OSError."""
    with open_regular(path) as file:
        return file.read(len(MAGIC)) == MAGIC


class _Stored(NamedTuple):
    """A tensor in a file."""

    file: SourceFile
    entry: GgufTensor

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Read some rows, of a vector all values as one, in f32."""
        shape = self.entry.shape
        n = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
        stride = self.entry.size // max(1, math.prod(shape) // max(1, n))
        stored = self.file.array("u1", self.entry.offset + begin * stride, ((end - begin) * stride,))
        return _values(self.entry.kind, stored).reshape(end - begin, n)


def _values(kind: str, stored: np.ndarray) -> np.ndarray:
    """Return the values of a tensor's bytes, in f32."""
    if kind == "BF16":  # the upper half of an f32
        return (stored.view("<u2").astype("<u4") << 16).view("<f4")
    if kind == "Q8_0":  # blocks of 32 values: a scale in f16, and their codes
        blocks = stored.reshape(-1, 34)
        scales = blocks[:, :2].copy().view("<f2").astype("<f4")
        values: np.ndarray = np.multiply(scales, blocks[:, 2:].view(np.int8), dtype="<f4")
        return values.ravel()
    return np.asarray(stored.view("<f4" if kind == "F32" else "<f2"), "<f4")


class GgufFile:
    """A source for `convert`, with the interface of `TensorFlowCheckpoint`."""

    def __init__(self, source: Path, name: str | None = None, origin: str | None = None):
        """
        Args:
            source: path of the file; of a split file, any part.
            name, origin: as for `TensorFlowCheckpoint`; None derives them from the file's name.

        Raises:
            CheckpointError: it is damaged, not a GPT-2, or has tensors of a type other than F32, F16, BF16 and Q8_0.
        """
        self.path = pathlib.Path(source)
        self.notes: list[str] = []
        self.files, called = [self.path], self.path.stem
        self._metadata, self._tensors = self._read(self.path)
        if self._metadata.get(COUNT, 1) != 1:
            called = self._read_parts()
        self.name, self.origin = name or called, origin or f"GGUF file {self.path.name}"
        licence = self._metadata.get("general.license")
        self.licence = licence if isinstance(licence, str) and licence.isprintable() and len(licence) <= 200 else None
        template = self._metadata.get("tokenizer.chat_template")
        self.chat = chat_settings(template if isinstance(template, str) else None, self.notes)
        self.hyperparameters = self._hyperparameters()
        self.is_tied = not self._has_head()
        self._names = self._match()
        self.size = sum(4 * math.prod(t.shape) for t in tensor_table(self.hyperparameters, "f32", 0, self.is_tied))

    def vocabulary(self) -> Vocabulary:
        """Read the `Vocabulary`. Raises VocabularyError."""
        texts, merges = (self._metadata[f"tokenizer.ggml.{what}"] for what in ("tokens", "merges"))
        kinds = self._metadata.get("tokenizer.ggml.token_type")
        if kinds is None:
            return Vocabulary.of(self.path, texts, merges, controls=self._controls(texts))
        if not isinstance(kinds, list) or len(kinds) != len(texts):
            raise VocabularyError(f"{self.path}: tokenizer.ggml.token_type: expected a number for each token")
        added = {token for token, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL, USER_DEFINED)}
        unused = {token for token, kind in enumerate(kinds) if kind == UNUSED}
        return Vocabulary.of(self.path, texts, merges, added, unused, self._controls(texts))

    def _controls(self, texts: list[str]) -> Controls:
        """Return which tokens begin and end a text; `<|endoftext|>` does where the file says nothing."""

        def token(name: str) -> int | None:
            value = self._metadata.get(f"tokenizer.ggml.{name}_token_id")
            return value if type(value) is int and 0 <= value < len(texts) else None

        eos = tuple(dict.fromkeys(end for end in (token("eos"), token("eot")) if end is not None))
        prefix_space, add_bos, add_eos = (
            self._metadata.get(f"tokenizer.ggml.{name}", False)
            for name in ("add_space_prefix", "add_bos_token", "add_eos_token")
        )
        controls = Controls(eos, token("bos"), token("padding"), bool(prefix_space), bool(add_bos))
        controls = controls.completed(texts.index(END_OF_TEXT) if END_OF_TEXT in texts else None)
        if add_eos or (add_bos and controls.bos is None):
            wrong = "add_eos_token is true" if add_eos else "add_bos_token is true without a bos_token_id"
            raise VocabularyError(f"{self.path}: tokenizer.ggml.{wrong}, expected false")
        return controls

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        tensor = self._tensors[self._names[name]]
        shape = tensor.entry.shape
        array = tensor.rows(0, shape[0] if len(shape) == 2 else 1).reshape(shape)
        is_transposed = array.ndim == 2 and name not in ("wte", "wpe", "lm_head")
        return np.ascontiguousarray(array.T if is_transposed else array)

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read some rows of a tensor; see `TensorFlowCheckpoint.rows`."""
        return self._tensors[self._names[name]].rows(begin, end)

    def _read(self, path: pathlib.Path) -> tuple[dict[str, Any], dict[str, _Stored]]:
        """Return the metadata and the tensors of one file, by name. Raises CheckpointError."""
        try:
            file = SourceFile(path)
            metadata, tensors = read_header(file)
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
        except MalformedGgufError as error:
            raise CheckpointError(f"{path}: {error} (truncated or damaged?)") from error
        return metadata, {name: _Stored(file, entry) for name, entry in tensors.items()}

    def _read_parts(self) -> str:
        """Read all parts of a split file; the first has the metadata of the model. Return the name of the whole."""
        count, part = self._value(COUNT, int), PART.fullmatch(self.path.name)
        if not part or int(part[2]) != count or count < 1:
            raise CheckpointError(
                f"{self.path}: one of {count} parts of a split file, expected a name like"
                f" {self.path.stem[:80]}-00001-of-{max(count, 1):05}.gguf, by which the others are found"
            )
        self.files = [self.path.with_name(f"{part[1]}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
        for path in self.files:
            if not path.is_file():
                raise CheckpointError(
                    f"{path}: missing, expected all {count} parts of the split file in one folder (incomplete"
                    " download?)"
                )
        self._tensors = {}
        for i, path in enumerate(self.files):
            metadata, tensors = self._read(path)
            found = metadata.get(NUMBER), metadata.get(COUNT)
            if found != (i, count):
                raise CheckpointError(
                    f"{path}: {NUMBER} and {COUNT} are {found[0]!r:.80} and {found[1]!r:.80}, expected {i} and {count}"
                )
            if i == 0:
                self._metadata = metadata
            for name in tensors:
                if name in self._tensors:
                    raise CheckpointError(f"{path}: tensor {name!r:.80} is in another part as well")
            self._tensors |= tensors
        if (n_tensors := self._metadata.get(N_TENSORS)) != len(self._tensors):
            raise CheckpointError(
                f"{self.files[0]}: {N_TENSORS} is {n_tensors!r:.80}, but the parts have {len(self._tensors)} tensors"
            )
        return part[1]

    def _value(self, key: str, kind: type) -> Any:
        value = self._metadata.get(key)
        if type(value) is not kind:
            got = f"{key} is {value!r:.80}" if key in self._metadata else f"no {key}"
            raise CheckpointError(f"{self.path}: {got}, expected a {kind.__name__}")
        return value

    def _hyperparameters(self) -> Hyperparameters:
        expected = {"general.architecture": "gpt2", "tokenizer.ggml.model": "gpt2"}
        for key, wanted in expected.items():
            if self._value(key, str) != wanted:
                raise CheckpointError(f"{self.path}: {key} is {self._metadata[key]!r:.80}, expected {wanted!r}")
        if (splitter := self._metadata.get("tokenizer.ggml.pre")) not in SPLITTERS:
            raise CheckpointError(f"{self.path}: tokenizer.ggml.pre is {splitter!r:.80}, expected 'gpt-2'")
        epsilon = self._value("gpt2.attention.layer_norm_epsilon", float)
        if not math.isclose(epsilon, EPSILON, rel_tol=1e-6):
            raise CheckpointError(
                f"{self.path}: gpt2.attention.layer_norm_epsilon is {epsilon:.3g}, expected {EPSILON}"
            )
        for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
            if not all(isinstance(text, str) for text in self._value(key, list)):
                raise CheckpointError(f"{self.path}: {key} must contain only strings")
        hyperparameters = Hyperparameters(
            n_vocab=len(self._metadata["tokenizer.ggml.tokens"]),
            n_ctx=self._value("gpt2.context_length", int),
            n_embd=self._value("gpt2.embedding_length", int),
            n_head=self._value("gpt2.attention.head_count", int),
            n_layer=self._value("gpt2.block_count", int),
        )
        if problem := hyperparameters.problem():
            raise CheckpointError(f"{self.path}: {problem}")
        return hyperparameters

    def _match(self) -> dict[str, str]:
        """Map our tensor names to the file's. Raises CheckpointError if one is missing, extra or misshapen."""
        names: dict[str, str] = {}
        for tensor in tensor_table(self.hyperparameters, "f32", 0, self.is_tied):
            names[tensor.name] = name = _gguf_name(tensor.name)
            if name not in self._tensors:
                raise CheckpointError(f"{self.path}: tensor {name!r} is missing")
            shape = self._tensors[name].entry.shape
            if shape != tensor.shape:
                raise CheckpointError(
                    f"{self.path}: tensor {name!r} has shape {list(shape)}, expected {list(tensor.shape)}"
                    " from the metadata"
                )
        for name in self._tensors:
            if name not in {HEAD, *names.values()}:
                raise CheckpointError(f"{self.path}: unexpected tensor {name!r} for a GPT-2")
        return names

    def _has_head(self) -> bool:
        """Return whether the output head differs from the token embedding."""
        if not {HEAD, GLOBAL_NAMES["wte"]} <= self._tensors.keys():
            return False
        head, embedding = self._tensors[HEAD], self._tensors[GLOBAL_NAMES["wte"]]
        if head.entry[1:3] != embedding.entry[1:3]:
            return True
        size = head.entry.size
        for begin in range(0, size, COMPARED):
            n = min(COMPARED, size - begin)
            first, second = (tensor.file.array("u1", tensor.entry.offset + begin, (n,)) for tensor in (head, embedding))
            if not np.array_equal(first, second):
                return True
        return False


def _gguf_name(name: str) -> str:
    """Return a tensor's name in GGUF: `h0/attn/c_attn/w` is `blk.0.attn_qkv.weight`."""
    if name in GLOBAL_NAMES:
        return GLOBAL_NAMES[name]
    layer, _, rest = name.partition("/")
    module, _, kind = rest.rpartition("/")
    return f"blk.{layer[1:]}.{LAYER_NAMES[module]}.{'bias' if kind == 'b' else 'weight'}"
