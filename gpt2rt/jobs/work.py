"""Work: what a row asks of the engine, and the loop that does it for many rows together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gpt2rt._engine import Sequence
from gpt2rt.errors import CancelledError, Gpt2rtError
from gpt2rt.generate import begun
from gpt2rt.jobs.row import RowError
from gpt2rt.model import Model
from gpt2rt.prefix_cache import Kept, PrefixCache

if TYPE_CHECKING:
    from gpt2rt.generate import Sampling

KEPT_BYTES = 256 << 20  # of ended sequences, whose beginnings may come again


class Part:
    """One text of a row: ids to evaluate, and perhaps a text to sample after them.

    Attributes:
        prompt: ids, at least one. n_prompt_logprobs: how many of the most likely tokens to record for each of them;
            None for nothing. start: returns what samples the text on a sequence that has evaluated the first ids of
            the prompt; None if nothing is sampled.
        sampling: what `start` returned. piece: the text.
    """

    def __init__(
        self,
        prompt: list[int],
        start: Callable[[Sequence], Sampling] | None,
        n_prompt_logprobs: int | None = None,
    ):
        self.prompt, self.start, self.n_prompt_logprobs = prompt, start, n_prompt_logprobs
        self.sampling: Sampling | None = None
        self.piece = ""

    def begin(self, sequence: Sequence) -> None:
        """Begin on a sequence that has evaluated the first ids of the prompt."""
        self.sampling = begun(sequence, self.prompt, self.start, self.n_prompt_logprobs)

    def end(self, sequence: Sequence) -> None:
        """Take what is needed of the sequence, which others use from now on."""


class Work:
    """A row in work.

    Attributes:
        parts: what is to be done; none if the answer is known.
        answer: the row's line of output, once all parts have ended. is_error: whether it is an error.
    """

    def __init__(
        self,
        parts: list[Part],
        finish: Callable[[], dict[str, Any]],
        fail: Callable[[Exception], dict[str, Any]],
    ):
        self.parts, self._finish, self._fail = parts, finish, fail
        self.n_left = len(parts)
        self.answer: dict[str, Any] | None = None
        self.is_error = False

    def finish(self) -> None:
        """Make the answer."""
        try:
            self.answer = self._finish()
        except RowError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Make an error the answer; the parts that have not ended are dropped."""
        self.answer, self.is_error = self._fail(error), True


def failed(error: Exception, fail: Callable[[Exception], dict[str, Any]]) -> Work:
    """Return the work of a row that is answered with an error."""
    work = Work([], dict, fail)
    work.fail(error)
    return work


class Running:
    """The parts that run together, up to a number; when one ends, the next one starts."""

    def __init__(self, model: Model, batch_size: int):
        self._model, self._batch_size = model, batch_size
        self._engine = model.engine()
        self._parts: dict[Sequence, tuple[Work, Part]] = {}
        self._prefixes = PrefixCache(batch_size)

    def ended(self, works: Iterable[Work | None]) -> Iterator[Work]:
        """Do all of the work; yield each row's as it ends, which is not in order.

        Args:
            works: None stands for none now, but perhaps later.

        Raises:
            MemoryError: there is not enough memory. Errors of single rows are their answers.
        """
        waiting = self._begun(works)
        is_over = False
        while not is_over or self._parts:
            while not is_over and len(self._parts) < self._batch_size:
                try:
                    work = next(waiting)
                except StopIteration:
                    is_over = True
                    continue
                if work is None:
                    break
                if work.answer is not None:
                    yield work
            if self._parts:
                yield from self._step()

    def _begun(self, works: Iterable[Work | None]) -> Iterator[Work | None]:
        """Start one part after the other; yield the work after each of them, and where there is none."""
        for work in works:
            if work is None:
                yield None
                continue
            if work.answer is not None:
                yield work
            for part in work.parts:
                if work.answer is None:
                    self._begin(work, part)
                    yield work

    def _begin(self, work: Work, part: Part) -> None:
        running = [Kept(sequence, other.n_prompt_logprobs) for sequence, (_, other) in self._parts.items()]
        sequence = self._prefixes.sequence_for(self._model, part.prompt, part.n_prompt_logprobs, running)
        try:
            part.begin(sequence)
        except Gpt2rtError as error:
            self._fail(work, error)
            return
        self._parts[sequence] = work, part

    def _step(self) -> Iterator[Work]:
        """Advance all parts by one forward pass; yield the work that has ended."""
        for event in self._engine.step(list(self._parts)):
            if event.sequence not in self._parts:
                continue  # its row has failed since
            work, part = self._parts[event.sequence]
            assert part.sampling is not None
            try:
                part.piece += part.sampling.accept(event)
            except CancelledError:
                raise
            except Gpt2rtError as error:
                self._fail(work, error)
                yield work
        for sequence, (work, part) in list(self._parts.items()):
            has_ended = not sequence.pending if part.sampling is None else part.sampling.finish_reason is not None
            if has_ended and sequence in self._parts:
                del self._parts[sequence]
                part.end(sequence)
                self._prefixes.keep(sequence, part.n_prompt_logprobs)
                self._prefixes.shrink(KEPT_BYTES)
                work.n_left -= 1
                if work.n_left == 0:
                    work.finish()
                    yield work

    def _fail(self, work: Work, error: Gpt2rtError) -> None:
        work.fail(error)
        for sequence, (other, _) in list(self._parts.items()):
            if other is work:
                del self._parts[sequence]
