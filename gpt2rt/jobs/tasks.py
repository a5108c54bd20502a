"""Tasks: what a job does with each row. A task is a value: it can be pickled and written to the manifest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

from gpt2rt._engine import Sequence
from gpt2rt.arguments import whole_number
from gpt2rt.errors import ContextFullError, Gpt2rtError, UsageError
from gpt2rt.generate import Continuation, prompt_ids, start_of_text, stop_strings
from gpt2rt.jobs.row import Row, RowError, row_seed
from gpt2rt.jobs.work import Part, Work, failed
from gpt2rt.model import Model
from gpt2rt.perplexity import bytes_of, scored_windows, start_of_scored
from gpt2rt.sampling import MAX_SEED, SamplingParams

LN_2 = 0.6931471805599453
MAX_TOKENS = 200  # of a generated text, unless the job says otherwise; as for gpt2rt generate


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all tasks have in common.

    Attributes:
        field: of a row, with its text. id_field: with its id. copy: whether a row's fields come first in its answer.
        special: whether texts such as <|endoftext|> are those tokens.
    """

    name: ClassVar[str]
    results: ClassVar[tuple[str, ...]]  # the fields of an answer
    text_field: str = "text"
    id_field: str = "id"
    copy: bool = False
    special: bool = False

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The fields of a row that matter; None for all."""
        return None if self.copy else (self.text_field, self.id_field)

    def settings(self) -> dict[str, Any]:
        """Return what determines the answers, for the manifest."""
        return {"task": self.name, **asdict(self)}

    def check(self, model: Model) -> None:
        """Raise UsageError if a setting is invalid."""
        for one in ("text_field", "id_field"):
            if not getattr(self, one):
                raise UsageError(f"{one}: it is empty, expected the name of a field")

    hint: ClassVar[str] = "--field names another one"  # where no row has the field

    @property
    def needed_field(self) -> str:
        """The field that a row must have."""
        return self.text_field

    def work(self, model: Model, row: Row) -> Work:
        """Return the work that a row asks for; an invalid one is answered with an error."""
        head: dict[str, Any] = {"row": row.number}

        def fail(error: Exception) -> dict[str, Any]:
            return {**head, "error": str(error)}

        try:
            given, key = row.read(self.id_field)
            if key is not None:
                head[self.id_field] = given[self.id_field]
            if self.copy:
                for name in ("row", "error", *self.results):
                    if name in given:
                        raise RowError(f"{name}: the answer has a field with this name (rename the row's)")
                head.update(given)
            text = given.get(self.text_field)
            if not isinstance(text, str):
                raise RowError(f"{self.text_field}: {_found(given, self.text_field)}, expected text")
            parts, found = self.parts(model, text, row.number, key)
        except (RowError, Gpt2rtError) as error:
            return failed(error, fail)
        return Work(parts, lambda: {**head, **dict(zip(self.results, found(), strict=True))}, fail)

    def parts(
        self, model: Model, text: str, number: int, key: str | None
    ) -> tuple[list[Part], Callable[[], tuple[Any, ...]]]:
        """Return the parts of a row's work, and what returns its results when they have ended.

        Raises:
            RowError, Gpt2rtError: the row can't be answered.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Generate(Task):
    """Continue each text.

    Attributes:
        seed: of the job, from which each row gets its own. sampling: options that differ from `SamplingParams`.
    """

    name = "generate"
    results = ("completion", "finish_reason", "n_tokens", "seed")
    seed: int = 0
    max_tokens: int = MAX_TOKENS
    stop: tuple[str, ...] = ()
    sampling: dict[str, float] = field(default_factory=dict)

    def check(self, model: Model) -> None:
        super().check(model)
        SamplingParams(**self.sampling)  # type: ignore[arg-type]
        stop_strings(self.stop)
        whole_number("max_tokens", self.max_tokens, 1)
        whole_number("seed", self.seed, 0, MAX_SEED)

    def parts(
        self, model: Model, text: str, number: int, key: str | None
    ) -> tuple[list[Part], Callable[[], tuple[Any, ...]]]:
        ids = prompt_ids(model, text, self.text_field, special=self.special) or start_of_text(model)
        if len(ids) > model.hyperparameters.n_ctx:
            raise ContextFullError(_too_long(self.text_field, len(ids), model))
        seed = row_seed(self.seed, number, key)
        part = Part(ids, partial(self._continuation, ids, seed))

        def found() -> tuple[Any, ...]:
            assert part.sampling is not None
            return part.piece, part.sampling.finish_reason, len(part.sampling.tokens), seed

        return [part], found

    def _continuation(self, ids: list[int], seed: int, sequence: Sequence) -> Continuation:
        return Continuation(
            sequence,
            ids[len(sequence) :],
            SamplingParams(**self.sampling),  # type: ignore[arg-type]
            max_tokens=self.max_tokens,
            stop=self.stop,
            seed=seed,
            exempt=(),
        )


