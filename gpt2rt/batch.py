"""Batches: generate several texts at once, each independent of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gpt2rt._engine import Engine, Sequence
from gpt2rt.arguments import whole_number
from gpt2rt.errors import ContextFullError, Gpt2rtError, UsageError
from gpt2rt.generate import Continuation, prompt_ids, run_together, stop_strings
from gpt2rt.sampling import MAX_SEED, SAMPLING_OPTIONS, SamplingParams, new_seed, sampling_with

BATCH_SIZE = 16
MAX_BATCH_SIZE = 256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    from gpt2rt.model import Model

    class Request(NamedTuple):
        """A text to continue: the arguments of its `Continuation`."""

        prompt: list[int]
        sampling: SamplingParams
        seed: int
        max_tokens: int | None
        stop: tuple[str, ...]
        logprobs: int | None
        logit_bias: Mapping[int, float] | None
else:
    from collections import namedtuple

    Request = namedtuple("Request", "prompt sampling seed max_tokens stop logprobs logit_bias")


def requests_of(
    model: Model, prompts: Iterable[str | Iterable[int] | Mapping[str, Any]], seed: int | None, defaults: dict[str, Any]
) -> list[Request]:
    """Return a request for each prompt of `Model.generate_batch`.

    Args:
        seed: the first prompt's seed, from which those of the others count up; None for one from the system.
        defaults: sampling (a `SamplingParams`), max_tokens, stop, logprobs, logit_bias and special for prompts that do
            not override them.

    Raises:
        UsageError: a prompt or an option is invalid, or a name in a dict is unknown.
    """
    if not isinstance(prompts, Iterable) or isinstance(prompts, (str, bytes, bytearray, Mapping)):
        raise UsageError(f"prompts: got {prompts!r:.80}, expected a list of prompts")
    defaults = {**defaults, "stop": stop_strings(defaults["stop"])}
    special = defaults.pop("special")
    seed = new_seed() if seed is None else whole_number("seed", seed, 0, MAX_SEED)
    requests = []
    for i, given in enumerate(prompts):
        options: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"prompt": given}
        for name in options:
            if name not in ("prompt", "seed", *defaults, "special", *SAMPLING_OPTIONS):
                known = ", ".join(["prompt", "seed", *defaults, "special", *SAMPLING_OPTIONS])
                raise UsageError(f"prompt {i + 1}: unknown name {name!r:.80}, expected any of {known}")
        if "prompt" not in options:
            raise UsageError(f'prompt {i + 1}: no "prompt", expected text or token ids')
        prompt: str | Iterable[int] = options.pop("prompt")
        ids = prompt_ids(model, prompt, f"prompt {i + 1}", special=options.pop("special", special))
        if options.get("seed") is None:
            options["seed"] = (seed + i) % (MAX_SEED + 1)
        try:
            changes: Any = {name: options.pop(name) for name in list(options) if name in SAMPLING_OPTIONS}
            options["sampling"] = sampling_with(options.pop("sampling", defaults["sampling"]), changes)
            options["stop"] = stop_strings(options.get("stop", defaults["stop"]))
        except UsageError as error:
            raise UsageError(f"prompt {i + 1}: {error}") from None
        requests.append(Request(ids, **{**defaults, **options}))
    return requests


class BatchGeneration:
    """Continues several prompts: an iterator of (index of the prompt, piece of text), each piece of whole characters.

    Each text is the same as from a `Generation` with the same arguments.

    Attributes:
        continuations: a `Continuation` for each prompt that has started, with its tokens, logprobs and finish_reason;
            None for each one that is still waiting.
    """

    def __init__(self, model: Model, requests: Iterable[Request], *, batch_size: int = BATCH_SIZE):
        """
        Args:
            requests: one for each text.
            batch_size: how many run at a time; when one ends, the next one starts.

        Raises:
            ContextFullError: a prompt has more tokens than the model has positions.
            UsageError: an argument is invalid.
        """
        batch_size = whole_number("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        read = list(requests)
        n_ctx = model.hyperparameters.n_ctx
        trial = model.sequence()
        for i, request in enumerate(read):
            if len(request.prompt) > n_ctx:
                n_tokens = len(request.prompt)
                raise ContextFullError(f"prompt {i + 1}: {n_tokens} tokens, but the model has {n_ctx} positions")
            try:
                self._continuation(trial, request)  # rejects invalid arguments before any text is generated
            except Gpt2rtError as error:
                raise type(error)(f"prompt {i + 1}: {error}") from None
            trial.truncate(0)
        self.seeds = [request.seed for request in read]
        self.continuations: list[Continuation | None] = [None] * len(read)
        self._pieces = self._run(model, read, batch_size)

    @staticmethod
    def _continuation(sequence: Sequence, request: Request) -> Continuation:
        return Continuation(
            sequence,
            request.prompt,
            request.sampling,
            max_tokens=request.max_tokens,
            stop=request.stop,
            seed=request.seed,
            exempt=(),
            logprobs=request.logprobs,
            logit_bias={} if request.logit_bias is None else request.logit_bias,
        )

    def _run(self, model: Model, requests: list[Request], batch_size: int) -> Iterator[tuple[int, str]]:
        engine = Engine(model)
        running: list[Continuation] = []
        numbers: dict[Continuation, int] = {}
        free: list[Sequence] = []  # sequences of finished texts
        waiting = iter(enumerate(requests))

        def fill() -> None:
            while len(running) < batch_size and (following := next(waiting, None)):
                i, request = following
                continuation = self._continuation(free.pop() if free else model.sequence(), request)
                self.continuations[i] = continuation
                numbers[continuation] = i
                running.append(continuation)

        fill()
        for continuation, piece in run_together(running, engine.step):
            if piece:
                yield numbers[continuation], piece
            if continuation.finish_reason:
                continuation.sequence.truncate(0)
                free.append(continuation.sequence)
                fill()

    def __iter__(self) -> BatchGeneration:
        return self

    def __next__(self) -> tuple[int, str]:
        return next(self._pieces)
