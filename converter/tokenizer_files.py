"""The tokenizer files of a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.errors import CheckpointError, Gpt2rtError, VocabularyError

MAX_JSON = 64 << 20  # bytes of a JSON file

Texts = tuple[dict[str, int], list[str], list[tuple[str, Any]]]


def read_json(path: pathlib.Path, error_class: type[Gpt2rtError] = CheckpointError) -> dict[str, Any]:
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


def read_tokenizer(folder: pathlib.Path, n_vocab: int) -> Vocabulary:
    """Read the `Vocabulary` of a folder. Raises VocabularyError."""
    path = folder / "tokenizer.json"
    if path.is_file():
        ids, merges, added = _read_tokenizer(path)
    else:
        path = folder / "vocab.json"
        if not path.is_file():
            raise VocabularyError(
                f"{folder}: no tokenizer in it, expected tokenizer.json, or vocab.json and merges.txt"
                " (tokenizer.save_pretrained(folder) of transformers writes them)"
            )
        ids, merges, added = _read_vocabulary(folder)
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


def _read_tokenizer(path: pathlib.Path) -> Texts:
    """Parse tokenizer.json: ({text: id}, merges in the format of vocab.bpe, [(text, id)] of added tokens)."""
    content = read_json(path, VocabularyError)
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
    ids = read_json(folder / "vocab.json", VocabularyError)
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
        added += read_json(folder / "added_tokens.json", VocabularyError).items()
    if (folder / "tokenizer_config.json").is_file():
        tokens = read_json(folder / "tokenizer_config.json", VocabularyError).get("added_tokens_decoder") or {}
        if not isinstance(tokens, dict) or not all(isinstance(token, dict) for token in tokens.values()):
            raise VocabularyError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder must contain objects")
        added += [
            (str(token.get("content")), int(number) if number.isdecimal() else number)
            for number, token in tokens.items()
        ]
    return ids, merges, added
