"""The two files of a GPT-2 vocabulary, and the vocabulary section of a model file made of them.

OpenAI's release calls them encoder.json and vocab.bpe, Hugging Face vocab.json and merges.txt; their format is one.
Tokens are written in 256 visible characters, one for each byte.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Self

from gpt2rt.errors import VocabularyError
from gpt2rt.modelfile import MAX_N_VOCAB, MAX_TOKEN_BYTES, slots_for
from gpt2rt.modelfile.vocabulary import build_merge_slots, vocabulary_section

Path = str | os.PathLike[str]
Merge = tuple[int, int, int]  # left, right, merged

END_OF_TEXT = "<|endoftext|>"
VERSION_LINE = "#version"  # only the first line: "# v" may be a merge


def byte_characters() -> list[str]:
    """The character that stands for each byte, (256,): itself where Latin-1 shows it, else the next from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("ÿ") + 1)} - {0xAD}  # a soft hyphen is not seen
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def _read(path: Path) -> str:
    """The text of a file, its line ends untouched."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise VocabularyError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: byte {error.start} is no UTF-8 (damaged download?)") from None


def _read_ids(path: Path) -> dict[str, int]:
    """{text: id} of encoder.json, in the order of the ids, which are 0, 1, 2, ..."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            seen: set[str] = set()
            text = next(text for text, _ in pairs if text in seen or seen.add(text))  # type: ignore[func-returns-value]
            raise VocabularyError(f"{path}: token {text!r} is there twice")
        return members

    try:
        ids = json.loads(_read(path), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path}: is no JSON: {error} (damaged download?)") from None
    if not isinstance(ids, dict):
        raise VocabularyError(f"{path}: holds a {type(ids).__name__}, expected an object of tokens and their ids")
    if not 0 < len(ids) <= MAX_N_VOCAB:
        raise VocabularyError(f"{path}: {len(ids)} tokens, expected 1 to {MAX_N_VOCAB}")
    texts: list[Any] = [None] * len(ids)
    for text, token in ids.items():
        if type(token) is not int or not 0 <= token < len(ids):
            raise VocabularyError(
                f"{path}: token {text!r} has id {token!r}, expected 0 to {len(ids) - 1} for {len(ids)} tokens"
            )
        if texts[token] is not None:
            raise VocabularyError(f"{path}: id {token} is of both {texts[token]!r} and {text!r}")
        texts[token] = text
    return {text: token for token, text in enumerate(texts)}


def _check_bytes(path: Path, ids: dict[str, int]) -> None:
    """Raises VocabularyError unless each byte has a token."""
    for byte, character in enumerate(byte_characters()):
        if character not in ids:
            raise VocabularyError(f"{path}: byte {byte} has no token, expected one named {character!r}")


def _read_merges(path: Path, ids: dict[str, int]) -> list[Merge]:
    """[(left, right, merged)] of vocab.bpe, ids of tokens, in the order of the ranks."""
    lines = _read(path).removesuffix("\n").split("\n")  # other line ends than these may be part of a token
    first = 1 if lines[0].startswith(VERSION_LINE) else 0
    if lines[-1].removesuffix("\r") == "":
        lines.pop()  # a file of no merges
    return _ranked(path, "line", [line.removesuffix("\r") for line in lines[first:]], first + 1, ids)


def _ranked(path: Path, what: str, lines: Iterable[str], first: int, ids: dict[str, int]) -> list[Merge]:
    """[(left, right, merged)] of merges as they are written; what and first: how errors count them."""
    ranks: dict[tuple[str, ...], int] = {}
    merges: list[Merge] = []
    for number, line in enumerate(lines, first):
        pair = tuple(line.split(" "))
        if len(pair) != 2 or not all(pair):
            raise VocabularyError(
                f"{path}: {what} {number} is {line!r:.200}, expected two tokens with a space between them"
            )
        texts = (*pair, "".join(pair))
        if unknown := [text for text in texts if text not in ids]:
            raise VocabularyError(
                f"{path}: {what} {number} merges {pair[0]!r} and {pair[1]!r}, but {unknown[0]!r} is no token"
                " (files of two vocabularies?)"
            )
        if pair in ranks:
            raise VocabularyError(f"{path}: {what} {number} is the same merge as {what} {ranks[pair]}")
        ranks[pair] = number
        merges.append((ids[texts[0]], ids[texts[1]], ids[texts[2]]))
    if len(merges) > len(ids):
        raise VocabularyError(f"{path}: {len(merges)} merges, expected at most {len(ids)}, as many as there are tokens")
    return merges


