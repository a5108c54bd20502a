"""Job: an input, a model and a task, and what is done of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import gpt2rt
from gpt2rt.errors import UsageError
from gpt2rt.jobs.folder import FORMAT, JobFolder
from gpt2rt.jobs.shard import Answers
from gpt2rt.jobs.source import Shard, Source
from gpt2rt.model import Model
from gpt2rt.regular_file import open_regular

if TYPE_CHECKING:
    from gpt2rt.jobs.shard import AnyTask

SHARD_SIZE, MOST_SHARDS = 128, 10_000


class Executor(Protocol):
    """What answers shards: processes of this machine, or a cluster."""

    def __call__(self, shards: Iterator[Shard], on_rows: Callable[[int], None]) -> Iterator[Answers]:
        """Yield the answers to each shard, in any order.

        Args:
            on_rows: may be called with the number of rows done since the last call, before their shard is complete;
                with a negative one where their work was lost.
        """
        ...


class Job:
    """A job, whose answers depend on its input, model, task and version alone.

    Attributes:
        n_rows, n_shards: of the input. shard_size: rows of a shard.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        task: AnyTask,
        folder: str,
        *,
        shard_size: int | None,
        part: tuple[int, int] = (0, 1),
    ):
        """Read all of the input, and make or find the job's folder.

        Args:
            part: (i, n) to do only the shards whose number, divided by n, leaves the rest i.
            shard_size: None for 128, or as many that there are at most 10,000 shards.

        Raises:
            UsageError: an argument is invalid, the input can't be read, or the folder has another job.
        """
        task.check(model)
        self._source, self._part = source, part
        self._survey = source.survey(task.needed_field)
        self.n_rows = self._survey.n_rows
        if self.n_rows and not self._survey.n_usable:
            raise UsageError(f"{source.path}: no row has a field {task.needed_field!r:.80} ({task.hint})")
        self.shard_size = max(SHARD_SIZE, -(-self.n_rows // MOST_SHARDS)) if shard_size is None else shard_size
        self.n_shards = -(-self.n_rows // self.shard_size)
        with open_regular(model.path) as file:
            model_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        manifest = {
            "format": FORMAT,
            "gpt2rt": gpt2rt.__version__,
            "model": {"name": os.path.basename(model.path), "sha256": model_sha256},
            "input": {"name": os.path.basename(source.path), "sha256": self._survey.sha256, "n_rows": self.n_rows},
            "settings": task.settings(),
            "shard_size": self.shard_size,
        }
        self.folder = JobFolder(folder, manifest)

    def n_complete(self) -> int:
        """Return the number of rows of complete shards."""
        return sum(self.rows_of(shard) for shard in self.folder.complete())

    def missing(self) -> list[int]:
        """Return the numbers of the shards of this part that are not complete."""
        (i, n), complete = self._part, self.folder.complete()
        return [shard for shard in range(i, self.n_shards, n) if shard not in complete]

    def rows_of(self, shard: int) -> int:
        """Return the number of rows of a shard."""
        return max(0, min(self.shard_size, self.n_rows - shard * self.shard_size))

    def run(self, executor: Executor, on_rows: Callable[[int], None], on_shard: Callable[[Answers], None]) -> None:
        """Answer the rows of all shards that are not complete, and write each shard as soon as it is.

        Args:
            on_rows: as for `Executor`. on_shard: called after a shard was written.

        Raises:
            Gpt2rtError: something failed; what was written stays.
        """
        is_shared = self._part[1] > 1
        with self.folder.locked(is_shared=is_shared):
            if not is_shared:  # other machines may write the other parts, and locks be those of one machine
                self.folder.clean()
            missing = set(self.missing())
            shards = self._source.shards(self._survey, self.shard_size, missing.__contains__)
            with closing(executor(shards, on_rows)) as found:  # type: ignore[type-var]
                for answers in found:
                    self.folder.commit(answers.number, answers.content)
                    on_shard(answers)

    def merge(self, target: str, *, force: bool) -> None:
        """Join all answers, in the order of the input; see `JobFolder.merge`."""
        self.folder.merge(target, self.n_rows, self.shard_size, force=force)
