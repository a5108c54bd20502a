"""Call: the texts of one request, between the event loop and the engine's thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from gpt2rt._engine import Sequence
from gpt2rt.serve.api_error import ApiError
from gpt2rt.serve.served_model import ServedModel

if TYPE_CHECKING:
    from gpt2rt.generate import Sampling, ScoredToken

PromptScores = list[tuple[float | None, list[tuple[int, float]] | None]]


class Text:
    """A text to generate.

    Attributes:
        index: of the choice. prompt: ids, at least one.
        start: returns what samples the text on a sequence that has evaluated the first tokens of the prompt; None if
            only the prompt is evaluated.
        n_positions: how many positions the text can need, with its prompt.
        prompt_logprobs: how many of the most likely tokens to report for each token of the prompt; None for no report.
        n_cached: how many tokens of the prompt were not evaluated again.
    """

    def __init__(
        self,
        index: int,
        prompt: list[int],
        start: Callable[[Sequence], Sampling] | None,
        n_positions: int,
        prompt_logprobs: int | None = None,
    ):
        self.index, self.prompt, self.start, self.n_positions = index, prompt, start, n_positions
        self.prompt_logprobs = prompt_logprobs
        self.n_cached = 0
        # Of the engine's thread.
        self.call: Call
        self.sequence: Sequence | None = None  # while it runs
        self.sampling: Sampling | None = None
        self.n_bytes = 0  # of KV cache that are set aside for it
        self.parts: list[str] = []  # of the text, not yet reported
        self.n_reported = 0  # tokens whose log probabilities were reported
        self.is_begun = False

    def prompt_scores(self, sequence: Sequence) -> PromptScores | None:
        """Return the scores of the prompt, which the sequence has evaluated; None if they are not to be reported."""
        if self.prompt_logprobs is None:
            return None
        n = len(self.prompt)
        return list(zip(sequence.prompt_logprobs[:n], sequence.prompt_top_logprobs[:n], strict=True))


class Update(NamedTuple):
    """News of a text.

    Attributes:
        piece: more of the text. scored: log probabilities of the tokens sampled since the last update.
        prompt_scores: (log probability, most likely tokens) for each token of the prompt, once; else None.
        finish_reason: "stop", "length" or "blank" in the last update of a text, else None.
        n_tokens: how many tokens the text has so far.
    """

    text: Text
    piece: str
    scored: list[ScoredToken]
    prompt_scores: PromptScores | None
    finish_reason: str | None
    n_tokens: int


class Call:
    """The texts of one request. The event loop submits it and waits for updates; the engine's thread reports them.

    Attributes:
        wants_pieces: whether each piece is reported as it is sampled, or the text once, when it has ended.
        arrived: `monotonic()` of its arrival. deadline: when it is given up.
        waiting: the texts that have not started.
        n_left: how many texts have not ended.
        is_over: nobody waits for it any more; the engine's thread drops its texts at the next step.
    """

    def __init__(self, model: ServedModel, texts: Iterable[Text], *, wants_pieces: bool, timeout: float):
        self.model, self.wants_pieces, self.timeout = model, wants_pieces, timeout
        self.texts = list(texts)
        self.waiting = deque(self.texts)
        self.n_left = len(self.texts)
        for text in self.texts:
            text.call = self
        self.arrived = monotonic()
        self.deadline = self.arrived + timeout
        self.is_over = False
        self._updates: list[Update] = []
        self._error: ApiError | None = None
        self._news = asyncio.Event()

    def leave(self) -> None:
        """Say that nobody waits any more; `updates` then returns an empty list."""
        self.is_over = True
        self._news.set()

    def report(self, news: Update | ApiError) -> None:
        """Take news, on the event loop's thread. An error ends the call."""
        if isinstance(news, ApiError):
            self._error = self._error or news
        else:
            self._updates.append(news)
        self._news.set()

    async def updates(self) -> list[Update]:
        """Wait for news, and return all that there are; an empty list if `leave` was called.

        Raises:
            ApiError: the call failed. Updates that came before are returned first.
        """
        await self._news.wait()
        if self.is_over:
            return []
        if not self._updates and self._error is not None:
            raise self._error
        updates, self._updates = self._updates, []
        if self._error is None:
            self._news.clear()
        return updates
