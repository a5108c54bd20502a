"""GGUF files of architecture gpt2, as written by llama.cpp's tools: weights and vocabulary in one file.

The gguf package reads them. It does not validate counts and sizes, so they are checked here first.
"""

from __future__ import annotations

import math
import mmap
import os
import pathlib
import re
import struct
from typing import Any

import numpy as np

from gpt2rt.converter.tokenizer_files import chat_settings
from gpt2rt.converter.vocabulary import END_OF_TEXT, Controls, Vocabulary
from gpt2rt.errors import CheckpointError, VocabularyError
from gpt2rt.modelfile import MAX_N_LAYER, Hyperparameters, align, tensor_table

Path = str | os.PathLike[str]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 16 * MAX_N_LAYER
MAX_KEYS = 10_000
MAX_KEY = 65_535  # bytes
MAX_TEXT = 1 << 24  # bytes of a string in the metadata
MAX_ITEMS = 1 << 20  # in all arrays of the metadata together; the package uses 700 bytes for each
MAX_ALIGNMENT = 1 << 20
MAX_RANK = 4
ALIGNMENT = 32  # of the tensors, unless the file specifies another

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # {value type: bytes}
U32, TEXT, LIST = 4, 8, 9
# {type: (name, values of a block, its bytes)}
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 8: ("Q8_0", 32, 34), 30: ("BF16", 1, 2)}
OTHER_TYPES = {
    **{2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"},
    **{20: "IQ4_NL", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"},
}

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


class _MalformedError(Exception):
    """Malformed bytes; the message is the rest of a sentence that begins with the path."""


def is_gguf(path: Path) -> bool:
    """Return whether a file begins with GGUF's magic number. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


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
        try:
            import gguf  # optional dependency
        except ImportError:
            raise CheckpointError(f'{source}: requires the package gguf (pip install "gpt2rt[gguf]")') from None
        self._dequantize, self._reader = gguf.quants.dequantize, gguf.GGUFReader
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
        array = self._dequantize(tensor.data, tensor.tensor_type)
        is_transposed = array.ndim == 2 and name not in ("wte", "wpe", "lm_head")
        return np.ascontiguousarray(array.T if is_transposed else array, np.float32)

    def release(self, array: np.ndarray) -> None:
        """Do nothing: the memory is freed with the array."""

    def _read(self, path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the metadata and the tensors of one file, by name. Raises CheckpointError."""
        try:
            _check(path)
            reader = self._reader(path)
            metadata = {key: field.contents() for key, field in reader.fields.items()}
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
        except _MalformedError as error:
            raise CheckpointError(f"{path}: {error} (truncated or damaged?)") from None
        except Exception as error:  # the package's reader may raise anything
            raise CheckpointError(f"{path}: not a valid GGUF file: {error!r:.200}") from None
        return metadata, {tensor.name: tensor for tensor in reader.tensors}

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
            shape = tuple(reversed(self._tensors[name].shape.tolist()))
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
        return head.tensor_type != embedding.tensor_type or not np.array_equal(head.data, embedding.data)


def _gguf_name(name: str) -> str:
    """Return a tensor's name in GGUF: `h0/attn/c_attn/w` is `blk.0.attn_qkv.weight`."""
    if name in GLOBAL_NAMES:
        return GLOBAL_NAMES[name]
    layer, _, rest = name.partition("/")
    module, _, kind = rest.rpartition("/")
    return f"blk.{layer[1:]}.{LAYER_NAMES[module]}.{'bias' if kind == 'b' else 'weight'}"


def _check(path: Path) -> None:
    """Check all counts, sizes and offsets against the file's size and the limits. Raises _MalformedError."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise _MalformedError("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            scan = _Scan(content, size)
            if content[:4] != MAGIC:
                raise _MalformedError(f"it begins with {content[:4]!r}, expected {MAGIC!r}")
            scan.position = 4
            if (version := scan.number(4)) not in VERSIONS:
                raise _MalformedError(f"version {version}, expected 2 or 3 in little-endian order")
            n_tensors = scan.count("tensors", MAX_TENSORS)
            n_keys = scan.count("keys", MAX_KEYS)
            alignment = ALIGNMENT
            for _ in range(n_keys):
                key, kind = scan.text("a key", MAX_KEY), scan.number(4)
                begin = scan.position
                scan.skip_value(kind)
                if key == b"general.alignment":
                    alignment = int.from_bytes(content[begin : begin + 4], "little") if kind == U32 else 0
            if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
                raise _MalformedError(f"general.alignment is {alignment}, expected a power of two of type u32")
            ends = [scan.tensor() for _ in range(n_tensors)]
            begin = align(scan.position, alignment)
            for name, offset, length in ends:
                if offset % alignment:
                    raise _MalformedError(f"tensor {name!r} is at byte {offset}, expected a multiple of {alignment}")
                if begin + offset + length > size:
                    raise _MalformedError(
                        f"tensor {name!r} ends at byte {begin + offset + length}, but the file has {size} bytes"
                    )


class _Scan:
    """A cursor over the header of a file."""

    def __init__(self, content: mmap.mmap, size: int):
        self._content, self._size, self.position = content, size, 0
        self._items_left = MAX_ITEMS

    def skip(self, n_bytes: int) -> None:
        self.position += n_bytes
        if self.position > self._size:
            raise _MalformedError(f"its header ends at byte {self.position} or later, but the file has {self._size}")

    def number(self, n_bytes: int) -> int:
        begin = self.position
        self.skip(n_bytes)
        number: int = struct.unpack_from("<I" if n_bytes == 4 else "<Q", self._content, begin)[0]
        return number

    def count(self, what: str, limit: int) -> int:
        count = self.number(8)
        if count > limit:
            raise _MalformedError(f"{count} {what}, expected at most {limit}")
        return count

    def text(self, what: str, limit: int) -> bytes:
        length = self.count(f"bytes of {what}", limit)
        self.skip(length)
        return self._content[self.position - length : self.position]

    def skip_value(self, kind: int) -> None:
        """Skip a value of the metadata."""
        if kind == LIST:
            item, n_items = self.number(4), self.count("more array items", self._items_left)
            self._items_left -= n_items
            if item == TEXT:
                for _ in range(n_items):
                    self.skip(self.count("bytes of a string", MAX_TEXT))
            elif item in SCALARS:
                self.skip(n_items * SCALARS[item])
            else:
                raise _MalformedError(f"an array has items of unknown type {item}")
        elif kind == TEXT:
            self.skip(self.count("bytes of a string", MAX_TEXT))
        elif kind in SCALARS:
            self.skip(SCALARS[kind])
        else:
            raise _MalformedError(f"a value is of unknown type {kind}")

    def tensor(self) -> tuple[str, int, int]:
        """Read the next tensor's entry and return (name, offset, length)."""
        name = self.text("a tensor name", MAX_KEY).decode(errors="replace")
        rank = self.number(4)
        if rank > MAX_RANK:
            raise _MalformedError(f"tensor {name!r} has {rank} dimensions, expected at most {MAX_RANK}")
        shape = [self.number(8) for _ in range(rank)]
        kind, offset = self.number(4), self.number(8)
        if kind not in TYPES:
            raise _MalformedError(
                f"tensor {name!r} is of type {OTHER_TYPES.get(kind, kind)}, expected F32, F16, BF16 or Q8_0"
                " (use such a file)"
            )
        type_name, n_values, n_bytes = TYPES[kind]
        if shape and shape[0] % n_values:
            raise _MalformedError(f"tensor {name!r} of {type_name} has rows of {shape[0]}, expected a multiple of 32")
        return name, offset, math.prod(shape) // n_values * n_bytes
