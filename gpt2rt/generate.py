"""Generation: the loop from logits to a token to text."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from time import perf_counter

from gpt2rt._sampler import Sampler
from gpt2rt._tokenizer import StreamDecoder
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.lookup import PromptLookup, is_worth_it
from gpt2rt.sampling import SamplingParams
from gpt2rt.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.model import Model

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


class Continuation:
    """The text of one sequence as it is drawn, logits for logits: sampling, whole characters, stop strings.

    Attributes:
        tokens: the ids drawn so far.
        sampler: what draws them.
        finish_reason: None while it runs, then "stop" (a stop string), "end_of_text" (the model's own end), "length"
            (max_tokens) or "context" (no position is left).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampler: Sampler,
        *,
        max_tokens: int | None,
        stop: Iterable[str],
        history: Sequence[int],
    ):
        """Arguments are those of `Generation`."""
        if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
            raise UsageError(f"max_tokens: got {max_tokens!r}, expected a whole number from 1")
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.sampler = sampler
        self._end_of_text = tokenizer.end_of_text
        self._max_tokens = max_tokens
        self._history = list(history)
        self._stops = StopStrings(stop)
        self._decoder = StreamDecoder(tokenizer)

    def step(self, logits: bytes) -> str:
        """Draws a token and returns the text that is certain after it, maybe none."""
        token = self.sampler.sample(logits, self._history)
        if token == self._end_of_text:
            return self.end("end_of_text")
        self.tokens.append(token)
        self._history.append(token)
        piece = self._stops.feed(self._decoder.feed(token))
        if self._stops.found is not None:
            self.finish_reason = "stop"
        elif len(self.tokens) == self._max_tokens:
            piece += self.end("length")
        return piece

    def end(self, reason: str) -> str:
        """Ends it and returns what was held back."""
        tail = self._stops.feed(self._decoder.finish())
        tail += self._stops.finish()
        self.finish_reason = reason if self._stops.found is None else "stop"
        return tail


def prompt_for(model: Model, prompt: Iterable[int]) -> list[int]:
    """The ids to begin with: the prompt, or <|endoftext|> for an empty one. Raises UsageError where there is none."""
    prompt = list(prompt)
    if prompt:
        return prompt
    if model.tokenizer.end_of_text is None:
        raise UsageError("prompt: it is empty and the vocabulary has no <|endoftext|> to begin with")
    return [model.tokenizer.end_of_text]


class Generation:
    """Continues a session: an iterator of pieces of text, each of whole characters.

    Attributes:
        n_prompt_tokens: ids accepted before the first one was drawn.
        prompt_seconds: how long that took.
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
        lookup: bool | None = None,
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
            lookup: guess tokens from the text so far and check them several at once; the text is the same without.
                None does so where it pays.

        Raises:
            ContextFullError: the session has too few positions for the prompt.
            UsageError: an argument can't be used, or there is nothing to go on from.
        """
        if not isinstance(sampling, Sampler):
            sampling = Sampler(sampling, draw_seed() if seed is None else seed)
        self._continuation = Continuation(
            session.model.tokenizer, sampling, max_tokens=max_tokens, stop=stop, history=history
        )
        prompt = list(prompt) if len(session) else prompt_for(session.model, prompt)
        if len(prompt) > session.n_ctx - len(session):
            taken = f", {len(session)} of them taken" if len(session) else ""
            raise ContextFullError(
                f"prompt: {len(prompt)} tokens, the model has {session.n_ctx} positions{taken} (shorten it)"
            )
        self.n_prompt_tokens = len(prompt)
        self.prompt_seconds = self.seconds = 0.0
        self._session = session
        if lookup is None:
            lookup = is_worth_it(session.model.weights_size)
        self._lookup = PromptLookup() if lookup else None
        self._pieces = self._run(prompt)

    @property
    def tokens(self) -> list[int]:
        """The ids generated so far."""
        return self._continuation.tokens

    @property
    def n_tokens(self) -> int:
        """How many tokens have been generated."""
        return len(self.tokens)

    @property
    def finish_reason(self) -> str | None:
        """Why it has ended, see `Continuation`; None while it runs."""
        return self._continuation.finish_reason

    @property
    def sampler(self) -> Sampler:
        """What draws the tokens."""
        return self._continuation.sampler

    @property
    def seed(self) -> int:
        """The seed of the random draws."""
        return self.sampler.seed

    def _run(self, prompt: list[int]) -> Generator[str]:
        session, continuation = self._session, self._continuation
        start = perf_counter()
        session.accept(prompt)
        begin = perf_counter()
        self.prompt_seconds = begin - start
        known = session.tokens
        piece = continuation.step(session.logits_view)
        while True:
            self.seconds = perf_counter() - begin
            if piece:
                yield piece
            if continuation.finish_reason:
                return
            if len(session) == session.n_ctx:
                if tail := continuation.end("context"):
                    yield tail
                return
            token = self.tokens[-1]
            known.append(token)
            draft = self._lookup.guess(known, session.n_ctx - len(session) - 1) if self._lookup else []
            session.accept((token, *draft), n_logits=1 + len(draft))
            hits, piece = 0, continuation.step(session.logits_back(len(draft)))
            while hits < len(draft) and not continuation.finish_reason and self.tokens[-1] == draft[hits]:
                hits += 1
                piece += continuation.step(session.logits_back(len(draft) - hits))
            known += draft[:hits]
            session.rewind(len(draft) - hits)
            if self._lookup and draft:
                self._lookup.learn(hits)

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends it early; the session keeps what it has accepted."""
        self._pieces.close()
