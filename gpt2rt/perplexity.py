"""How well a model predicts text, and how far it is from a reference model on the same text."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from gpt2rt import _engine
from gpt2rt.errors import Gpt2rtError, UsageError

LOGITS_BYTES = 1 << 24  # of logits kept at a time
MOST_ROWS = 256  # tokens per call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.model import Model


class Tally:
    """The results of all scored tokens.

    Attributes:
        losses: the model's loss for each token, in nats.
        reference_losses, divergences: the reference's losses, and the KL divergence of the model from it, in nats;
            empty without a reference.
        n_same: number of tokens for which both predict the same most likely token.
    """

    def __init__(self) -> None:
        self.losses, self.reference_losses, self.divergences = array("d"), array("d"), array("d")
        self.n_same = 0

    def add(self, target: int, logits: np.ndarray, reference: np.ndarray | None = None) -> tuple[bool, bool]:
        """Score one token.

        Args:
            target: the token's id. logits, reference: f32 (n_vocab,), of the model and the reference, before the token.

        Returns:
            Whether it was the most likely token: for the model, and for the reference.

        Raises:
            Gpt2rtError: a logit is infinite or NaN.
        """
        best, _, log_sum = _normalized(logits)
        self.losses.append(log_sum - float(logits[target]))
        if reference is None:
            return best == target, False
        reference_best, weights, reference_log_sum = _normalized(reference)
        self.reference_losses.append(reference_log_sum - float(reference[target]))
        # sum of p (log p - log q): the expected difference of the logits, and the difference of the normalizations
        difference = (weights * (reference - logits)).sum(dtype=np.float64) / weights.sum(dtype=np.float64)
        self.divergences.append(max(0.0, float(difference) - reference_log_sum + log_sum))  # rounding may go below 0
        self.n_same += best == reference_best
        return best == target, reference_best == target

    def figures(self) -> dict[str, Any]:
        """Return the figures over all tokens.

        Returns:
            A dict: `n_tokens`; `loss` and its standard error `loss_error`; `perplexity`, None if it is too large for a
            float; and with a reference `against`, a dict with the reference's `loss` and `perplexity`,
            `loss_difference` and its standard error, `mean_kl`, `largest_kl`, and `same_top`, a fraction. Losses and
            divergences are in nats per token; standard errors treat tokens as independent.
        """
        losses = np.frombuffer(self.losses)
        figures: dict[str, Any] = {
            "n_tokens": len(losses),
            **_mean("loss", losses),
            "perplexity": _perplexity(losses.mean()),
        }
        if self.divergences:
            references = np.frombuffer(self.reference_losses)
            figures["against"] = {
                "loss": float(references.mean()),
                "perplexity": _perplexity(references.mean()),
                **_mean("loss_difference", losses - references),
                "mean_kl": float(np.mean(self.divergences)),
                "largest_kl": max(self.divergences),
                "same_top": self.n_same / len(losses),
            }
        return figures


def _normalized(logits: np.ndarray) -> tuple[int, np.ndarray, float]:
    """Return (argmax, exp(logits - max), log of the sum of exp(logits)); the sum is computed in f64."""
    if not np.isfinite(logits).all():
        raise Gpt2rtError("logits are not finite: the weights are damaged or untrained (run gpt2rt verify)")
    best = int(logits.argmax())
    weights = np.exp(logits - logits[best])
    return best, weights, float(logits[best]) + math.log(weights.sum(dtype=np.float64))


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    """Return {name: mean, name_error: its standard error, 0 for a single value}."""
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {name: float(values.mean()), f"{name}_error": float(error)}


def _perplexity(loss: float) -> float | None:
    """Return exp(loss), or None if that is too large for a float: JSON has no infinity."""
    return math.exp(loss) if loss < 700 else None


def windows(n_tokens: int, n_ctx: int, stride: int, bos: bool = True) -> Iterator[tuple[int, int, int]]:
    """Slide a window over tokens, so that each token but the first is scored once.

    Args:
        n_tokens: of the text. n_ctx: of the window. stride: tokens that it moves by. bos: whether the token after a
            window is scored as well; otherwise, where stride is n_ctx, the first token of each window is not scored.

    Yields:
        (begin, end, first): tokens[first:end] are to be scored after tokens[begin:first]; the model reads n_ctx tokens
        at most, tokens[begin : end - 1].
    """
    begin, first = 0, 1
    while first < n_tokens:
        end = min(n_tokens, begin + n_ctx + bos)
        yield begin, end, first
        begin += stride
        first = max(end, begin + 1)


def scored_windows(n_tokens: int, n_ctx: int, stride: int | None, bos: bool = True) -> list[tuple[int, int, int]]:
    """Return the windows, as of `windows`, that score a token. stride: None for half of the context."""
    found = windows(n_tokens, n_ctx, max(1, n_ctx // 2) if stride is None else stride, bos)
    return [(begin, end, first) for begin, end, first in found if first < end]


def start_of_scored(tokenizer: Tokenizer, bos: bool) -> list[int]:
    """Return the ids before a text that is scored: the bos token, if there is one and it is wanted."""
    return [tokenizer.bos_token_id] if bos and tokenizer.bos_token_id is not None else []


def bytes_of(tokenizer: Tokenizer, tokens: Iterable[int]) -> int:
    """Return the number of bytes of a text's tokens; those that begin and end texts have none."""
    separators = {tokenizer.bos_token_id, *tokenizer.eos_token_ids}
    return sum(len(tokenizer.token_bytes(token)) for token in tokens if token not in separators)


