"""The quality report: compares the written weights with the source's, on text.

The source's logits are computed in numpy, one layer at a time, from the tensors as read, so no second file is needed.
The written weights run through the kernels, straight from the file.
"""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections.abc import Callable

import numpy as np

from gpt2rt._engine import Runtime, Sequence
from gpt2rt._kernels import Weights
from gpt2rt._tokenizer import Tokenizer
from gpt2rt.converter import layers
from gpt2rt.converter.source import Source, SourceVocabulary
from gpt2rt.errors import UsageError
from gpt2rt.modelfile.writer import Writer
from gpt2rt.perplexity import Tally, windows
from gpt2rt.threads import default_threads

MAX_TOKENS = 1024  # of the text; four times as many take four times as long and change little
ROWS = 64  # rows of logits computed at a time


def bundled_text() -> str:
    """Return the text that comes with the package.

    The beginnings of L. Carroll, Alice's Adventures in Wonderland (1865), and of the introduction to C. Darwin, On the
    Origin of Species (1859), both in the public domain, one paragraph per line.
    """
    return pathlib.Path(__file__).with_name("prose.txt").read_text("utf-8")


def tokenizer_of(vocabulary: SourceVocabulary) -> Tokenizer:
    """Return a tokenizer for a vocabulary."""
    return Tokenizer(vocabulary.tables(), vocabulary.n_vocab)


def encode(vocabulary: SourceVocabulary, text: str) -> list[int]:
    """Return the token ids to measure on: bos, if the vocabulary has it, and the text, at most MAX_TOKENS.

    Raises:
        UsageError: the text is too short to score.
    """
    tokenizer = tokenizer_of(vocabulary)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tokens = (start + tokenizer.encode(text[: 64 * MAX_TOKENS], add_special_tokens=False))[:MAX_TOKENS]
    if len(tokens) < 2:
        raise UsageError("quality report: the text has no token to score (use a longer text, or skip the report)")
    return tokens


def measure(
    source: Source, writer: Writer, tokens: list[int], text: str, advance: Callable[[int], None]
) -> dict[str, float | str] | None:
    """Compare the weights that a writer has written with their source.

    Args:
        source: the source of the weights.
        writer: a `modelfile.Writer` to which all tensors have been written.
        tokens: the ids returned by `encode`. text: the text they encode.
        advance: called with the number of bytes of the source that have been processed.

    Returns:
        The metadata's "quality" (docs/format.md), or None if a loss is not finite.
    """
    h = writer.hyperparameters
    weights = Weights(writer.written_weights(), writer.shape)
    runtime, tally = Runtime(weights, default_threads()), Tally()
    n_window = min(h.n_ctx, layers.WINDOW)
    parts = [tokens[begin:end] for begin, end, _ in windows(len(tokens), n_window, n_window)]
    with np.errstate(all="ignore"):  # values that are not finite show in the logits
        states = layers.embedded(source, [part[:-1] for part in parts])
        for layer in range(h.n_layer):
            states = layers.run_layer(source, layer, states, lambda _name, w, _inputs: w)
            advance(source.size // (h.n_layer + 1))
        states = layers.final(source, states)
        for part, x in zip(parts, states, strict=True):
            sequence = Sequence(runtime)
            for begin in range(0, len(x), ROWS):
                chunk = part[begin : min(begin + ROWS, len(x))]
                sequence.append(chunk, n_logits=len(chunk))
                references = _products(source, x[begin : begin + len(chunk)])
                for i, (logits, reference) in enumerate(zip(sequence.all_logits, references, strict=True)):
                    if not (np.isfinite(logits).all() and np.isfinite(reference).all()):
                        return None
                    tally.add(part[begin + i + 1], logits, reference)
        figures = tally.figures()
    against = figures.pop("against")
    found = {
        "loss": figures["loss"],
        "source_loss": against["loss"],
        "perplexity": figures["perplexity"],
        "source_perplexity": against["perplexity"],
        "mean_kl": against["mean_kl"],
        "largest_kl": against["largest_kl"],
        "same_top": against["same_top"],
    }
    if not all(value is not None and math.isfinite(value) for value in found.values()):
        return None
    rounded = {name: float(f"{value:.6g}") for name, value in found.items()}
    return {"n_tokens": len(tokens) - 1, "text_sha256": hashlib.sha256(text.encode()).hexdigest(), **rounded}


def _products(source: Source, x: np.ndarray) -> np.ndarray:
    """Multiply x (T, n_embd) by the output head, which is read in parts and gives (T, n_vocab)."""
    name, n_vocab = "wte" if source.is_tied else "lm_head", source.hyperparameters.n_vocab
    found = np.empty((len(x), n_vocab), np.float32)
    for begin in range(0, n_vocab, layers.VOCABULARY_ROWS):
        end = min(begin + layers.VOCABULARY_ROWS, n_vocab)
        np.matmul(x, source.rows(name, begin, end).T, out=found[:, begin:end])
    return found
