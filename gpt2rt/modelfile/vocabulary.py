"""The vocabulary section of a model file: its bytes, the hash table of its merges, and a full check of its tables."""

from __future__ import annotations

import struct

from gpt2rt._modelfile import MAX_TOKEN_LENGTH, slots_for, vocabulary_header, vocabulary_tables
from gpt2rt.modelfile.layout import NO_TOKEN

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _typeshed import ReadableBuffer

CONTROLS = struct.Struct("<III")  # flags, bos, pad; the ids of the tokens that end a text follow
MERGE_SLOT = struct.Struct("<IIII")  # left, right, rank, merged id


def vocabulary_section(n_vocab: int, n_merges: int, tables: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a vocabulary section.

    Args:
        tables: {name: bytes} for each of `vocabulary_tables`: `token_offsets` u32 (n_vocab + 1,), `byte_tokens` u32
            (256,), `special_tokens` u32 (n_special,), `controls` u32 (n_controls,), `merge_slots` with
            `slots_for(n_merges)` slots, `token_bytes`.
    """
    n_special, n_controls = (len(tables[name]) // 4 for name in ("special_tokens", "controls"))
    counts = n_merges, slots_for(n_merges), n_special, len(tables["token_bytes"]), n_controls
    layout = vocabulary_tables(n_vocab, counts)
    section = bytearray(vocabulary_header(counts))
    for name, offset, length in layout:
        content = tables[name]
        if len(content) != length:
            raise ValueError(f"table {name!r}: got {len(content)} bytes, expected {length}")
        section += bytes(offset - len(section))
        section += content
    return bytes(section)


def first_slot(n_slots: int, left: int, right: int) -> int:
    """Return hash(left, right) of docs/format.md; n_slots is a power of two."""
    mixed = (left * 0x9E3779B1 + right * 0x85EBCA77) & 0xFFFFFFFF
    return mixed * n_slots >> 32


def build_merge_slots(merges: Sequence[tuple[int, int, int]], n_slots: int) -> bytes:
    """Build the hash table of a vocabulary's merges.

    Args:
        merges: distinct (left, right, merged) tokens, in rank order.
        n_slots: a power of two, at least twice the number of merges.

    Returns:
        The table `merge_slots` of docs/format.md: n_slots * 16 bytes.
    """
    if n_slots & (n_slots - 1) or n_slots < 2 * len(merges):
        raise ValueError(f"{n_slots} slots for {len(merges)} merges: expected a power of two, at least twice as many")
    table = bytearray(b"\xff" * (n_slots * MERGE_SLOT.size))
    taken = bytearray(n_slots)
    for rank, (left, right, merged) in enumerate(merges):
        slot = first_slot(n_slots, left, right)
        while taken[slot]:
            slot = (slot + 1) & (n_slots - 1)
        taken[slot] = 1
        MERGE_SLOT.pack_into(table, slot * MERGE_SLOT.size, left, right, rank, merged)
    return bytes(table)


def shown(content: bytes) -> str:
    """Return a token's bytes, shortened for a message."""
    return repr(content) if len(content) <= 40 else f"{content[:40]!r}... ({len(content)} bytes)"


def problems(tables: Mapping[str, ReadableBuffer], n_vocab: int, most: int = 100) -> list[str]:
    """Check the contents of all tables of a vocabulary against docs/format.md. `Tokenizer` has checked their lengths.

    Returns:
        Messages about what is wrong, at most `most` of them; empty if the vocabulary is valid.
    """
    found: list[str] = []
    offsets, byte_tokens, special_tokens = (
        memoryview(tables[name]).cast("B").cast("I") for name in ("token_offsets", "byte_tokens", "special_tokens")
    )
    slots, content = memoryview(tables["merge_slots"]), memoryview(tables["token_bytes"])
    n_slots = len(slots) // MERGE_SLOT.size
    previous = 0
    for i, offset in enumerate(offsets):
        if not previous <= offset <= (len(content) if i else 0):
            limit = len(content) if i else 0
            found.append(f"token offset {i} is {offset}, expected {previous} to {limit}")
            return found  # the bytes of the tokens are unknown
        if offset - previous > MAX_TOKEN_LENGTH:
            found.append(f"token {i - 1}: has {offset - previous} bytes, expected at most {MAX_TOKEN_LENGTH}")
        previous = offset
    if len(found) >= most:
        return found[:most]
    if previous != len(content):
        found.append(f"the last token ends at byte {previous}, expected {len(content)}")
        return found

    def bytes_of(token: int) -> bytes:
        return bytes(content[offsets[token] : offsets[token + 1]])

    made = bytearray(n_vocab)
    for i, token in enumerate(byte_tokens):
        if token >= n_vocab:
            found.append(f"byte {i}: has token {token}, expected at most {n_vocab - 1}")
            continue
        made[token] = 1
        if bytes_of(token) != bytes((i,)):
            found.append(f"byte {i}: has token {token}, which is {shown(bytes_of(token))}")

    # A search finds a merge if no slot between its home slot and its own is empty.
    lefts = (left for left, _, _, _ in MERGE_SLOT.iter_unpack(slots))
    first = empty = next((slot for slot, left in enumerate(lefts) if left == NO_TOKEN), n_slots)
    if empty == n_slots:
        found.append("the table of merges has no empty slot")
        return found
    n_merges, ranks, pairs = 0, bytearray(n_slots), set()
    for i in range(1, n_slots):
        if len(found) >= most:
            return found[:most]
        slot = (first + i) & (n_slots - 1)
        left, right, rank, merged = MERGE_SLOT.unpack_from(slots, slot * MERGE_SLOT.size)
        if left == NO_TOKEN:
            empty = slot
            continue
        n_merges += 1
        name = f"merge of tokens {left} and {right}"
        if left >= n_vocab or right >= n_vocab or merged >= n_vocab:
            found.append(f"{name}: makes token {merged}, expected all three to be at most {n_vocab - 1}")
            continue
        made[merged] = 1
        home = first_slot(n_slots, left, right)
        if (slot - home) & (n_slots - 1) >= (slot - empty) & (n_slots - 1):
            found.append(f"{name}: is in slot {slot}, where a search from slot {home} does not find it")
        if (left, right) in pairs:
            found.append(f"{name}: appears twice")
        pairs.add((left, right))
        if rank >= n_slots or ranks[rank]:
            found.append(f"{name}: has rank {rank}, expected a unique one below {n_slots}")
        else:
            ranks[rank] = 1
        parts = bytes_of(left) + bytes_of(right)
        if parts != bytes_of(merged):
            found.append(f"{name}: makes token {merged}, {shown(bytes_of(merged))}, expected {shown(parts)}")
    if 2 * n_merges > n_slots:
        found.append(f"{n_merges} merges in {n_slots} slots, expected at most half of them occupied")
    if ranks.rfind(1) >= n_merges:
        found.append(f"a merge has rank {ranks.rfind(1)}, expected ranks below {n_merges}, the number of merges")

    for i, token in enumerate(special_tokens):
        if token >= n_vocab:
            found.append(f"special token {i}: is token {token}, expected at most {n_vocab - 1}")
        elif made[token]:
            found.append(f"special token {i}: is token {token}, which is a byte, made by a merge, or listed twice")
        else:
            made[token] = 1
    return found[:most]