def _score(sequences: Sequence[_engine.Sequence], tokens: Sequence[int], first: int, tally: Tally) -> tuple[bool, bool]:
    """Score tokens[first:], each after all tokens before it, with sequences of one or two models.

    Returns:
        Whether each of them was the most likely token: for the model, and for the reference.
    """
    n_rows = max(1, min(MOST_ROWS, LOGITS_BYTES // (4 * sequences[0].model.hyperparameters.n_vocab)))
    is_best = is_reference_best = True
    for sequence in sequences:
        sequence.truncate(0)
        sequence.append(tokens[: first - 1], n_logits=0)
    for begin in range(first - 1, len(tokens) - 1, n_rows):
        chunk = tokens[begin : min(begin + n_rows, len(tokens) - 1)]
        for sequence in sequences:
            sequence.append(chunk, n_logits=len(chunk))
        rows = zip(*(sequence.all_logits for sequence in sequences), strict=True)
        for token, logits in zip(tokens[begin + 1 : begin + 1 + len(chunk)], rows, strict=True):
            best, reference_best = tally.add(token, *logits)
            is_best &= best
            is_reference_best &= reference_best
    return is_best, is_reference_best


def _sequences(model: Model, against: Model | None) -> tuple[list[_engine.Sequence], int]:
    """Return a sequence for each model, and the smallest n_ctx.

    Raises:
        UsageError: the models can't be compared, because their vocabularies differ in size.
    """
    models = [model] if against is None else [model, against]
    if len({m.hyperparameters.n_vocab for m in models}) > 1:
        first, second = models
        raise UsageError(
            f"{second.path}: got a vocabulary of {second.hyperparameters.n_vocab} tokens, expected"
            f" {first.hyperparameters.n_vocab}, as in {first.path}"
        )
    return [m.sequence() for m in models], min(m.hyperparameters.n_ctx for m in models)


def _encode(models: Sequence[Model], name: str, text: str, special: bool = False, continues: bool = False) -> list[int]:
    """Return the ids of a text, without a bos token. Raises UsageError if the models disagree about them."""
    options = {"special": special, "add_special_tokens": False, "continues": continues}
    tokens, *others = (model.tokenizer.encode(text, **options) for model in models)
    if others and others[0] != tokens:
        raise UsageError(f"{name}: {models[1].path} and {models[0].path} encode it differently (other vocabulary)")
    return tokens


def perplexity(
    model: Model,
    texts: Sequence[tuple[str, str]],
    *,
    against: Model | None = None,
    stride: int | None = None,
    special: bool = False,
    bos: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure the loss of a model on texts with a sliding window.

    Each text comes after the bos token, `Tokenizer.bos_token_id`, if there is one. Each token is scored once, after at
    least n_ctx - stride tokens where the text has as many. The model reads n_ctx tokens and scores the one after them.

    Args:
        texts: (name, text). against: a reference, that the model is compared with.
        stride: tokens that the window moves by; None for half of it. special: whether texts such as <|endoftext|> are
            those tokens; they count as tokens and have no bytes.
        bos: False scores as the strided recipe in the documentation of transformers does: there is no token before the
            text, so that its first token is not scored, and the last token that is scored is the window's own, so that
            a window scores one token less.
        progress: called with (done, total) tokens.

    Returns:
        A JSON-ready dict: `n_ctx`, the window; `stride`; `bos`; `texts`, for each the `name`, `n_bytes` of the scored
        tokens, `bits_per_byte`, and what `Tally.figures` has; `total`, the same over all of them where there are
        several.

    Raises:
        UsageError: an argument is invalid, a text has no token to score, or the vocabularies differ.
    """
    sequences, n_ctx = _sequences(model, against)
    stride = max(1, n_ctx // 2) if stride is None else stride
    if not 1 <= stride <= n_ctx:
        raise UsageError(f"stride: got {stride}, expected 1 to {n_ctx}, the size of the window")
    tokenizer = model.tokenizer
    start = start_of_scored(tokenizer, bos)
    encoded = []
    for name, text in texts:
        tokens = start + _encode([sequence.model for sequence in sequences], name, text, special)
        scored = scored_windows(len(tokens), n_ctx, stride, bos)
        if not scored:
            raise UsageError(f"{name}: no token to score (use a longer text)")
        encoded.append((name, tokens, scored))
    total, done = sum(end - first for *_, scored in encoded for _, end, first in scored), 0
    whole, n_whole_bytes, found = Tally(), 0, []
    for name, tokens, scored in encoded:
        tally, n_bytes = Tally(), 0
        for begin, end, first in scored:
            _score(sequences, tokens[begin:end], first - begin, tally)
            n_bytes += bytes_of(tokenizer, tokens[first:end])
            done += end - first
            if progress:
                progress(done, total)
        found.append(_text_figures(name, tally, n_bytes))
        for kept, new in (
            (whole.losses, tally.losses),
            (whole.reference_losses, tally.reference_losses),
            (whole.divergences, tally.divergences),
        ):
            kept.extend(new)
        whole.n_same += tally.n_same
        n_whole_bytes += n_bytes
    result = {"n_ctx": n_ctx, "stride": stride, "bos": bool(start), "texts": found}
    if len(found) > 1:
        result["total"] = _text_figures("all", whole, n_whole_bytes)
    return result


def _text_figures(name: str, tally: Tally, n_bytes: int) -> dict[str, Any]:
    figures = tally.figures()
    bits = sum(tally.losses) / math.log(2)
    return {"name": name, "n_bytes": n_bytes, "bits_per_byte": bits / n_bytes if n_bytes else None, **figures}


def lambada(
    model: Model,
    lines: str,
    *,
    name: str = "lambada",
    against: Model | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure how well a model predicts the last word of passages (LAMBADA, Paperno et al. 2016).

    The last word is the text after the last space, with that space, as in GPT-2's evaluation. It is predicted if each
    of its tokens is the most likely one. A passage longer than the context loses its beginning.

    Args:
        lines: JSON objects with a "text", one per line. name: their name in messages. Others: as for `perplexity`.

    Returns:
        A JSON-serializable dict: `name`; `n_passages`; `accuracy`; `perplexity`, exp of the mean loss of a word;
        `tokens`, `Tally.figures` of the words' tokens; and, with a reference, its `accuracy` and `perplexity` in
        `against`.

    Raises:
        UsageError: a line is not such an object, or its text has only one word.
    """
    sequences, n_ctx = _sequences(model, against)
    passages = []
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"].rstrip()
            split = text.rindex(" ")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError(
                f'{name}: line {number}: expected a JSON object whose "text" has a last word after a space'
            ) from None
        models = [sequence.model for sequence in sequences]
        context, word = _encode(models, name, text[:split]), _encode(models, name, text[split:], continues=True)
        if not context or len(word) > n_ctx:
            raise UsageError(f"{name}: line {number}: expected words before the last one, which must fit the context")
        passages.append(((context + word)[-n_ctx - 1 :], len(word)))
    if not passages:
        raise UsageError(f'{name}: no passages, expected a JSON object with a "text" on each line')
    tally, n_right, n_reference_right = Tally(), 0, 0
    for i, (tokens, n_word) in enumerate(passages):
        right, reference_right = _score(sequences, tokens, len(tokens) - n_word, tally)
        n_right += right
        n_reference_right += reference_right
        if progress:
            progress(i + 1, len(passages))
    n = len(passages)
    result = {
        "name": name,
        "n_passages": n,
        "accuracy": n_right / n,
        "perplexity": _perplexity(sum(tally.losses) / n),
        "tokens": tally.figures(),
    }
    if against is not None:
        result["against"] = {
            "accuracy": n_reference_right / n,
            "perplexity": _perplexity(sum(tally.reference_losses) / n),
        }
    return result
