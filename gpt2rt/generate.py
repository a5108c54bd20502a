"""Generation: tokens of a sequence, step by step, and the text that they become."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from time import perf_counter

from gpt2rt import _engine
from gpt2rt._engine import Event, step_together
from gpt2rt._tokenizer import StreamDecoder
from gpt2rt.arguments import whole_number
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.lookup import PromptLookup
from gpt2rt.sampling import SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model

MAX_STOPS = 64
MAX_STOP_LENGTH = 256  # characters


def stop_strings(stop: str | Iterable[str]) -> tuple[str, ...]:
    """Return the strings that `stop` means: one, or several.

    Raises:
        UsageError: an empty or overlong string, too many of them, or no strings at all.
    """
    try:
        stops = (stop,) if isinstance(stop, (str, bytes)) else tuple(stop)
    except TypeError:
        raise UsageError(f"stop: got {stop!r:.80}, expected a string or a list of strings") from None
    if len(stops) > MAX_STOPS:
        raise UsageError(f"stop: got {len(stops)} strings, expected at most {MAX_STOPS}")
    for one in stops:
        if not isinstance(one, str) or not 1 <= len(one) <= MAX_STOP_LENGTH:
            raise UsageError(f"stop: got {one!r:.80}, expected text of 1 to {MAX_STOP_LENGTH} characters")
    return stops


class StopStrings:
    """Pass text on until a stop string is complete, and hold back what may become one.

    Attributes:
        found: the stop string that has ended the text, or None.
    """

    def __init__(self, stop: str | Iterable[str] = ()):
        """Raises as `stop_strings`."""
        self.found: str | None = None
        self._stops = stop_strings(stop)
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what of the text so far, this piece included, is certain to stay."""
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
        """Return what was held back and is text after all."""
        held, self._held = self._held, ""
        return held


class Continuation:
    """One sequence that is being continued: its sampled tokens as text, until a reason to end.

    Attributes:
        sequence: the `Sequence`. seed: of its random generator.
        tokens: the sampled ids that belong to the text, a list.
        logprobs: their log probabilities, a list; empty where they were not asked for.
        top_logprobs: for each the most likely tokens, a list of (id, log probability); likewise.
        finish_reason: None while it runs, then "stop" (a stop string, or the model's end-of-text token) or "length"
            (max_tokens, or no position is left).
    """

    def __init__(
        self,
        sequence: _engine.Sequence,
        prompt: Iterable[int],
        sampling: SamplingParams,
        *,
        max_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        history: Sequence[int] | None = (),
        exempt: Iterable[int] | None = None,
        logprobs: int | None = None,
        lookup: bool = False,
    ):
        """Push the prompt and set how to sample; nothing runs yet. Arguments are those of `Generation`."""
        self.max_tokens = None if max_tokens is None else whole_number("max_tokens", max_tokens, 1)
        self._stops = StopStrings(stop)
        self._end_of_text = sequence.model.tokenizer.end_of_text
        prompt = list(prompt)
        if not prompt and not len(sequence) and not sequence.pending:
            prompt = start_of_text(sequence.model)
        n_before = len(sequence) + len(sequence.pending)
        if len(prompt) > sequence.n_ctx - n_before:
            taken = f", {n_before} of them taken" if n_before else ""
            raise ContextFullError(
                f"prompt: {len(prompt)} tokens, the model has {sequence.n_ctx} positions{taken} (shorten it)"
            )
        self.seed = sequence.set_sampling(
            sampling,
            seed=seed,
            history=history,
            exempt=exempt,
            stop_tokens=[] if self._end_of_text is None else [self._end_of_text],
            logprobs=logprobs,
        )
        sequence.push(prompt)
        self.sequence = sequence
        self.n_prompt_tokens = len(prompt)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[list[tuple[int, float]]] = []
        self.finish_reason: str | None = None
        self._decoder = StreamDecoder(sequence.model.tokenizer)
        self._lookup = PromptLookup() if lookup else None
        self._known = sequence.tokens + sequence.pending if lookup else []
        self._n_guesses = 0

    def propose(self) -> None:
        """Before a step: guess what may follow, where prompt lookup is wanted."""
        if self._lookup is None or not self.tokens:
            return
        most = self.sequence.n_ctx - len(self._known)
        if self.max_tokens is not None:
            most = min(most, self.max_tokens - len(self.tokens) - 1)
        guesses = self._lookup.guess(self._known, most) if most > 0 else []
        self._n_guesses = len(guesses)
        if guesses:
            self.sequence.guess(guesses)

    def accept(self, event: Event) -> str:
        """Take a step's tokens and return the text that is certain after them, maybe none.

        Raises:
            Gpt2rtError: the step could not sample.
        """
        if event.error is not None:
            raise event.error
        piece, tokens = "", event.tokens
        for i, token in enumerate(tokens):
            if token == self._end_of_text:
                piece += self.end("stop")
            else:
                self.tokens.append(token)
                if event.logprobs is not None:
                    self.logprobs.append(event.logprobs[i])
                if event.top_logprobs is not None:
                    self.top_logprobs.append(event.top_logprobs[i])
                piece += self._stops.feed(self._decoder.feed(token))
                if self._stops.found is not None:
                    self.finish_reason = "stop"
                elif len(self.tokens) == self.max_tokens:
                    piece += self.end("length")
            if self.finish_reason:
                self.sequence.retract(len(tokens) - i - 1)
                return piece
        if self._lookup is not None:
            self._known += tokens
            if self._n_guesses:
                self._lookup.learn(len(tokens) - 1)
        if len(self.sequence) == self.sequence.n_ctx:
            piece += self.end("length")
        return piece

    def end(self, reason: str) -> str:
        """End it and return what was held back."""
        tail = self._stops.feed(self._decoder.finish())
        tail += self._stops.finish()
        self.finish_reason = reason if self._stops.found is None else "stop"
        return tail


