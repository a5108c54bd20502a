"""Tokenizers whose tokens have any bytes, without merges."""

import itertools
import struct

from gpt2rt._tokenizer import Tokenizer

NONE = 0xFFFFFFFF


def tokenizer_with(parts, special=(), flags=0, bos=NONE, eos=()):
    """Return a tokenizer of the 256 bytes, whose ids are the bytes, followed by `parts`; the arguments as below."""
    return Tokenizer(tables_with(parts, special, flags, bos, eos), 256 + len(parts))


def tables_with(parts, special=(), flags=0, bos=NONE, eos=()):
    """Return the tables of `tokenizer_with`.

    Args:
        parts: the bytes of tokens. special: ids. flags, bos, eos: controls as in docs/format.md.
    """
    tokens = [*(bytes([byte]) for byte in range(256)), *parts]
    return {
        "token_offsets": struct.pack(f"<{len(tokens) + 1}I", 0, *itertools.accumulate(map(len, tokens))),
        "byte_tokens": struct.pack("<256I", *range(256)),
        "special_tokens": struct.pack(f"<{len(special)}I", *special),
        "controls": struct.pack(f"<{3 + len(eos)}I", flags, bos, NONE, *eos),
        "merge_slots": b"\xff" * 16 * 16,
        "token_bytes": b"".join(tokens),
    }
