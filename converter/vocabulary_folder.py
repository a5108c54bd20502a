"""The vocabulary of a folder that the user names, for checkpoints that bring none: in any of GPT-2's formats."""

from __future__ import annotations

import os
import pathlib

from gpt2rt.converter.tokenizer_files import read_json, read_tokenizer
from gpt2rt.converter.vocabulary import Vocabulary, unused_text
from gpt2rt.converter.weight_files import CONFIG
from gpt2rt.errors import VocabularyError

OPENAI, HUGGING_FACE = ("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")
WHERE = (
    "give the folder of GPT-2's: --vocabulary models/124M after gpt2rt download 124M, or a folder with vocab.json and"
    " merges.txt of https://huggingface.co/openai-community/gpt2"
)


def read_vocabulary_folder(folder: str | os.PathLike[str], n_vocab: int) -> Vocabulary:
    """Read a folder's `Vocabulary`. Tokens up to n_vocab that it lacks are named `<|unused 50257|>`.

    Args:
        folder: it has tokenizer.json, or vocab.json and merges.txt, or encoder.json and vocab.bpe.

    Raises:
        VocabularyError: it has none of these files, or they are damaged, or have more than n_vocab tokens.
    """
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise VocabularyError(f"{path}: not a folder, expected one with a vocabulary ({WHERE})")
    if any((path / name).is_file() for name in ("tokenizer.json", HUGGING_FACE[0])):
        return read_tokenizer(path, n_vocab, read_json(path / CONFIG) if (path / CONFIG).is_file() else {})
    if not (path / OPENAI[0]).is_file():
        raise VocabularyError(
            f"{path}: no vocabulary in it, expected {' and '.join(OPENAI)}, or {' and '.join(HUGGING_FACE)}, or"
            f" tokenizer.json ({WHERE})"
        )
    vocabulary = Vocabulary.read(path / OPENAI[0], path / OPENAI[1], n_vocab)
    if vocabulary.n_vocab > n_vocab:
        raise VocabularyError(f"{path}: {vocabulary.n_vocab} tokens, expected at most the model's {n_vocab}")
    for token in range(vocabulary.n_vocab, n_vocab):
        vocabulary.tokens.append(unused_text(token).encode())
    return vocabulary
