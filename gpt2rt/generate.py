"""Generation: sample tokens of a sequence step by step, and decode them to text."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from time import perf_counter

from gpt2rt import _engine
from gpt2rt._engine import Event, step_together
from gpt2rt._tokenizer import TextStream
from gpt2rt._tokenizer import stop_strings as stop_strings  # noqa: PLC0414 (others import it from here)
from gpt2rt.arguments import whole_number
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.lookup import PromptLookup
from gpt2rt.sampling import SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    from gpt2rt.model import Model

    ScoredToken = tuple[int, float, list[tuple[int, float]] | None]

    class Steppable(Protocol):
        """What `run_together` steps: a `Continuation` or a `Reply`."""

        finish_reason: str | None

        @property
        def sequence(self) -> _engine.Sequence: ...
        def propose(self) -> None: ...
        def accept(self, event: Event) -> str: ...

    class Sampling(Steppable, Protocol):
        """What generates a text, with its tokens."""

        @property
        def tokens(self) -> list[int]: ...
        @property
        def scored(self) -> list[ScoredToken]: ...

    Running = TypeVar("Running", bound=Steppable)


class Continuation:
    """One sequence being continued: decodes its sampled tokens and decides when to stop.

    Attributes:
        sequence: the `Sequence`. seed: of its random generator.
        tokens: the sampled ids that belong to the text, a list.
        scored: every sampled token as (id, log probability, most likely tokens), the last as a list of (id, log
            probability) or None; it includes a token of `eos_token_ids` that ended the text. Empty unless requested.
        finish_reason: None while it runs, then "stop" (a stop string, or a token of `eos_token_ids`) or "length"
            (max_tokens, or no position is left).
    """

    def __init__(
        self,
        sequence: _engine.Sequence,
        prompt: str | Iterable[int],
        sampling: SamplingParams,
        *,
        max_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        history: Sequence[int] | None = (),
        exempt: Iterable[int] | None = None,
        logprobs: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        prompt_logprobs: int | None = None,
        lookup: bool = False,
    ):
        """Push the prompt and configure sampling, without running anything. Arguments are those of `Generation`."""
        if not isinstance(sequence, _engine.Sequence):
            raise UsageError(f"sequence: got {sequence!r:.80}, expected a Sequence (model.sequence() returns one)")
        self.max_tokens = None if max_tokens is None else whole_number("max_tokens", max_tokens, 1)
        tokenizer = sequence.model.tokenizer
        self._stream = TextStream(tokenizer, stop, self.max_tokens)
        prompt = prompt_ids(sequence.model, prompt, continues=bool(len(sequence) or sequence.pending))
        if not prompt and not len(sequence) and not sequence.pending:
            prompt = start_of_text(sequence.model)
        n_before = len(sequence) + len(sequence.pending)
        if len(prompt) > sequence.n_ctx - n_before:
            taken = f", {n_before} of them in use" if n_before else ""
            raise ContextFullError(
                f"prompt: {len(prompt)} tokens, but the model has {sequence.n_ctx} positions{taken} (shorten it)"
            )
        self.seed = sequence.set_sampling(
            sampling,
            seed=seed,
            history=history,
            exempt=exempt,
            stop_tokens=tokenizer.eos_token_ids,
            logprobs=logprobs,
            logit_bias=logit_bias,
            prompt_logprobs=prompt_logprobs,
        )
        sequence.push(prompt)
        self.sequence = sequence
        self.n_prompt_tokens = len(prompt)
        self.tokens: list[int] = []
        self.scored: list[ScoredToken] = []
        self.finish_reason: str | None = None
        self._lookup = PromptLookup() if lookup else None
        self._known = sequence.tokens + sequence.pending if lookup else []
        self._n_guesses = 0

    def propose(self) -> None:
        """Before a step: guess the next tokens, if prompt lookup is on."""
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
        """Take the tokens of a step and return the text that is now final, which may be empty.

        Raises:
            Gpt2rtError: sampling failed.
        """
        if event.error is not None:
            raise event.error
        tokens = event.tokens
        piece, n_used = self._stream.accept(tokens, len(self.sequence) == self.sequence.n_ctx)
        if event.logprobs is not None:
            tops = [None] * n_used if event.top_logprobs is None else event.top_logprobs
            self.scored += zip(tokens[:n_used], event.logprobs, tops, strict=False)
        self.tokens += tokens[: self._stream.n_tokens - len(self.tokens)]
        self.finish_reason = self._stream.finish_reason
        if n_used < len(tokens):
            self.sequence.retract(len(tokens) - n_used)
        elif self._lookup is not None:
            self._known += tokens
            if self._n_guesses:
                self._lookup.learn(len(tokens) - 1)
        return piece

    @property
    def logprobs(self) -> list[float]:
        """The log probabilities of `tokens`; empty unless requested."""
        return [logprob for _, logprob, _ in self.scored[: len(self.tokens)]]

    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]:
        """For each of `tokens`, the most likely tokens, a list of (id, log probability); empty unless requested."""
        return [top for _, _, top in self.scored[: len(self.tokens)] if top is not None]


def begun(
    sequence: _engine.Sequence,
    prompt: list[int],
    start: Callable[[_engine.Sequence], Sampling] | None,
    prompt_logprobs: int | None,
) -> Sampling | None:
    """Begin a text on a sequence that has evaluated the first ids of its prompt, or none.

    Args:
        start: returns what samples the text; None if the prompt is only evaluated.
        prompt_logprobs: as for `Sequence.set_sampling`, where nothing is sampled.

    Returns:
        What `start` returned, or None.
    """
    if start is not None:
        return start(sequence)
    sequence.set_sampling(None, prompt_logprobs=prompt_logprobs)
    sequence.push(prompt[len(sequence) :])
    return None


def run_together(
    running: list[Running],
    step: Callable[[list[_engine.Sequence]], list[Event]] = step_together,
) -> Iterator[tuple[Running, str]]:
    """Step continuations together until all have ended. All generation in one thread runs through this loop.

    Args:
        running: `Continuation`s or `Reply`s; they are removed as they end, and others may be added between pieces.
        step: `Engine.step` or an equivalent.

    Yields:
        (continuation, piece of text); the piece may be empty.
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


