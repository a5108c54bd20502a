"""The two files of a GPT-2 vocabulary, and the vocabulary section of a model file.

OpenAI's release calls them encoder.json and vocab.bpe, Hugging Face vocab.json and merges.txt; the format is the same.
Tokens are written in 256 visible characters, one for each byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Self

from gpt2rt.bounded_json import loads
from gpt2rt.errors import VocabularyError
from gpt2rt.modelfile import (
    FLAG_BOS,
    FLAG_PREFIX_SPACE,
    MAX_EOS,
    MAX_N_VOCAB,
    MAX_TOKEN_BYTES,
    MAX_TOKEN_LENGTH,
    NO_TOKEN,
    slots_for,
)
from gpt2rt.modelfile.vocabulary import CONTROLS, build_merge_slots, vocabulary_section
from gpt2rt.regular_file import read_regular

Path = str | os.PathLike[str]
Merge = tuple[int, int, int]  # left, right, merged

END_OF_TEXT = "<|endoftext|>"
SMALL_VOCABULARY = 1 << 17  # tokens for which there is always room; for more only where the weights have them, too
SMALL_UNITS = 700_000
VERSION_LINE = "#version"  # only the first line: "# v" may be a merge


class Controls(NamedTuple):
    """What begins and ends a text.

    Attributes:
        eos: ids of the tokens that end it, at most `MAX_EOS`. bos: of the token that begins it. pad: for padding.
        add_prefix_space, add_bos: whether encoding a text puts a space, or bos, before it.
    """

    eos: tuple[int, ...] = ()
    bos: int | None = None
    pad: int | None = None
    add_prefix_space: bool = False
    add_bos: bool = False

    def completed(self, end_of_text: int | None) -> Controls:
        """Return them with what stands in for missing ones: `<|endoftext|>` ends a text, the first end begins it.

        Args:
            end_of_text: the id of `<|endoftext|>`, if there is one.
        """
        eos = self.eos or (() if end_of_text is None else (end_of_text,))
        return self._replace(eos=eos, bos=eos[0] if self.bos is None and eos else self.bos)

    def table(self) -> bytes:
        """Return the table of docs/format.md."""
        flags = FLAG_PREFIX_SPACE * self.add_prefix_space + FLAG_BOS * self.add_bos
        bos, pad = (NO_TOKEN if token is None else token for token in (self.bos, self.pad))
        return CONTROLS.pack(flags, bos, pad) + struct.pack(f"<{len(self.eos)}I", *self.eos)


def unused_text(token: int) -> str:
    """Return the text of a token that stands for nothing, as some training tools pad n_vocab to a round number."""
    return f"<|unused {token}|>"


def byte_characters() -> list[str]:
    """Return the character for each byte, (256,): itself if it is visible in Latin-1, else the next from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("ÿ") + 1)} - {0xAD}  # a soft hyphen is invisible
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def max_file(n_vocab: int) -> int:
    """Return how many bytes a file of a vocabulary may have. GPT-2's have 1 MB, or 3.5 MB with white space."""
    return 128 * max(SMALL_VOCABULARY, n_vocab)


def max_units(n_vocab: int) -> int:
    """Return how many units of `bounded_json` a file of a vocabulary may have. A token and its merge have at most 9."""
    return max(SMALL_UNITS, 12 * n_vocab)


def shown(text: str) -> str:
    """Return a text for a message, quoted and shortened."""
    return f"{text[:80]!r:.80}"


def read_merges(path: Path, n_vocab: int) -> list[str]:
    """Return the merges in vocab.bpe or merges.txt as "left right"; each has its line, after one for the version.

    Raises:
        VocabularyError: it can't be read, or has far more lines than there are tokens.
    """
    try:
        content = read_regular(path, max_file(n_vocab))
        n_lines, most = content.count(b"\n"), max(SMALL_VOCABULARY, n_vocab)
        if n_lines > most:
            raise VocabularyError(f"{path}: {n_lines} lines, expected at most {most} for {n_vocab} tokens")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise VocabularyError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: byte {error.start} is not UTF-8 (damaged download?)") from None
    lines = text.removesuffix("\n").split("\n")  # other line breaks may be part of a token
    if lines[-1].removesuffix("\r") == "":
        lines.pop()  # a file without merges
    return [line.removesuffix("\r") for line in lines]


