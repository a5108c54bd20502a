"""Prompt lookup decoding: guess what comes next from what followed the same words before.

The guesses are checked by the model in one pass, which costs little more than a pass for one token, since both read all
weights once. What is sampled does not change, only how soon it is there.

Source: Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

N_GRAM = 3  # tokens that must have come before in the same order
MOST_GUESSES = 5  # tokens
FIRST_PAUSE = 8  # tokens without guesses after a wrong one; doubled each time in a row
LONGEST_PAUSE = 256
LEAST_WEIGHTS = 32 << 20  # bytes; less lies in the processor's caches, and a guess costs what a token costs


def is_worth_it(weights_size: int) -> bool:
    """Whether guessing pays for a model with so many bytes of weights: where a pass waits for memory."""
    return weights_size >= LEAST_WEIGHTS


class PromptLookup:
    """The places of all n-grams of a growing sequence, and how well guessing went."""

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}  # where the newest n-gram of these tokens ended
        self._indexed = N_GRAM
        self._pause = FIRST_PAUSE
        self._resting = 0

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Return what may follow.

        Args:
            tokens: all so far; each call has those of the one before at its beginning. most: how many at most.

        Returns:
            A list of ids, often empty.
        """
        for end in range(self._indexed, len(tokens)):  # the last n-gram is what is looked up: nothing follows it yet
            self._follows[tuple(tokens[end - N_GRAM : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        if self._resting:
            self._resting -= 1
            return []
        place = self._follows.get(tuple(tokens[-N_GRAM:]))
        return [] if place is None else tokens[place : place + min(most, MOST_GUESSES)]

    def learn(self, hits: int) -> None:
        """Take note of how many tokens of a guess were right: a wrong one is followed by a pause, ever longer."""
        if hits:
            self._pause = FIRST_PAUSE
        else:
            self._resting = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
