"""Sampling, step by step: what the model offered, what the settings left of it, and the number that chose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpt2rt._sampler import Sampler, most_likely
from gpt2rt.sampling import SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model

Likely = list[tuple[int, float]]


@dataclass(frozen=True)
class Step:
    """One sampled token.

    Attributes:
        position: of the token in the text.
        token: its id.
        before: the most likely tokens of the model, a list of (id, probability), descending.
        after: the same after penalties, temperature, top_k, top_p and min_p.
        n_candidates: how many tokens could be sampled.
        number: the random number in [0, 1) that chose; None if there was one candidate.
        low, high: the token's part of the line from 0 to 1 on which all candidates lie one after the other, in the
            sampler's own order; the number lies between them.
    """

    position: int
    token: int
    before: Likely
    after: Likely
    n_candidates: int
    number: float | None
    low: float
    high: float


def sample_steps(
    model: Model, ids: Iterable[int], max_tokens: int, params: SamplingParams, seed: int, n_top: int
) -> list[Step]:
    """Continue a text as `model.generate` does with this seed, and record every choice.

    Args:
        ids: of the text, at least one.
        max_tokens: the steps end there, after a token that ends a text, and where the context is full.
        n_top: how many of the most likely tokens to keep.
    """
    from math import exp

    sequence, sampler = model.sequence(), Sampler(params, seed)
    sequence.append(ids)
    steps: list[Step] = []
    history: list[int] = []
    while len(steps) < max_tokens:
        logits = sequence.logits.data
        before = [(token, exp(logprob)) for token, logprob in most_likely(logits, n_top)]
        token, number, candidates = sampler.choose(logits, history)
        low = 0.0
        for one, probability in candidates:
            if one == token:
                break
            low += probability
        high = low + dict(candidates)[token]
        after = sorted(candidates, key=lambda one: (-one[1], one[0]))[:n_top]
        steps.append(Step(len(sequence), token, before, after, len(candidates), number, low, high))
        history.append(token)
        if token in model.tokenizer.eos_token_ids or len(sequence) == sequence.n_ctx:
            break
        sequence.append([token])
    return steps
