"""Prompt lookup decoding: guess the next tokens from what followed the same n-gram earlier in the text.

The model checks the guesses in one forward pass, which costs little more than a pass for one token, since both read all
weights once. The guesses change the speed, not the sampled tokens.

Source: Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

N_GRAM = 3  # tokens that must match
MOST_GUESSES = 5  # tokens
FIRST_PAUSE = 8  # tokens without guesses after a wrong one; doubled each time in a row
LONGEST_PAUSE = 256
LEAST_WEIGHTS = 32 << 20  # bytes; smaller weights stay in the CPU's caches, and a guess costs as much as a token


def is_worth_it(weights_size: int) -> bool:
    """Return whether guessing pays for a model with this many bytes of weights: if memory limits its speed."""
    return weights_size >= LEAST_WEIGHTS


class PromptLookup:
    """An index of the n-grams of a growing sequence, with a pause after wrong guesses."""

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}  # {n-gram: the position after its newest occurrence}
        self._indexed = N_GRAM
        self._pause = FIRST_PAUSE
        self._resting = 0

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Guess the next tokens.

        Args:
            tokens: all ids so far; each call extends those of the previous call.
            most: the largest number of guesses.

        Returns:
            A list of ids, often empty.
        """
        for end in range(self._indexed, len(tokens)):  # the last n-gram is left out: nothing follows it yet
            self._follows[tuple(tokens[end - N_GRAM : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        if self._resting:
            self._resting -= 1
            return []
        place = self._follows.get(tuple(tokens[-N_GRAM:]))
        return [] if place is None else tokens[place : place + min(most, MOST_GUESSES)]

    def learn(self, hits: int) -> None:
        """Record how many tokens of a guess were right. After each wrong guess, the pause doubles."""
        if hits:
            self._pause = FIRST_PAUSE
        else:
            self._resting = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