def prompt_ids(
    model: Model, prompt: str | Iterable[int], name: str = "prompt", *, special: bool = False, continues: bool = False
) -> list[int]:
    """Return the ids of a prompt, text or ids.

    Args:
        name: what the message of an error begins with. special, continues: as for `Tokenizer.encode`.

    Raises:
        UsageError: it is neither text nor ids.
    """
    if isinstance(prompt, str):
        return model.tokenizer.encode(prompt, special=special, continues=continues)
    try:
        ids = None if isinstance(prompt, (bytes, bytearray, Mapping)) else list(prompt)
    except TypeError:
        ids = None
    if ids is None:
        raise UsageError(f"{name}: got {prompt!r:.80}, expected text or token ids")
    return ids


def start_of_text(model: Model) -> list[int]:
    """Return the ids used for an empty prompt: the bos token, as <|endoftext|>. Raises UsageError if there is none."""
    if model.tokenizer.bos_token_id is None:
        raise UsageError("prompt: it is empty, and the vocabulary has no token to start with, such as <|endoftext|>")
    return [model.tokenizer.bos_token_id]


class Generation:
    """Continues a sequence: an iterator of pieces of text, each of whole characters.

    Attributes:
        prompt_seconds: time until the first token was sampled.
        seconds: time from then to the newest token.
    """

    def __init__(
        self,
        sequence: _engine.Sequence,
        prompt: str | Iterable[int],
        sampling: SamplingParams,
        *,
        max_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        history: Sequence[int] | None = (),
        exempt: Iterable[int] | None = None,
        logprobs: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        prompt_logprobs: int | None = None,
        lookup: bool = False,
    ):
        """
        Args:
            sequence: the sequence that evaluates the prompt and to which the generated tokens are added.
            prompt: text, or its ids, to evaluate first; empty to continue after the sequence's last token, or to start
                a document.
            sampling: a `SamplingParams`.
            max_tokens: the maximum number of tokens to generate, None for as many as the context holds.
            stop: strings that end the text; they are not part of it.
            seed: of the random generator; None continues with the sequence's generator, or takes a new seed from the
                system.
            history: ids of earlier answers, which penalties count as generated; None for the sequence's.
            exempt: ids that are never penalized; None for the sequence's.
            logprobs: how many of the most likely tokens to report at each position, see `Sequence.set_sampling`.
            logit_bias: {id: number from -100 to 100}, added to the logits before everything else; None for the
                sequence's.
            prompt_logprobs: how many of the most likely tokens to record at each position, see
                `Sequence.prompt_logprobs`.
            lookup: guess tokens from the text so far and check several at once; this does not change the text.

        Raises:
            ContextFullError: the sequence has too few free positions for the prompt.
            UsageError: an argument is invalid, or there is nothing to continue.
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
            logit_bias=logit_bias,
            prompt_logprobs=prompt_logprobs,
            lookup=lookup,
        )
        self.prompt_seconds = self.seconds = 0.0
        self._parts: list[str] = []
        self._pieces = self._run()

    @property
    def sequence(self) -> _engine.Sequence:
        """The sequence that is continued."""
        return self._continuation.sequence

    @property
    def n_prompt_tokens(self) -> int:
        """The number of ids evaluated before the first one was sampled."""
        return self._continuation.n_prompt_tokens

    @property
    def tokens(self) -> list[int]:
        """The ids generated so far."""
        return self._continuation.tokens

    @property
    def n_tokens(self) -> int:
        """The number of tokens generated so far."""
        return len(self.tokens)

    @property
    def logprobs(self) -> list[float]:
        """The log probability of each generated token; empty unless requested with `logprobs`."""
        return self._continuation.logprobs

    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]:
        """For each generated token, the most likely ones as (id, log probability); empty unless requested."""
        return self._continuation.top_logprobs

    @property
    def finish_reason(self) -> str | None:
        """Why the generation ended, see `Continuation`; None while it runs."""
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
        """Generate to the end and return the whole text, including the pieces already iterated over."""
        for _ in self:
            pass
        return "".join(self._parts)

    def close(self) -> None:
        """Stop early; the sequence keeps its tokens."""
        self._pieces.close()