def run_together(
    running: list[Continuation],
    step: Callable[[list[_engine.Sequence]], list[Event]] = step_together,
) -> Iterator[tuple[Continuation, str]]:
    """Step continuations together until none is left: the one loop of everything that generates.

    Args:
        running: they leave this list as they end; others may be added between the pieces.
        step: `Engine.step`, or what does the same.

    Yields:
        (continuation, piece of text), the piece maybe empty.
    """
    while running:
        for continuation in running:
            continuation.propose()
        owner = {continuation.sequence: continuation for continuation in running}
        for event in step(list(owner)):
            continuation = owner[event.sequence]
            piece = continuation.accept(event)
            if continuation.finish_reason:
                running.remove(continuation)
            yield continuation, piece


def prompt_ids(model: Model, prompt: str | Iterable[int], name: str = "prompt") -> list[int]:
    """Return the ids of a text, or those that were given. Raises UsageError: it is neither; it begins with `name`."""
    if isinstance(prompt, str):
        return model.tokenizer.encode(prompt)
    try:
        ids = None if isinstance(prompt, (bytes, bytearray, Mapping)) else list(prompt)
    except TypeError:
        ids = None
    if ids is None:
        raise UsageError(f"{name}: got {prompt!r:.80}, expected a text or ids")
    return ids


def start_of_text(model: Model) -> list[int]:
    """Return what an empty prompt stands for: <|endoftext|>. Raises UsageError where the vocabulary has none."""
    if model.tokenizer.end_of_text is None:
        raise UsageError("prompt: it is empty and the vocabulary has no <|endoftext|> to begin with")
    return [model.tokenizer.end_of_text]


class Generation:
    """Continue a sequence: an iterator of pieces of text, each of whole characters.

    Attributes:
        n_prompt_tokens: ids that were evaluated before the first one was sampled.
        prompt_seconds: until the first token was sampled.
        seconds: from then to the newest token.
    """

    def __init__(
        self,
        sequence: _engine.Sequence,
        prompt: Iterable[int],
        sampling: SamplingParams,
        *,
        max_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        history: Sequence[int] | None = (),
        exempt: Iterable[int] | None = None,
        logprobs: int | None = None,
        lookup: bool = False,
    ):
        """
        Args:
            sequence: evaluates the prompt; afterwards it has the generated tokens as well.
            prompt: ids to evaluate first; empty to continue after the sequence's last token, or to begin a document.
            sampling: a `SamplingParams`.
            max_tokens: at most so many tokens, None for as many as there are positions.
            stop: strings that end the text; they are not part of it.
            seed: of the random generator; None to continue with the sequence's, or for a new one from the system.
            history: ids of earlier answers that penalties take for generated as well; None for the sequence's.
            exempt: ids that are never penalized; None for the sequence's.
            logprobs: how many of the most likely tokens to report for each one, see `Sequence.set_sampling`.
            lookup: guess tokens from the text so far and check several at once; the text is the same without.

        Raises:
            ContextFullError: the sequence has too few positions for the prompt.
            UsageError: an argument, or there is nothing to continue.
        """
        self._continuation = Continuation(
            sequence,
            prompt,
            sampling,
            max_tokens=max_tokens,
            stop=stop,
            seed=seed,
            history=history,
            exempt=exempt,
            logprobs=logprobs,
            lookup=lookup,
        )
        self.prompt_seconds = self.seconds = 0.0
        self._parts: list[str] = []
        self._pieces = self._run()

    @property
    def sequence(self) -> _engine.Sequence:
        """What is continued."""
        return self._continuation.sequence

    @property
    def n_prompt_tokens(self) -> int:
        """How many ids were evaluated before the first one was sampled."""
        return self._continuation.n_prompt_tokens

    @property
    def tokens(self) -> list[int]:
        """The ids generated so far."""
        return self._continuation.tokens

    @property
    def n_tokens(self) -> int:
        """How many tokens have been generated."""
        return len(self.tokens)

    @property
    def logprobs(self) -> list[float]:
        """The log probability of each generated token, where `logprobs` asked for them."""
        return self._continuation.logprobs

    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]:
        """For each generated token the most likely ones, (id, log probability), where `logprobs` asked for them."""
        return self._continuation.top_logprobs

    @property
    def finish_reason(self) -> str | None:
        """Why it has ended, see `Continuation`; None while it runs."""
        return self._continuation.finish_reason

    @property
    def seed(self) -> int:
        """The seed of the random generator."""
        return self._continuation.seed

    def _run(self) -> Generator[str]:
        start = perf_counter()
        begin = 0.0
        for _, piece in run_together([self._continuation]):
            now = perf_counter()
            if not begin:
                begin, self.prompt_seconds = now, now - start
            self.seconds = now - begin
            if piece:
                self._parts.append(piece)
                yield piece

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def text(self) -> str:
        """Generate to the end and return the whole text, what was iterated over before included."""
        for _ in self:
            pass
        return "".join(self._parts)

    def close(self) -> None:
        """End it early; the sequence keeps what it has."""
        self._pieces.close()
