"""The layout of a model file: constants, limits and offsets.

`docs/format.md` is normative.
"""

from __future__ import annotations

import struct
from collections import namedtuple

MAGIC = b"\x89GPT2RT\n"
VERSION = 2  # what is written
VERSIONS = (1, 2)  # what can be read; a vocabulary of version 1 has no table of controls
ALIGNMENT = 4096  # of sections
TENSOR_ALIGNMENT = 64  # of tensors in the weights, and of tables in the vocabulary: one cache line
TILE = 16  # rows of a matrix that are stored together

WEIGHT_TYPES = ("f32", "f16", "int8", "int4")  # the header holds the index
QUANTIZED = ("int8", "int4")
GROUP_SIZES = (16, 32, 64, 128, 256)
DEFAULT_GROUP_SIZE = {"f32": 0, "f16": 0, "int8": 64, "int4": 32}

MAX_N_VOCAB = 1 << 20
MAX_N_CTX = 1 << 16
MAX_N_EMBD = 1 << 14
MAX_N_HEAD = 1 << 10
MAX_N_LAYER = 1 << 10
MAX_METADATA = 1 << 20  # bytes
METADATA_ROOM = 1024  # bytes by which the metadata may grow while the weights are written
MAX_TOKEN_BYTES = 1 << 28  # of all tokens of a vocabulary together
MAX_EOS = 16  # tokens that end a text

HEADER = struct.Struct("<8sIIQIIIIIIII")  # up to the section table
SECTION = struct.Struct("<QQII")
SECTION_TABLE = 64  # offset of the section table in the header
SECTIONS = ("metadata", "vocabulary", "weights")
FLAG_HEAD = 1  # the output head is a separate matrix
CHECKSUM = struct.Struct("<I")
CHECKSUM_OFFSET = ALIGNMENT - CHECKSUM.size
VOCABULARY_HEADER = struct.Struct("<IIIII")  # n_merges, n_slots, n_special, token_bytes, n_controls
CONTROLS = struct.Struct("<III")  # flags, bos, pad; the ids of the tokens that end a text follow
FLAG_PREFIX_SPACE = 1  # a text that begins without a space gets one
FLAG_BOS = 2  # a text begins with bos
NO_TOKEN = 0xFFFFFFFF  # the left token of an empty slot; a bos or pad that there isn't
MERGE_SLOT = struct.Struct("<IIII")  # left, right, rank, merged id

Tensor = namedtuple("Tensor", "name shape is_matrix offset length")
Tensor.__doc__ = "A tensor of the weights section: name and shape as in the checkpoint, byte offset in the section."

Table = namedtuple("Table", "name offset length")
Table.__doc__ = "A table of the vocabulary section: name, byte offset in the section, length in bytes."


