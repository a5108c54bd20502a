"""llm.c's model files, gpt2_124M.bin, and its tokenizer file, gpt2_tokenizer.bin, both written by train_gpt2.py.

A model file is a header of 256 int32 and the tensors, each for all layers together, matrices as (n_layer, n_out, n_in).
The rows of the token embedding are padded. A tokenizer file is such a header and the bytes of each token, in the order
of their ids, which is also the order in which byte-level BPE merges: the merges follow from it.
"""

from __future__ import annotations

import math
import os
import pathlib
import struct

import numpy as np

from gpt2rt.converter.source import folder_name
from gpt2rt.converter.source_file import SourceFile
from gpt2rt.converter.stored_tensor import StoredTensor
from gpt2rt.converter.vocabulary import END_OF_TEXT, Vocabulary, byte_characters
from gpt2rt.converter.vocabulary_folder import WHERE, read_vocabulary_folder
from gpt2rt.errors import CheckpointError, VocabularyError
from gpt2rt.modelfile import MAX_N_VOCAB, Hyperparameters, tensor_table
from gpt2rt.regular_file import open_regular, read_regular

HEADER = struct.Struct("<256i")
MODEL, TOKENIZER = 20240326, 20240328  # magic numbers
MODEL_VERSIONS = {3: ("F32", 4), 5: ("BF16", 2)}  # {version: (type, bytes of a value)}
TOKENIZER_VERSIONS = (1, 2)
TOKENIZER_FILE = "gpt2_tokenizer.bin"
MAX_TOKENIZER = HEADER.size + 256 * MAX_N_VOCAB  # bytes: a length and at most 255 bytes for each token
STEPS, MAX_STEPS = 128, 1 << 23  # for a token on average, and for a small vocabulary; GPT-2's takes 49 for one
LAYER_TENSORS = (  # in the order of the file
    *("ln_1/g", "ln_1/b", "attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b"),
    *("ln_2/g", "ln_2/b", "mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b"),
)


