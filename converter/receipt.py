"""The quality receipt: what the weights that were written lose against the source's, on text.

The source's logits are made in numpy, a layer at a time, of the tensors as they were read: so that no second file is
written. The written weights run through the kernels, out of the file.
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
from gpt2rt.modelfile import WEIGHT_TYPES
from gpt2rt.modelfile.writer import Writer
from gpt2rt.perplexity import Tally, windows
from gpt2rt.threads import default_threads

MAX_TOKENS = 1024  # that are read of the text: four times as many say little more and take four times as long
ROWS = 64  # of logits at a time
VOCABULARY_ROWS = 4096  # of the head at a time


def bundled_text() -> str:
    """The text that comes with the package.

    Beginnings of L. Carroll, Alice's Adventures in Wonderland (1865), and of the introduction to C. Darwin, On the
    Origin of Species (1859), both in the public domain; a paragraph is a line.
    """
    return pathlib.Path(__file__).with_name("prose.txt").read_text("utf-8")


def tokenizer_of(vocabulary: SourceVocabulary) -> Tokenizer:
    """The tokenizer of a `Vocabulary`."""
    return Tokenizer(vocabulary.tables(), vocabulary.n_vocab)


def encode(vocabulary: SourceVocabulary, text: str) -> list[int]:
    """The tokens that are measured: an end-of-text token where there is one, then the text's, MAX_TOKENS at most.

    Raises:
        UsageError: there is nothing to score.
    """
    tokenizer = tokenizer_of(vocabulary)
    start = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    tokens = (start + tokenizer.encode(text[: 64 * MAX_TOKENS]))[:MAX_TOKENS]
    if len(tokens) < 2:
        raise UsageError("quality receipt: the text has no token to score, expected a longer one (or no receipt)")
    return tokens


def measure(
    source: Source, writer: Writer, tokens: list[int], text: str, advance: Callable[[int], None]
) -> dict[str, float | str] | None:
    """Compares the weights that a writer has written with their source.

    Args:
        source: as `convert` reads it. writer: a `modelfile.Writer` that has all tensors. tokens: of `encode`.
        text: what they are of. advance: called with the number of bytes of the source that were done with.

    Returns:
        The metadata's "quality" (docs/format.md), or None where a loss is no finite number.
    """
    h = writer.hyperparameters
    weights = Weights(
        writer.written_weights(),
        h,
        WEIGHT_TYPES.index(writer.weight_type),
        writer.group_size,
        [tensor.offset for tensor in writer.tensors],
    )
    runtime, tally = Runtime(weights, default_threads()), Tally()
    n_window = min(h.n_ctx, layers.WINDOW)
    parts = [tokens[begin:end] for begin, end, _ in windows(len(tokens), n_window, n_window)]
    with np.errstate(all="ignore"):  # what is not finite is found in the logits
        states = layers.embedded(source, [part[:-1] for part in parts])
        for layer in range(h.n_layer):
            states = layers.run_layer(source, layer, states, lambda _name, w, _inputs: w)
            advance(source.size // (h.n_layer + 1))
        states = layers.final(source, states)
        head = source.tensor("wte" if source.is_tied else "lm_head")  # (n_vocab, n_embd)
        for part, x in zip(parts, states, strict=True):
            sequence = Sequence(runtime)
            for begin in range(0, len(x), ROWS):
                chunk = part[begin : min(begin + ROWS, len(x))]
                sequence.append(chunk, n_logits=len(chunk))
                references = _products(source, head, x[begin : begin + len(chunk)])
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


def _products(source: Source, head: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x (T, n_embd) times the head: (T, n_vocab); no more of the head is kept in memory than it needs."""
    found = np.empty((len(x), len(head)), np.float32)
    for row in range(0, len(head), VOCABULARY_ROWS):
        part = head[row : row + VOCABULARY_ROWS]
        np.matmul(x, part.T, out=found[:, row : row + len(part)])
        source.release(part)
    return found
