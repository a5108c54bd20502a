"""PrefixCache: sequences of ended texts, whose first tokens a new prompt need not evaluate again."""

from __future__ import annotations

from collections.abc import Iterable

from gpt2rt._engine import Sequence
from gpt2rt.model import Model

LEAST_SHARED = 16  # tokens; fewer are not worth a copy
MOST_LOST = 64  # tokens; a sequence that has no more than these besides the shared ones is taken rather than copied


class Kept:
    """A sequence that is kept. prompt_logprobs: as it reported for its prompt, which its user must want, too."""

    def __init__(self, sequence: Sequence, prompt_logprobs: int | None):
        self.sequence, self.prompt_logprobs = sequence, prompt_logprobs
        self.n_bytes = sequence.nbytes


class PrefixCache:
    """Keeps ended sequences of all models, the least recently used first, within a number of bytes.

    Only the engine's thread uses it. What is reused changes no result: the logits of a token depend on nothing but the
    model and the tokens before it.

    Attributes:
        n_bytes: that the kept sequences hold.
    """

    def __init__(self, most: int | None = None) -> None:
        """most: sequences to keep; None for any number."""
        self._most = most
        self._kept: list[Kept] = []
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, sequence: Sequence, prompt_logprobs: int | None) -> None:
        """Keep a sequence that nobody uses any more, unless it is too short to be of use."""
        sequence.truncate(len(sequence))  # drops pending tokens
        if len(sequence) < LEAST_SHARED:
            return
        one = Kept(sequence, prompt_logprobs)
        self._kept.append(one)
        self.n_bytes += one.n_bytes
        if self._most is not None and len(self._kept) > self._most:
            self._drop()

    def sequence_for(
        self, model: Model, prompt: list[int], prompt_logprobs: int | None, running: Iterable[Kept] = ()
    ) -> Sequence:
        """Return a sequence of the model that has evaluated as many of the first tokens of a prompt as can be had.

        The last token of the prompt is never among them: its logits are needed.

        Args:
            running: sequences in use, which can be copied as well.
        """
        best, n_best = None, LEAST_SHARED - 1
        for one in (*self._kept, *running):
            if one.sequence.model is model and one.prompt_logprobs == prompt_logprobs:
                n_shared = min(one.sequence.common_prefix(prompt), len(prompt) - 1)
                if n_shared > n_best:
                    best, n_best = one, n_shared
        if best is None:
            return model.sequence()
        if best not in self._kept:
            return best.sequence.fork(n_best)
        self._kept.remove(best)
        if len(best.sequence) - n_best <= MOST_LOST:
            self.n_bytes -= best.n_bytes
            best.sequence.truncate(n_best)
            return best.sequence
        self._kept.append(best)  # it is now the most recently used
        return best.sequence.fork(n_best)

    def shrink(self, n_bytes: int) -> None:
        """Drop the least recently used sequences until the rest holds at most so many bytes."""
        while self._kept and self.n_bytes > max(0, n_bytes):
            self._drop()

    def _drop(self) -> None:
        self.n_bytes -= self._kept.pop(0).n_bytes