def _read_ids(path: Path, n_vocab: int) -> dict[str, int]:
    """Read encoder.json: {text: id}, in the order of the ids, which are 0, 1, 2, ...

    Args:
        n_vocab: the number of tokens of the weights, as far as it is known.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            seen: set[str] = set()
            text = next(text for text, _ in pairs if text in seen or seen.add(text))  # type: ignore[func-returns-value]
            raise VocabularyError(f"{path}: token {shown(text)} appears twice")
        return members

    try:
        ids = loads(read_regular(path, max_file(n_vocab)), max_units(n_vocab), unique)
    except OSError as error:
        raise VocabularyError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: byte {error.start} is not UTF-8 (damaged download?)") from None
    except ValueError as error:
        raise VocabularyError(f"{path}: not valid JSON: {error} (damaged download?)") from error
    if not isinstance(ids, dict):
        raise VocabularyError(f"{path}: contains a {type(ids).__name__}, expected an object of tokens and their ids")
    if not 0 < len(ids) <= MAX_N_VOCAB:
        raise VocabularyError(f"{path}: {len(ids)} tokens, expected 1 to {MAX_N_VOCAB}")
    texts: list[Any] = [None] * len(ids)
    for text, token in ids.items():
        if type(token) is not int or not 0 <= token < len(ids):
            raise VocabularyError(
                f"{path}: token {shown(text)} has id {token!r:.80}, expected 0 to {len(ids) - 1} for {len(ids)} tokens"
            )
        if texts[token] is not None:
            raise VocabularyError(f"{path}: tokens {shown(texts[token])} and {shown(text)} both have id {token}")
        texts[token] = text
    return {text: token for token, text in enumerate(texts)}


def _check_bytes(path: Path, ids: dict[str, int]) -> None:
    """Raise VocabularyError unless each byte has a token."""
    for byte, character in enumerate(byte_characters()):
        if character not in ids:
            raise VocabularyError(f"{path}: byte {byte} has no token, expected one named {character!r}")


def _read_merges(path: Path, ids: dict[str, int]) -> list[Merge]:
    """Read vocab.bpe: [(left, right, merged)], token ids, in rank order."""
    lines = read_merges(path, len(ids))
    first = 1 if lines and lines[0].startswith(VERSION_LINE) else 0
    return _ranked(path, "line", lines[first:], first + 1, ids)


def _ranked(path: Path, what: str, lines: Iterable[str], first: int, ids: dict[str, int]) -> list[Merge]:
    """Return [(left, right, merged)] for merges as text; errors count them as `what` number `first` and on."""
    ranks: dict[tuple[str, ...], int] = {}
    merges: list[Merge] = []
    for number, line in enumerate(lines, first):
        pair = tuple(line.split(" ", 2))
        if len(pair) != 2 or not all(pair):
            raise VocabularyError(
                f"{path}: {what} {number} is {shown(line)}, expected two tokens with a space between them"
            )
        texts = (*pair, "".join(pair))
        if unknown := [text for text in texts if text not in ids]:
            raise VocabularyError(
                f"{path}: {what} {number} merges {shown(pair[0])} and {shown(pair[1])}, but {shown(unknown[0])} is not"
                " a token"
                " (files from different vocabularies?)"
            )
        if pair in ranks:
            raise VocabularyError(f"{path}: {what} {number} is the same merge as {what} {ranks[pair]}")
        ranks[pair] = number
        merges.append((ids[texts[0]], ids[texts[1]], ids[texts[2]]))
    if len(merges) > len(ids):
        raise VocabularyError(f"{path}: {len(merges)} merges, expected at most {len(ids)}, the number of tokens")
    return merges


def _bytes_of(text: str, byte_of: dict[str, int], is_made: bool) -> bytes:
    """Return the bytes of a token; only one that no merge makes may be written as plain text."""
    try:
        content = bytes(byte_of[character] for character in text)
        if not is_made:
            content.decode()
    except (KeyError, UnicodeDecodeError):
        content = text.encode()
    return content


class Vocabulary:
    """A complete, valid vocabulary.

    Attributes:
        tokens: the bytes of each token, (n_vocab,). byte_tokens: the token id of each byte, (256,).
        special_tokens: ids of the tokens whose texts stand for them where special tokens are encoded, `<|endoftext|>`
            first if it is one.
        merges: [(left, right, merged)], token ids, in rank order.
        controls: `Controls`.
    """

    def __init__(
        self,
        tokens: list[bytes],
        byte_tokens: list[int],
        special_tokens: list[int],
        merges: list[Merge],
        controls: Controls,
    ):
        self.tokens = tokens
        self.byte_tokens = byte_tokens
        self.special_tokens = special_tokens
        self.merges = merges
        self.controls = controls

    @classmethod
    def read(cls, encoder: Path, merges: Path, n_vocab: int = 0) -> Self:
        """Read and check the two files.

        Args:
            encoder: path of encoder.json (vocab.json). merges: path of vocab.bpe (merges.txt).
            n_vocab: the number of tokens of the weights, as far as it is known: larger files are read only for these.

        Raises:
            VocabularyError: a file can't be read, is malformed, or does not match the other.
        """
        ids = _read_ids(encoder, n_vocab)
        _check_bytes(encoder, ids)
        return cls._checked(encoder, ids, _read_merges(merges, ids))

    @classmethod
    def of(
        cls,
        path: Path,
        texts: Iterable[str],
        merges: Iterable[str],
        added: Collection[int] | None = None,
        unused: Collection[int] = (),
        controls: Controls | None = None,
    ) -> Self:
        """Check a vocabulary that is part of another file.

        Args:
            path: path of that file, for messages.
            texts: the tokens in the order of their ids, in the notation of encoder.json, (n_vocab,); added and unused
                tokens as plain text.
            merges: "left right" in rank order, in the notation of vocab.bpe.
            added: ids of added tokens, the special ones; None for all that neither a byte nor a merge makes, in either
                notation. unused: ids that stand for nothing.
            controls: None for `<|endoftext|>` as the only token that begins and ends a text, if there is one.

        Raises:
            VocabularyError: it is malformed.
        """
        ids: dict[str, int] = {}
        for token, text in enumerate(texts):
            if ids.setdefault(text, token) != token:
                raise VocabularyError(f"{path}: tokens {ids[text]} and {token} are both {shown(text)}")
        _check_bytes(path, ids)
        return cls._checked(path, ids, _ranked(path, "merge", merges, 0, ids), added, unused, controls)

    @classmethod
    def _checked(
        cls,
        encoder: Path,
        ids: dict[str, int],
        pairs: list[Merge],
        added: Collection[int] | None = None,
        unused: Collection[int] = (),
        controls: Controls | None = None,
    ) -> Self:
        """Make a vocabulary of {text: id} and [(left, right, merged)]; `encoder` is the tokens' file, for messages."""
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        made = {merged for _, _, merged in pairs}.union(ids[character] for character in byte_of)
        tokens, special_tokens = [], []
        for text, token in ids.items():
            if not text:
                raise VocabularyError(f"{encoder}: token {token} is empty, expected at least one byte")
            is_special = token not in made and (added is None or token in added)
            try:
                if token in unused or (is_special and added is not None):  # text as it is
                    content = text.encode()
                else:
                    content = _bytes_of(text, byte_of, token in made)
            except UnicodeEncodeError:
                raise VocabularyError(
                    f"{encoder}: token {token} is {shown(text)}, which is not valid Unicode"
                ) from None
            if len(content) > MAX_TOKEN_LENGTH:
                raise VocabularyError(
                    f"{encoder}: token {token} is {shown(text)}, of {len(content)} bytes, expected at most"
                    f" {MAX_TOKEN_LENGTH}"
                )
            tokens.append(content)
            if is_special:
                special_tokens.append(token)
        n_token_bytes = sum(map(len, tokens))
        if n_token_bytes > MAX_TOKEN_BYTES:
            raise VocabularyError(f"{encoder}: {n_token_bytes} bytes of tokens, expected at most {MAX_TOKEN_BYTES}")
        end = ids.get(END_OF_TEXT)
        end = end if end in special_tokens else None
        if end is not None:
            special_tokens.remove(end)
            special_tokens.insert(0, end)
        controls = Controls().completed(end) if controls is None else controls
        if len(controls.eos) > MAX_EOS:
            raise VocabularyError(f"{encoder}: {len(controls.eos)} tokens end a text, expected at most {MAX_EOS}")
        return cls(tokens, [ids[character] for character in byte_of], special_tokens, pairs, controls)

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def tables(self) -> dict[str, bytes]:
        """Return the tables of docs/format.md: {name: bytes}."""

        def words(values: Sequence[int]) -> bytes:
            return struct.pack(f"<{len(values)}I", *values)

        return {
            "token_offsets": words(list(accumulate(map(len, self.tokens), initial=0))),
            "byte_tokens": words(self.byte_tokens),
            "special_tokens": words(self.special_tokens),
            "controls": self.controls.table(),
            "merge_slots": build_merge_slots(self.merges, slots_for(len(self.merges))),
            "token_bytes": b"".join(self.tokens),
        }

    def section(self) -> bytes:
        """Return the bytes of the vocabulary section."""
        return vocabulary_section(self.n_vocab, len(self.merges), self.tables())
