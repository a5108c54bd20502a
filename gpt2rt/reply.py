"""Reply: an answer being sampled, a step at a time, until it is one that was not given before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpt2rt import _engine
from gpt2rt._engine import Event
from gpt2rt.generate import Continuation
from gpt2rt.sampling import SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.generate import ScoredToken

MAX_DRAFTS = 5  # of an answer: blank ones and repeated ones are sampled again
WARMER = 1.25  # factor of the temperature from one draft to the next, up to a temperature of 1


def words_of(text: str) -> str:
    """Return the text as it is compared: letters and digits in lower case, separated by single spaces."""
    kept = (c if c.isalnum() else " " if c.isspace() else "" for c in text.casefold())
    return " ".join("".join(kept).split())


class Reply:
    """The answer to a message: what `run_together` steps, like a `Continuation`.

    In a talk, an answer is stripped, and a blank one or one that was given before is discarded and sampled again, a
    little warmer. Text that may still become an earlier answer is held back, so a piece that was returned stays.

    Attributes:
        finish_reason: None while it runs, then that of its `Continuation`, or "blank".
        n_tokens: how many tokens were sampled, in all drafts together.
    """

    def __init__(
        self,
        sequence: _engine.Sequence,
        prompt: Iterable[int],
        sampling: SamplingParams,
        *,
        is_talk: bool,
        earlier: set[str],
        max_tokens: int | None,
        stop: Iterable[str],
        history: Sequence[int],
        seed: int | None = None,
        exempt: Iterable[int] | None = None,
        logprobs: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        lookup: bool = False,
    ):
        """
        Args:
            is_talk: whether blank and repeated answers are sampled again.
            earlier: the answers that must not be given again, as `words_of`.
            The others are those of `Generation`; `history` has the ids of the earlier answers.
        """
        self.finish_reason: str | None = None
        self._sequence, self._sampling, self._is_talk, self._earlier = sequence, sampling, is_talk, earlier
        self._arguments: dict[str, Any] = {
            "max_tokens": max_tokens,
            "stop": stop,
            "history": history,
            "exempt": exempt,
            "logprobs": logprobs,
            "logit_bias": logit_bias,
            "lookup": lookup,
        }
        self._last_draft = MAX_DRAFTS - 1 if is_talk and sampling.temperature > 0 else 0
        self._draft = 0
        self._n_discarded = 0
        self._start(prompt, seed)
        self.n_prompt_tokens = self._continuation.n_prompt_tokens
        self._n_prompt = len(sequence) + len(sequence.pending)

    def _start(self, prompt: Iterable[int], seed: int | None) -> None:
        """Begin a draft. The same words come again if they are the likely ones, so each one is sampled warmer."""
        temperature = self._sampling.temperature
        warmer = min(max(temperature, 1.0), temperature * WARMER**self._draft)
        sampling = self._sampling.replace(temperature=warmer)
        self._continuation = Continuation(self._sequence, prompt, sampling, seed=seed, **self._arguments)
        self._held = ""  # text that was not returned
        self._has_begun = False  # to return text

    @property
    def sequence(self) -> _engine.Sequence:
        """The sequence that is continued."""
        return self._sequence

    @property
    def seed(self) -> int:
        """The seed of the random generator."""
        return self._continuation.seed

    @property
    def tokens(self) -> list[int]:
        """The sampled ids of the current draft, a stop string's included."""
        return self._continuation.tokens

    @property
    def scored(self) -> list[ScoredToken]:
        """The sampled tokens of the current draft with their log probabilities; see `Continuation`."""
        return self._continuation.scored

    @property
    def n_tokens(self) -> int:
        return self._n_discarded + len(self.tokens)

    def propose(self) -> None:
        """Before a step: guess the next tokens, if prompt lookup is on."""
        self._continuation.propose()

    def accept(self, event: Event) -> str:
        """Take the tokens of a step and return the text that is now final, which may be empty.

        Raises:
            Gpt2rtError: sampling failed.
        """
        continuation = self._continuation
        self._held += continuation.accept(event)
        if self._is_talk and not self._has_begun:
            self._held = self._held.lstrip()
        text = self._held.rstrip() if self._is_talk else self._held
        is_last = self._draft == self._last_draft
        if continuation.finish_reason is None:
            if not self._has_begun and not is_last:
                words = words_of(text)
                if any(answer.startswith(words) for answer in self._earlier):
                    return ""  # it may become one that was given before
            return self._released(text)
        if self._has_begun or is_last or (text and words_of(text) not in self._earlier):
            self.finish_reason = continuation.finish_reason if text or self._has_begun else "blank"
            return self._released(text)
        self._n_discarded += len(self.tokens)
        self._draft += 1
        self._sequence.truncate(self._n_prompt)
        self._start((), None)  # the generator continues
        return ""

    def _released(self, text: str) -> str:
        """Return the beginning of what was held; the rest may be white space at the end of the answer."""
        self._held = self._held[len(text) :]
        self._has_begun = self._has_begun or bool(text)
        return text