def is_llmc(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins with a magic number of llm.c's model and tokenizer files. Raises OSError."""
    with open_regular(path) as file:
        return int.from_bytes(file.read(4), "little") in (MODEL, TOKENIZER)


class LlmcFile:
    """A source for `convert`, with the interface of `TensorFlowCheckpoint`."""

    is_tied = True
    licence: str | None = None
    chat: dict[str, str] | None = None

    def __init__(self, source: str | os.PathLike[str], vocabulary: str | os.PathLike[str] | None = None):
        """
        Args:
            source: path of the file. vocabulary: the folder of its vocabulary; None reads the tokenizer file.

        Raises:
            CheckpointError: it is damaged or of another version.
        """
        self.path, self._vocabulary = pathlib.Path(source), vocabulary
        self.name, self.files, self.notes = self.path.stem, [self.path], list[str]()
        self.origin = f"llm.c file {folder_name(self.path.parent)}/{self.path.name}"
        try:
            file = SourceFile(self.path)
        except OSError as error:
            raise CheckpointError(f"{self.path}: can't be read: {error.strerror or error}") from None
        if len(file) < HEADER.size:
            raise CheckpointError(f"{self.path}: shorter than its header, {HEADER.size} bytes (truncated?)")
        magic, version, n_ctx, n_vocab, n_layer, n_head, n_embd, n_rows = file.unpack(HEADER, 0)[:8]
        if magic != MODEL:
            raise CheckpointError(f"{self.path}: a tokenizer file of llm.c, expected a model (give the model's path)")
        if version not in MODEL_VERSIONS:
            raise CheckpointError(
                f"{self.path}: version {version} of llm.c's model files, expected 3 (f32) or 5 (bf16) (write it again"
                " with llm.c's train_gpt2.py)"
            )
        self.hyperparameters = Hyperparameters(n_vocab, n_ctx, n_embd, n_head, n_layer)
        if problem := self.hyperparameters.problem():
            raise CheckpointError(f"{self.path}: {problem}")
        if not n_vocab <= n_rows <= MAX_N_VOCAB:
            raise CheckpointError(f"{self.path}: padded_vocab_size is {n_rows}, expected {n_vocab} to {MAX_N_VOCAB}")
        table = tensor_table(self.hyperparameters, "f32", 0, True)
        self._matrices = {tensor.name for tensor in table if tensor.is_matrix and tensor.name != "wte"}
        shapes = {tensor.name: tensor.shape for tensor in table}
        self.size = sum(4 * math.prod(shape) for shape in shapes.values())
        self._tensors: dict[str, StoredTensor] = {}
        position, (dtype, item) = HEADER.size, MODEL_VERSIONS[version]
        in_order = [f"h{layer}/{name}" for name in LAYER_TENSORS for layer in range(n_layer)]
        for name in ("wte", "wpe", *in_order, "ln_f/g", "ln_f/b"):
            self._tensors[name] = StoredTensor(file, dtype, shapes[name], position)
            position += item * (n_rows * n_embd if name == "wte" else math.prod(shapes[name]))
        if position != len(file):
            raise CheckpointError(
                f"{self.path}: has {len(file)} bytes, expected {position} from its header (truncated?)"
            )

    def vocabulary(self) -> Vocabulary:
        """Read the `Vocabulary` of the folder that the user named, or of the tokenizer file. Raises VocabularyError."""
        beside, n_vocab = self.path.with_name(TOKENIZER_FILE), self.hyperparameters.n_vocab
        if self._vocabulary is None:
            if not beside.is_file():
                raise VocabularyError(
                    f"{self.path}: no {TOKENIZER_FILE} in its folder, expected the tokenizer of llm.c ({WHERE})"
                )
            return vocabulary_of(beside, read_tokens(beside))
        vocabulary = read_vocabulary_folder(self._vocabulary, n_vocab)
        if beside.is_file() and vocabulary.tokens != (tokens := read_tokens(beside)):
            pairs = enumerate(zip(vocabulary.tokens, tokens, strict=False))
            first = next((token for token, (ours, theirs) in pairs if ours != theirs), min(n_vocab, len(tokens)))
            raise VocabularyError(
                f"{self._vocabulary}: token {first} is not that of {beside} (is this the model's vocabulary?)"
            )
        return vocabulary

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor, given its name in `modelfile.tensor_table`; see `TensorFlowCheckpoint.tensor`."""
        tensor = self._tensors[name]
        return tensor.transposed() if name in self._matrices else tensor.values()

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read some rows of `wte`; see `TensorFlowCheckpoint.rows`."""
        return self._tensors[name].rows(begin, end)


def read_tokens(path: pathlib.Path) -> list[bytes]:
    """Return the bytes of each token of a tokenizer file. Raises VocabularyError."""
    try:
        content = read_regular(path, MAX_TOKENIZER)
    except OSError as error:
        raise VocabularyError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(content) < HEADER.size:
        raise VocabularyError(f"{path}: shorter than its header, {HEADER.size} bytes (damaged?)")
    magic, version, n_vocab = HEADER.unpack_from(content)[:3]
    if magic != TOKENIZER or version not in TOKENIZER_VERSIONS:
        raise VocabularyError(f"{path}: not a tokenizer file of llm.c, version 1 or 2 (damaged?)")
    if not 1 <= n_vocab <= MAX_N_VOCAB:
        raise VocabularyError(f"{path}: {n_vocab} tokens, expected 1 to {MAX_N_VOCAB}")
    tokens, position = list[bytes](), HEADER.size
    while len(tokens) < n_vocab and position < len(content):
        end = position + 1 + content[position]
        tokens.append(content[position + 1 : end])
        position = end
    if len(tokens) < n_vocab or position != len(content):
        raise VocabularyError(f"{path}: {n_vocab} tokens do not end with the file (truncated?)")
    return tokens


def vocabulary_of(path: pathlib.Path, tokens: list[bytes]) -> Vocabulary:
    """Return the `Vocabulary` whose merges follow from the order of the tokens.

    A token of several bytes is the merge of the two parts that remain when all merges of lower rank are applied to its
    bytes.

    Raises:
        VocabularyError: a token is not the merge of two others, or there are too many long ones.
    """
    n_steps = sum(len(token) ** 2 for token in tokens)  # of the search for merges
    if n_steps > max(MAX_STEPS, STEPS * len(tokens)):
        raise VocabularyError(f"{path}: its tokens are longer than those of a vocabulary of bytes ({WHERE})")
    end, characters = END_OF_TEXT.encode(), byte_characters()
    ranks = {token: rank for rank, token in enumerate(tokens) if token != end}
    texts = [END_OF_TEXT if token == end else "".join(characters[byte] for byte in token) for token in tokens]
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) < 2 or token == end:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            found, at = min((ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1))
            if found >= rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) > 2 or not all(ranks.get(part, rank) < rank or len(part) == 1 for part in parts):
            raise VocabularyError(f"{path}: token {rank} is not the merge of two earlier ones ({WHERE})")
        merges.append(" ".join("".join(characters[byte] for byte in part) for part in parts))
    return Vocabulary.of(path, texts, merges)
