"""What a model might have said instead, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gpt2rt._sampler import log_probabilities, most_likely

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt._engine import Sequence

ROWS = 64  # of logits in memory at a time


def alternatives(
    sequence: Sequence, prompt: list[int], tokens: list[int], n: int
) -> Iterator[tuple[int, float, list[tuple[int, float]]]]:
    """Yield (token, probability, the n most likely tokens as (id, probability)) for tokens after a prompt.

    Args:
        sequence: some of what it has evaluated may be reused; it does not change.
        prompt: at least one id.
    """
    ids = [*prompt, *tokens]
    begin = min(sequence.common_prefix(ids), len(prompt) - 1)
    again = sequence.fork(begin)
    again.append(prompt[begin:-1], 0)
    for at in range(0, len(tokens), ROWS):
        part = tokens[at : at + ROWS]
        again.append(ids[len(prompt) - 1 + at :][: len(part)], len(part))
        for token, row in zip(part, again.all_logits, strict=True):
            top = [(one, math.exp(logprob)) for one, logprob in most_likely(row.data, n)]
            yield token, math.exp(log_probabilities(row.data, [token])[0]), top
