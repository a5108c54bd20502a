"""Reply: an answer being sampled, a step at a time, until it is one that was not given before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpt2rt import _engine
from gpt2rt._chat import MAX_DRAFTS as MAX_DRAFTS  # noqa: PLC0414 (others import them from here)
from gpt2rt._chat import ReplyText
from gpt2rt._chat import words_of as words_of  # noqa: PLC0414
from gpt2rt._engine import Event
from gpt2rt.generate import Continuation
from gpt2rt.sampling import SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.generate import ScoredToken


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
        self._sequence, self._sampling = sequence, sampling
        self._text = ReplyText(is_talk, sampling.temperature, earlier)
        self._arguments: dict[str, Any] = {
            "max_tokens": max_tokens,
            "stop": stop,
            "history": history,
            "exempt": exempt,
            "logprobs": logprobs,
            "logit_bias": logit_bias,
            "lookup": lookup,
        }
        self._n_discarded = 0
        self._start(prompt, seed)
        self.n_prompt_tokens = self._continuation.n_prompt_tokens
        self._n_prompt = len(sequence) + len(sequence.pending)

    def _start(self, prompt: Iterable[int], seed: int | None) -> None:
        """Begin a draft, with its own temperature."""
        sampling = self._sampling.replace(temperature=self._text.temperature)
        self._continuation = Continuation(self._sequence, prompt, sampling, seed=seed, **self._arguments)

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
        piece = self._continuation.accept(event)
        text = self._text.accept(piece, self._continuation.finish_reason)
        if text is not None:
            self.finish_reason = self._text.finish_reason
            return text
        self._n_discarded += len(self.tokens)
        self._sequence.truncate(self._n_prompt)
        self._start((), None)  # the generator continues
        return ""