def align(n: int, to: int) -> int:
    """Return the smallest multiple of `to` that is at least `n`."""
    return -(-n // to) * to


class Hyperparameters(namedtuple("Hyperparameters", "n_vocab n_ctx n_embd n_head n_layer")):
    """The five numbers that define the shape of a GPT-2, named as in the release's hparams.json."""

    __slots__ = ()

    def problem(self) -> str | None:
        """Return what is wrong with these numbers, as the rest of a message, or None."""
        limits = (MAX_N_VOCAB, MAX_N_CTX, MAX_N_EMBD, MAX_N_HEAD, MAX_N_LAYER)
        for name, value, limit in zip(self._fields, self, limits, strict=True):
            if not 1 <= value <= limit:
                return f"{name} is {value}, expected 1 to {limit}"
        if self.n_embd % self.n_head:
            return f"n_embd is {self.n_embd}, expected a multiple of n_head, which is {self.n_head}"
        return None

    @property
    def n_parameters(self) -> int:
        """The number of trained parameters; an output head that is `wte` is not counted twice."""
        n: int = self.n_embd
        per_layer = 12 * n**2 + 13 * n
        n_parameters: int = (self.n_vocab + self.n_ctx) * n + self.n_layer * per_layer + 2 * n
        return n_parameters


def matrix_length(n_out: int, n_in: int, weight_type: str, group_size: int) -> int:
    """Return the bytes of a matrix of n_out rows (outputs) and n_in columns (inputs), in tiles of 16 rows."""
    if weight_type in QUANTIZED:
        groups = -(-n_in // group_size)
        values = groups * group_size * TILE
        tile = align(groups * TILE * 2, TENSOR_ALIGNMENT) + (values if weight_type == "int8" else values // 2)
    else:
        tile = align(n_in * TILE * (4 if weight_type == "f32" else 2), TENSOR_ALIGNMENT)
    return -(-n_out // TILE) * tile


def tensor_table(
    hyperparameters: Hyperparameters, weight_type: str, group_size: int, is_tied: bool = True
) -> list[Tensor]:
    """Return all tensors of the weights section, in the order in which a forward pass reads them.

    Args:
        is_tied: whether the output head is `wte`, as in GPT-2; if not, `lm_head` follows.

    Returns:
        A list of `Tensor`; shapes are (n_out, n_in) for the matrices of the layers, `wte` and `lm_head`.
    """
    n_vocab, n_ctx, n, _, n_layer = hyperparameters
    table: list[Tensor] = []
    offset = 0

    def add(name: str, shape: tuple[int, ...], is_matrix: bool = False) -> None:
        nonlocal offset
        if is_matrix:
            length = matrix_length(shape[0], shape[1], weight_type, group_size)
        elif len(shape) == 1:
            length = align(4 * shape[0], TENSOR_ALIGNMENT)
        else:
            length = align(4 * shape[0] * shape[1], TENSOR_ALIGNMENT)
        table.append(Tensor(name, shape, is_matrix, offset, length))
        offset += length

    add("wpe", (n_ctx, n))
    for layer in range(n_layer):
        h = f"h{layer}"
        add(f"{h}/ln_1/g", (n,))
        add(f"{h}/ln_1/b", (n,))
        add(f"{h}/attn/c_attn/w", (3 * n, n), True)
        add(f"{h}/attn/c_attn/b", (3 * n,))
        add(f"{h}/attn/c_proj/w", (n, n), True)
        add(f"{h}/attn/c_proj/b", (n,))
        add(f"{h}/ln_2/g", (n,))
        add(f"{h}/ln_2/b", (n,))
        add(f"{h}/mlp/c_fc/w", (4 * n, n), True)
        add(f"{h}/mlp/c_fc/b", (4 * n,))
        add(f"{h}/mlp/c_proj/w", (n, 4 * n), True)
        add(f"{h}/mlp/c_proj/b", (n,))
    add("ln_f/g", (n,))
    add("ln_f/b", (n,))
    add("wte", (n_vocab, n), True)
    if not is_tied:
        add("lm_head", (n_vocab, n), True)
    return table


def vocabulary_tables(
    n_vocab: int, n_merges: int, n_slots: int, n_special: int, token_bytes: int, n_controls: int
) -> list[Table]:
    """Return the tables of the vocabulary section, which follow its 64-byte header, in order."""
    tables, offset = [], TENSOR_ALIGNMENT
    for name, length in (
        ("token_offsets", 4 * (n_vocab + 1)),
        ("byte_tokens", 4 * 256),
        ("special_tokens", 4 * n_special),
        ("controls", 4 * n_controls),
        ("merge_slots", MERGE_SLOT.size * n_slots),
        ("token_bytes", token_bytes),
    ):
        tables.append(Table(name, offset, length))
        offset = align(offset + length, TENSOR_ALIGNMENT)
    return tables


def slots_for(n_merges: int) -> int:
    """Return the number of slots of the merge table: a power of two, so that it is at most half full."""
    return 1 << max(4, (2 * n_merges - 1).bit_length()) if n_merges else 16
