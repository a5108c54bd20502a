"""Generation: the loop from logits to a token to text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter

from gpt2rt._sampler import Sampler
from gpt2rt._tokenizer import StreamDecoder
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.sampling import SamplingParams
from gpt2rt.session import Session

MAX_STOPS = 64
MAX_STOP_LENGTH = 256  # characters


def draw_seed() -> int:
    """A new seed from the system; of 32 bits, so that it can be typed again."""
    return int.from_bytes(os.urandom(4), "little")


class StopStrings:
    """Lets text through until a stop string is complete, and holds back what may become one.

    Attributes:
        found: the stop string that has ended the text, or None.
    """

    def __init__(self, stop: Iterable[str] = ()):
        """Raises UsageError: an empty or overlong string, or too many."""
        stops = [stop] if isinstance(stop, str) else list(stop)
        if len(stops) > MAX_STOPS:
            raise UsageError(f"stop: got {len(stops)} strings, expected at most {MAX_STOPS}")
        for one in stops:
            if not isinstance(one, str) or not 1 <= len(one) <= MAX_STOP_LENGTH:
                raise UsageError(f"stop: got {one!r:.80}, expected text of 1 to {MAX_STOP_LENGTH} characters")
        self.found: str | None = None
        self._stops = stops
        self._held = ""

    def feed(self, piece: str) -> str:
        """What of the text so far, this piece included, is certain to stay."""
        if not self._stops or self.found is not None:
            return piece if self.found is None else ""
        text = self._held + piece
        # The one that is complete first, so that the result does not depend on how the text is cut into pieces.
        complete = [(at + len(one), at, one) for one in self._stops if (at := text.find(one)) >= 0]
        if complete:
            _, at, self.found = min(complete)
            self._held = ""
            return text[:at]
        held = 0
        for one in self._stops:
            for n in range(min(len(one) - 1, len(text)), held, -1):
                if text.endswith(one[:n]):
                    held = n
                    break
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back and is text after all."""
        held, self._held = self._held, ""
        return held


class Generation:
    """Continues a session: an iterator of pieces of text, each of whole characters.

    Attributes:
        tokens: the ids generated so far. sampler: what draws them.
        finish_reason: None while it runs, then "stop" (a stop string), "end_of_text" (the model's own end), "length"
            (max_tokens) or "context" (no position is left).
        n_prompt_tokens: ids accepted before the first one was drawn. prompt_seconds: how long that took.
        seconds: from then to the newest token.
    """

    def __init__(
        self,
        session: Session,
        prompt: Iterable[int],
        sampling: SamplingParams | Sampler,
        *,
        max_tokens: int | None = None,
        stop: Iterable[str] = (),
        seed: int | None = None,
        history: Sequence[int] = (),
    ):
        """
        Args:
            session: accepts the prompt and every generated token that another one follows.
            prompt: ids to accept first; empty to go on from the session's last token, or to begin a document.
            sampling: parameters, or a sampler to draw on with (then `seed` is not used).
            max_tokens: at most so many tokens, None for as many as there are positions.
            stop: strings that end the text; they are not part of it.
            seed: of the random generator, drawn where it is None.
            history: ids of earlier answers that the sampler takes for generated as well.

        Raises:
            ContextFullError: the session has too few positions for the prompt.
            UsageError: an argument can't be used, or there is nothing to go on from.
        """
        if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
            raise UsageError(f"max_tokens: got {max_tokens!r}, expected a whole number from 1")
        if not isinstance(sampling, Sampler):
            sampling = Sampler(sampling, draw_seed() if seed is None else seed)
        prompt = list(prompt)
        self._end_of_text = session.model.tokenizer.end_of_text
        if not prompt and not len(session):
            if self._end_of_text is None:
                raise UsageError("prompt: it is empty and the vocabulary has no <|endoftext|> to begin with")
            prompt = [self._end_of_text]
        if len(prompt) > session.n_ctx - len(session):
            taken = f", {len(session)} of them taken" if len(session) else ""
            raise ContextFullError(
                f"prompt: {len(prompt)} tokens, the model has {session.n_ctx} positions{taken} (shorten it)"
            )
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.n_prompt_tokens = len(prompt)
        self.prompt_seconds = self.seconds = 0.0
        self.sampler = sampling
        self._session = session
        self._max_tokens = max_tokens
        self._history = list(history)
        self._pieces = self._run(prompt, StopStrings(stop), StreamDecoder(session.model.tokenizer))

    @property
    def seed(self) -> int:
        """The seed of the random draws."""
        return self.sampler.seed

    @property
    def n_tokens(self) -> int:
        """How many tokens have been generated."""
        return len(self.tokens)

    def _run(self, prompt: list[int], stops: StopStrings, decoder: StreamDecoder) -> Iterator[str]:
        session, history = self._session, self._history
        start = perf_counter()
        session.accept(prompt)
        begin = perf_counter()
        self.prompt_seconds = begin - start
        while True:
            token = self.sampler.sample(session.logits_view, history)
            self.seconds = perf_counter() - begin
            if token == self._end_of_text:
                reason = "end_of_text"
                break
            self.tokens.append(token)
            history.append(token)
            if piece := stops.feed(decoder.feed(token)):
                yield piece
            if stops.found is not None:
                self.finish_reason = "stop"
                return
            if len(self.tokens) == self._max_tokens:
                reason = "length"
                break
            if len(session) == session.n_ctx:
                reason = "context"
                break
            session.accept((token,))
        tail = stops.feed(decoder.finish())
        tail += stops.finish()
        self.finish_reason = reason if stops.found is None else "stop"
        if tail:
            yield tail

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends it early; the session keeps what it has accepted."""
        self._pieces.close()