class ScoredWindow(Part):
    """Ids of which some are scored, each after all ids before it.

    Attributes:
        logprobs: those of ids[first:], once it has ended.
    """

    def __init__(self, ids: list[int], first: int):
        super().__init__(ids[:-1], None, 0)
        self._last, self._first = ids[-1], first
        self.logprobs: list[float] = []

    def end(self, sequence: Sequence) -> None:
        found = [*sequence.prompt_logprobs[self._first :], sequence.next_logprob(self._last)]
        self.logprobs = [logprob for logprob in found if logprob is not None]


@dataclass(frozen=True, kw_only=True)
class Score(Task):
    """Score each token of each text.

    Attributes:
        bos: whether a text comes after the bos token, so that its first token has a score.
    """

    name = "score"
    results: ClassVar[tuple[str, ...]] = ("tokens", "logprobs", "logprob")
    bos: bool = True

    def ids(self, model: Model, text: str) -> list[int]:
        """Return the ids of a text, after a bos token where the task has one. Raises RowError: none can be scored."""
        ids = start_of_scored(model.tokenizer, self.bos)
        ids += model.tokenizer.encode(text, special=self.special, add_special_tokens=False)
        if len(ids) < 2:
            raise RowError(f"{self.text_field}: no token to score (use a longer text)")
        return ids

    def parts(
        self, model: Model, text: str, number: int, key: str | None
    ) -> tuple[list[Part], Callable[[], tuple[Any, ...]]]:
        ids = self.ids(model, text)
        if len(ids) > model.hyperparameters.n_ctx + 1:
            raise ContextFullError(_too_long(self.text_field, len(ids) - 1, model))
        part = ScoredWindow(ids, 1)
        n_start = len(start_of_scored(model.tokenizer, self.bos))

        def found() -> tuple[Any, ...]:
            logprobs = _finite(part.logprobs)
            return ids[n_start:], logprobs if n_start else [None, *logprobs], math.fsum(logprobs)

        return [part], found


@dataclass(frozen=True, kw_only=True)
class Perplexity(Score):
    """Measure how well the model predicts each text, with a sliding window, as `gpt2rt perplexity` does.

    Attributes:
        stride: tokens that the window moves by; None for half of it.
    """

    name = "perplexity"
    results = ("n_tokens", "n_bytes", "loss", "perplexity", "bits_per_byte")
    stride: int | None = None

    def check(self, model: Model) -> None:
        super().check(model)
        if self.stride is not None:
            whole_number("stride", self.stride, 1, model.hyperparameters.n_ctx)

    def parts(
        self, model: Model, text: str, number: int, key: str | None
    ) -> tuple[list[Part], Callable[[], tuple[Any, ...]]]:
        ids = self.ids(model, text)
        scored = scored_windows(len(ids), model.hyperparameters.n_ctx, self.stride, self.bos)
        found_parts = [ScoredWindow(ids[begin:end], first - begin) for begin, end, first in scored]
        n_bytes = bytes_of(model.tokenizer, (token for _, end, first in scored for token in ids[first:end]))

        def found() -> tuple[Any, ...]:
            logprobs = _finite([logprob for part in found_parts for logprob in part.logprobs])
            loss = -math.fsum(logprobs) / len(logprobs)
            bits_per_byte = loss * len(logprobs) / LN_2 / n_bytes if n_bytes else None
            return len(logprobs), n_bytes, loss, _exp(loss), bits_per_byte

        return list(found_parts), found


PLAIN_TASKS: dict[str, type[Task]] = {task.name: task for task in (Generate, Score, Perplexity)}


def _exp(loss: float) -> float | None:
    """Return e^loss, correctly rounded, since C libraries differ; None if it is too large: JSON has no infinity."""
    return float(Decimal(loss).exp()) if loss < 700 else None


def _finite(logprobs: list[float]) -> list[float]:
    if not all(map(math.isfinite, logprobs)):
        raise RowError("logits are not finite: the weights are damaged or untrained (run gpt2rt verify)")
    return logprobs


def _found(given: dict[str, Any], name: str) -> str:
    return f"got {given[name]!a:.80}" if name in given else "the row has no such field"


def _too_long(name: str, n_tokens: int, model: Model) -> str:
    return f"{name}: {n_tokens} tokens, but the model has {model.hyperparameters.n_ctx} positions (shorten it)"