class Vocabulary:
    """A vocabulary that was read and found whole.

    Attributes:
        tokens: the bytes of each token (n_vocab,). byte_tokens: the token of each byte (256,).
        special_tokens: the tokens that are no byte and that no merge makes, `<|endoftext|>` first if there is one.
        merges: [(left, right, merged)], tokens, in the order of the ranks.
    """

    def __init__(self, tokens: list[bytes], byte_tokens: list[int], special_tokens: list[int], merges: list[Merge]):
        self.tokens = tokens
        self.byte_tokens = byte_tokens
        self.special_tokens = special_tokens
        self.merges = merges

    @classmethod
    def read(cls, encoder: Path, merges: Path) -> Self:
        """Reads and checks the two files.

        Args:
            encoder: path of encoder.json (vocab.json). merges: path of vocab.bpe (merges.txt).

        Raises:
            VocabularyError: a file can't be read, is malformed, or doesn't fit the other.
        """
        ids = _read_ids(encoder)
        _check_bytes(encoder, ids)
        return cls._checked(encoder, ids, _read_merges(merges, ids))

    @classmethod
    def of(cls, path: Path, texts: Iterable[str], merges: Iterable[str]) -> Self:
        """Checks a vocabulary that is part of another file.

        Args:
            path: of that file. texts: the tokens in the order of their ids, as encoder.json writes them (n_vocab,).
            merges: "left right" in the order of the ranks, as vocab.bpe writes them.

        Raises:
            VocabularyError: it is malformed.
        """
        ids: dict[str, int] = {}
        for token, text in enumerate(texts):
            if ids.setdefault(text, token) != token:
                raise VocabularyError(f"{path}: tokens {ids[text]} and {token} are both {text!r:.200}")
        _check_bytes(path, ids)
        return cls._checked(path, ids, _ranked(path, "merge", merges, 0, ids))

    @classmethod
    def _checked(cls, encoder: Path, ids: dict[str, int], pairs: list[Merge]) -> Self:
        """A vocabulary of {text: id} and [(left, right, merged)]; `encoder` is where errors say that the tokens are."""
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        made = {merged for _, _, merged in pairs}.union(ids[character] for character in byte_of)
        tokens, special_tokens = [], []
        for text, token in ids.items():
            if not text:
                raise VocabularyError(f"{encoder}: token {token} is empty, expected at least one byte")
            try:
                content = bytes(byte_of[character] for character in text)
                if token not in made:
                    content.decode()
            except (KeyError, UnicodeDecodeError):  # only a special token's text may be written as it is
                try:
                    content = text.encode()
                except UnicodeEncodeError:
                    raise VocabularyError(f"{encoder}: token {token} is {text!r}, which is no text") from None
            tokens.append(content)
            if token not in made:
                special_tokens.append(token)
        n_token_bytes = sum(map(len, tokens))
        if n_token_bytes > MAX_TOKEN_BYTES:
            raise VocabularyError(f"{encoder}: tokens of {n_token_bytes} bytes, expected at most {MAX_TOKEN_BYTES}")
        if END_OF_TEXT in ids and ids[END_OF_TEXT] not in made:
            special_tokens.remove(ids[END_OF_TEXT])
            special_tokens.insert(0, ids[END_OF_TEXT])
        return cls(tokens, [ids[character] for character in byte_of], special_tokens, pairs)

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def tables(self) -> dict[str, bytes]:
        """The tables of docs/format.md: {name: bytes}."""

        def words(values: Sequence[int]) -> bytes:
            return struct.pack(f"<{len(values)}I", *values)

        return {
            "token_offsets": words(list(accumulate(map(len, self.tokens), initial=0))),
            "byte_tokens": words(self.byte_tokens),
            "special_tokens": words(self.special_tokens),
            "merge_slots": build_merge_slots(self.merges, slots_for(len(self.merges))),
            "token_bytes": b"".join(self.tokens),
        }

    def section(self) -> bytes:
        """The bytes of the vocabulary section."""
        return vocabulary_section(self.n_vocab, len(self.merges), self.tables())
