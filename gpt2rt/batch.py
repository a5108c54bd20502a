"""Batches: several texts generated at once, each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gpt2rt._sampler import Sampler
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.generate import Continuation, draw_seed, prompt_for
from gpt2rt.sampling import SamplingParams
from gpt2rt.session import Session, accept_all

BATCH_SIZE = 16
MAX_BATCH_SIZE = 256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model


class BatchGeneration:
    """Continues several prompts: an iterator of (index of the prompt, piece of text), each piece of whole characters.

    The text of prompt i is that of a `Generation` of it alone with the seed `seed + i`.

    Attributes:
        seed: of the first prompt.
        continuations: a `Continuation` for each prompt, with its tokens and finish_reason.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Iterable[int]],
        sampling: SamplingParams,
        *,
        max_tokens: int | None = None,
        stop: Iterable[str] = (),
        seed: int | None = None,
        batch_size: int = BATCH_SIZE,
    ):
        """
        Args:
            prompts: ids of each.
            batch_size: how many sequences run at a time; a further one begins when one ends. The others are those of
                `Generation`.

        Raises:
            ContextFullError: a prompt has more tokens than the model has positions.
            UsageError: an argument.
        """
        if not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise UsageError(f"batch_size: got {batch_size!r}, expected 1 to {MAX_BATCH_SIZE}")
        self.seed = draw_seed() if seed is None else seed
        stop = [stop] if isinstance(stop, str) else list(stop)
        read = [prompt_for(model, prompt) for prompt in prompts]
        n_ctx = model.hyperparameters.n_ctx
        for i, prompt in enumerate(read):
            if len(prompt) > n_ctx:
                raise ContextFullError(f"prompt {i + 1}: {len(prompt)} tokens, the model has {n_ctx} positions")
        self.continuations = [
            Continuation(
                model.tokenizer, Sampler(sampling, self.seed + i), max_tokens=max_tokens, stop=stop, history=()
            )
            for i in range(len(read))
        ]
        self._pieces = self._run(model, read, batch_size)

    def _run(self, model: Model, prompts: list[list[int]], batch_size: int) -> Iterator[tuple[int, str]]:
        running: dict[int, Session] = {}
        free: list[Session] = []  # of texts that have ended
        waiting = iter(enumerate(prompts))
        tokens: dict[int, Sequence[int]] = {}
        while True:
            while len(running) < batch_size and (following := next(waiting, None)):
                i, tokens[i] = following
                running[i] = free.pop() if free else model.session()
            if not running:
                return
            accept_all(list(running.values()), [tokens[i] for i in running])
            for i, session in list(running.items()):
                continuation = self.continuations[i]
                piece = continuation.step(session.logits_view)
                if not continuation.finish_reason and len(session) == session.n_ctx:
                    piece += continuation.end("context")
                if piece:
                    yield i, piece
                if continuation.finish_reason:
                    session.rewind(len(session))
                    free.append(running.pop(i))
                else:
                    tokens[i] = continuation.tokens[-1:]

    def __iter__(self) -> BatchGeneration:
        return self

    def __next__(self) -> tuple[int, str]:
        return next(self._pieces)
