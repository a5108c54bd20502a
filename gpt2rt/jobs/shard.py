"""Shards: the answers to consecutive rows, the same bytes wherever and with whatever else they are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import gpt2rt
from gpt2rt.arguments import whole_number
from gpt2rt.batch import BATCH_SIZE, MAX_BATCH_SIZE
from gpt2rt.errors import ModelFileError, UsageError
from gpt2rt.jobs.row import Row
from gpt2rt.jobs.source import Shard, row_content
from gpt2rt.jobs.tasks import PLAIN_TASKS, Task
from gpt2rt.jobs.work import Running, Work
from gpt2rt.model import Model, open_model

if TYPE_CHECKING:
    from gpt2rt.jobs.requests import Requests

    AnyTask = Task | Requests


class Answers(NamedTuple):
    """The answers to the rows of a shard.

    Attributes:
        content: a line of JSON for each row. n_errors: rows that were answered with an error.
    """

    number: int
    content: bytes
    n_errors: int


class Call(NamedTuple):
    """What the answers to all shards of a job have in common.

    Attributes:
        path: of the model for the driver, and for nodes that have it too. checksums: {section: CRC32C} of the model.
        n_threads: of a process. batch_size: how many texts run at a time. version: of the driver's gpt2rt.
    """

    path: str
    checksums: Mapping[str, int]
    task: AnyTask
    n_threads: int
    batch_size: int
    version: str = gpt2rt.__version__


def answered(
    model: Model,
    task: AnyTask,
    shards: Iterable[Shard | None],
    batch_size: int,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[Answers]:
    """Answer the rows of shards, and yield each shard as soon as it is complete.

    The last rows of a shard run together with the first ones of the next.

    Args:
        shards: None stands for none now, but perhaps later. batch_size: how many texts run at a time.
        on_row: called after each row.
    """
    places: dict[Work, tuple[_OpenShard, int]] = {}  # and the index of its row

    def works() -> Iterator[Work | None]:
        for shard in shards:
            if shard is None:
                yield None
                continue
            opened = _OpenShard(shard)
            for index, row in enumerate(shard.rows):
                work = task.work(model, row)
                places[work] = opened, index
                yield work

    for work in Running(model, whole_number("batch_size", batch_size, 1, MAX_BATCH_SIZE)).ended(works()):
        opened, index = places.pop(work)
        opened.lines[index] = _line(work.answer)
        opened.n_left -= 1
        opened.n_errors += work.is_error
        on_row()
        if opened.n_left == 0:
            yield Answers(opened.number, b"".join(opened.lines), opened.n_errors)


class _OpenShard:
    """A shard some of whose rows have no answer yet."""

    def __init__(self, shard: Shard):
        self.number, self.n_left, self.n_errors = shard.number, len(shard.rows), 0
        self.lines = [b""] * len(shard.rows)


def _line(answer: object) -> bytes:
    try:
        return json.dumps(answer, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, in a field that was copied
        return json.dumps(answer).encode() + b"\n"


@lru_cache(maxsize=4)
def _opened(path: str, n_threads: int | None) -> Model:
    """Open a model and verify all of it, once in a process: a damaged copy would give other answers."""
    model = open_model(path, n_threads=n_threads)
    for name, stored, actual in model.damaged_sections():
        raise ModelFileError(
            f"{path}: section {name!r} is damaged: checksum {actual:08x}, expected {stored:08x} (copy or convert again)"
        )
    return model


def checked_model(call: Call) -> Model:
    """Return a job's model, open since an earlier shard or opened now, after its content was verified.

    Raises:
        ModelFileError: it is damaged, or another one.
    """
    model = _opened(call.path, call.n_threads)
    if model.checksums != call.checksums:
        raise ModelFileError(f"{call.path}: another model than the job's (copy the job's model there)")
    return model


def generate_shard(
    model: str | Model,
    rows: Iterable[Mapping[str, Any]],
    *,
    first: int = 0,
    batch_size: int = BATCH_SIZE,
    n_threads: int | None = 1,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Continue the texts of rows, such as a partition of a data frame.

    Args:
        model: a `Model`, or the path of a model file, which stays open for the next shard.
        rows: dicts with a text, and an id where the result shall depend on that instead of the row's number. Values
            of NumPy and pandas are fine.
        first: the number of the first row in all of the input.
        batch_size: how many texts run at a time.
        n_threads: if `model` is a path; None for as many as the machine allows. One is best where each CPU has a shard.
        settings: text_field, id_field, copy, special, seed, max_tokens, stop and sampling, see `gpt2rt batch -h`;
            sampling is a dict.

    Returns:
        A dict for each row, in their order: row, id (where it has one), completion, finish_reason, n_tokens and seed;
        or row, id and error.

    Raises:
        UsageError: a setting is invalid. ModelFileError: the model can't be opened.
    """
    return _rows_answered(PLAIN_TASKS["generate"], model, rows, first, batch_size, n_threads, settings)


def score_shard(
    model: str | Model,
    rows: Iterable[Mapping[str, Any]],
    *,
    first: int = 0,
    perplexity: bool = False,
    batch_size: int = BATCH_SIZE,
    n_threads: int | None = 1,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Score the texts of rows, such as a partition of a data frame.

    Args:
        perplexity: measure the perplexity instead, of texts of any length.
        settings: text_field, id_field, copy, special and bos; and stride for perplexity.
        The others are those of `generate_shard`.

    Returns:
        A dict for each row, in their order: row, id (where it has one), tokens, logprobs and logprob, their sum; for
        perplexity n_tokens, n_bytes, loss, perplexity and bits_per_byte; or row, id and error.

    Raises:
        As `generate_shard`.
    """
    task = PLAIN_TASKS["perplexity" if perplexity else "score"]
    return _rows_answered(task, model, rows, first, batch_size, n_threads, settings)


def _rows_answered(
    kind: type[Task],
    model: str | Model,
    rows: Iterable[Mapping[str, Any]],
    first: int,
    batch_size: int,
    n_threads: int | None,
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    opened = model if isinstance(model, Model) else _opened(str(model), n_threads)
    known = [one.name for one in fields(kind)]
    for name in settings:
        if name not in known:
            nearest = get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"expected any of {', '.join(known)}"
            raise UsageError(f"{name:.80}: unknown setting ({hint})")
    task = kind(**settings)
    task.check(opened)
    shard = Shard(0, [Row(first + i, row_content(dict(row))) for i, row in enumerate(rows)])
    found = answered(opened, task, [shard] if shard.rows else [], batch_size)
    return [json.loads(line) for answers in found for line in answers.content.split(b"\n") if line]
