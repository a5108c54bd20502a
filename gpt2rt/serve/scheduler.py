"""Scheduler: generates the texts of all requests, on one thread."""

from __future__ import annotations

import _thread
import logging
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from time import monotonic

from gpt2rt._engine import Event, Sequence
from gpt2rt.errors import NO_THREAD, CancelledError, Gpt2rtError
from gpt2rt.generate import begun
from gpt2rt.prefix_cache import Kept, PrefixCache
from gpt2rt.serve.api_error import ApiError, invalid, refused, stopping, timed_out
from gpt2rt.serve.call import Call, PromptScores, Text, Update
from gpt2rt.serve.metrics import Metrics
from gpt2rt.serve.served_model import ServedModel

WORTH_WAITING = 64  # tokens of a prompt; a text waits for another one that is evaluating so many of its tokens
START_SECONDS = 10.0  # in which the thread must begin

log = logging.getLogger("gpt2rt.serve")


class ModelQueue:
    """The texts of one model: those that wait, by call, and those that run together."""

    def __init__(self, model: ServedModel):
        self.model = model
        self.engine = model.model.engine()
        self.calls: deque[Call] = deque()  # those with waiting texts; they take turns
        self.running: dict[Sequence, Text] = {}
        self.n_open = 0  # texts that have not ended; under the scheduler's lock


class Scheduler:
    """Runs the texts of calls in batches: each step advances all running texts of a model by one forward pass.

    Calls take turns, so that a request with many texts does not keep out the others. The event loop submits calls and
    takes their updates; everything else happens on the scheduler's thread. Each step wakes the event loop at most once.
    """

    def __init__(
        self, models: Iterable[ServedModel], *, max_batch: int, max_queue: int, kv_cache_bytes: int, metrics: Metrics
    ):
        """
        Args:
            max_batch: how many texts of a model run together. max_queue: how many texts may wait.
            kv_cache_bytes: memory for the KV caches of running texts, which reserve what they may need, and of ended
                ones, which are kept while there is room.
        """
        self._queues = {model: ModelQueue(model) for model in models}
        self._max_batch, self._max_queue, self._kv_cache_bytes = max_batch, max_queue, kv_cache_bytes
        self._metrics = metrics
        self._inbox: SimpleQueue[Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopping = False
        # The rest belongs to the scheduler's thread.
        self._calls: set[Call] = set()
        self._prefixes = PrefixCache()
        self._reserved = 0  # bytes of KV cache
        self._news: list[tuple[Call, Update | ApiError]] = []
        self._has_begun, self._has_ended = threading.Event(), threading.Event()  # of the thread
        self._loop: AbstractEventLoop | None = None

    # --- of the event loop

    def start(self, loop: AbstractEventLoop) -> None:
        """Start the thread, which reports to this event loop, if it does not run yet.

        Raises:
            RuntimeError: there is no memory for a thread.
        """
        if self._loop is None:
            self._loop = loop
            _thread.start_new_thread(self._run, ())
            # Thread.start would wait for ever for one that has no memory to begin.
            if not self._has_begun.wait(START_SECONDS):
                raise RuntimeError(NO_THREAD)

    def submit(self, call: Call) -> None:
        """Queue the texts of a call.

        Raises:
            ApiError: too many texts are waiting, or the server stops.
        """
        n_texts, most = len(call.texts), self._max_batch + self._max_queue
        queue = self._queues[call.model]
        if n_texts > most:
            raise invalid("n", f"the request asks for {n_texts} texts, but this server takes at most {most} at a time")
        with self._lock:
            if self._is_stopping:
                raise stopping()
            if queue.n_open + n_texts > most:
                raise self._full(queue.n_open)
            queue.n_open += n_texts
            self._inbox.put(call)  # under the lock, which a thread that ends takes before its last look

    def _full(self, n_open: int) -> ApiError:
        """The error for a full queue, with the seconds after which there may be room."""
        seconds = round(self._metrics.mean_text_seconds * n_open / self._max_batch)
        return ApiError(
            503,
            f"the queue is full: {n_open} texts run or wait (try again later)",
            type="server_error",
            code="queue_full",
            headers={"retry-after": str(min(60, max(1, seconds)))},
        )

    def stop(self) -> None:
        """End all calls with an error, after the current layer, and accept no new ones."""
        with self._lock:
            self._is_stopping = True
        for queue in self._queues.values():
            queue.engine.cancel()
        self._inbox.put(None)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._has_begun.is_set() and not self._has_ended.is_set()

    @property
    def is_running(self) -> bool:
        """Whether it takes calls."""
        return not self._is_stopping and self.is_alive

    # --- of the thread

    def _run(self) -> None:
        self._has_begun.set()
        try:
            self._serve()
        finally:
            self._has_ended.set()

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                self._receive()
                self._drop()
                for queue in self._queues.values():
                    self._admit(queue)
                for queue in self._queues.values():
                    if queue.running:
                        self._step(queue)
                self._publish()
        except Exception:
            log.exception("the scheduler failed")
        finally:
            with self._lock:
                self._is_stopping = True
            self._receive()
            for call in list(self._calls):
                self._end(call, stopping())
            self._publish()

    def _receive(self) -> None:
        """Take new calls; wait for one if there is nothing else to do."""
        try:
            while True:
                call = self._inbox.get(block=not self._calls and not self._is_stopping)
                if call is not None:
                    self._calls.add(call)
                    self._queues[call.model].calls.append(call)
        except Empty:
            pass

    def _publish(self) -> None:
        """Hand all news to the event loop."""
        metrics = self._metrics
        metrics.n_waiting = sum(len(call.waiting) for call in self._calls)
        metrics.n_running = sum(len(queue.running) for queue in self._queues.values())
        metrics.n_kept, metrics.kv_cache_bytes = len(self._prefixes), self._prefixes.n_bytes + self._reserved
        if not self._news:
            return
        news, self._news = self._news, []
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_deliver, news)
        except RuntimeError:  # the loop was closed: nobody listens any more
            if not self._is_stopping:
                raise

    def _drop(self) -> None:
        """End the calls whose client has left, or whose time is over."""
        now = monotonic()
        for call in [call for call in self._calls if call.is_over or now >= call.deadline]:
            self._end(call, None if call.is_over else timed_out(call.timeout))

    def _end(self, call: Call, error: ApiError | None) -> None:
        """Remove a call with all its texts, and report the error."""
        queue = self._queues[call.model]
        self._calls.discard(call)
        if call.waiting:
            call.waiting.clear()
            queue.calls.remove(call)
        for text in call.texts:
            if text.sequence is not None:
                self._release(queue, text)
        self._close(queue, call.n_left)
        if error is not None:
            self._news.append((call, error))

    def _close(self, queue: ModelQueue, n_texts: int) -> None:
        with self._lock:
            queue.n_open -= n_texts

    def _release(self, queue: ModelQueue, text: Text) -> None:
        """Take a text out of the batch, and keep its sequence, which nothing else may hold."""
        sequence, text.sequence, text.sampling = text.sequence, None, None
        assert sequence is not None
        del queue.running[sequence]
        self._reserved -= text.n_bytes
        self._prefixes.keep(sequence, text.prompt_logprobs)
        self._prefixes.shrink(self._kv_cache_bytes - self._reserved)

    # --- admission

    def _admit(self, queue: ModelQueue) -> None:
        """Start waiting texts while there is room, one of each call in turn."""
        n_passed_over = 0
        while n_passed_over < len(queue.calls) and len(queue.running) < self._max_batch:
            call = queue.calls[0]
            text = call.waiting[0]
            n_bytes = queue.model.kv_cache_bytes(text.n_positions)
            if self._reserved and self._reserved + n_bytes > self._kv_cache_bytes:
                return  # all wait, so that a long text is not overtaken for ever
            queue.calls.rotate(-1)
            if self._is_being_evaluated(queue, text):
                n_passed_over += 1
                continue
            n_passed_over = 0
            call.waiting.popleft()
            if not call.waiting:
                queue.calls.pop()
            self._start(queue, text, n_bytes)

    def _is_being_evaluated(self, queue: ModelQueue, text: Text) -> bool:
        """Whether a running text is evaluating a beginning that they share, which can be copied when it is done."""
        for sequence, other in queue.running.items():
            n_evaluated = len(sequence)
            wanted = min(len(text.prompt), len(other.prompt)) - 1
            if other.prompt_logprobs != text.prompt_logprobs or wanted - n_evaluated < WORTH_WAITING:
                continue
            if text.prompt[:n_evaluated] == other.prompt[:n_evaluated]:
                begin, end = n_evaluated, n_evaluated + WORTH_WAITING
                if text.prompt[begin:end] == other.prompt[begin:end]:
                    return True
        return False

    def _start(self, queue: ModelQueue, text: Text, n_bytes: int) -> None:
        running = [Kept(sequence, other.prompt_logprobs) for sequence, other in queue.running.items()]
        try:
            sequence = self._prefixes.sequence_for(queue.model.model, text.prompt, text.prompt_logprobs, running)
            text.n_cached = len(sequence)
            text.sampling = begun(sequence, text.prompt, text.start, text.prompt_logprobs)
        except Exception as error:
            self._fail(text.call, error)
            return
        queue.running[sequence] = text
        text.sequence, text.n_bytes = sequence, n_bytes
        self._reserved += n_bytes
        self._prefixes.shrink(self._kv_cache_bytes - self._reserved)
        self._metrics.prompt_tokens += len(text.prompt)
        self._metrics.cached_tokens += text.n_cached

    def _fail(self, call: Call, error: Exception) -> None:
        """End a call with an error. The client is told nothing about an unexpected one; the log has it."""
        if isinstance(error, Gpt2rtError):
            self._end(call, refused(error))
        elif isinstance(error, MemoryError):
            self._end(call, ApiError(500, "the server does not have enough memory", type="server_error"))
        else:
            log.error("a request failed", exc_info=error)
            self._end(call, ApiError(500, "an internal error", type="server_error"))

    # --- steps

    def _step(self, queue: ModelQueue) -> None:
        """Advance the running texts of a model by one forward pass."""
        if len(queue.running) == 1:
            for text in queue.running.values():
                if text.sampling is not None:
                    text.sampling.propose()
        begin = monotonic()
        try:
            events = queue.engine.step(list(queue.running))
        except CancelledError:  # by `stop`
            return
        except Exception as error:
            for call in {text.call for text in queue.running.values()}:
                self._fail(call, error)
            return
        self._metrics.step(len(queue.running), sum(len(event.tokens) for event in events), monotonic() - begin)
        for event in events:
            if event.sequence in queue.running:  # else its call has failed since
                self._accept(queue, queue.running[event.sequence], event)
        for sequence, text in list(queue.running.items()):
            if text.sampling is None and not sequence.pending:
                self._report(queue, text, "length")

    def _accept(self, queue: ModelQueue, text: Text, event: Event) -> None:
        """Take the tokens of a text, and report what is new."""
        sampling = text.sampling
        assert sampling is not None
        try:
            piece = sampling.accept(event)
        except Exception as error:
            self._fail(text.call, error)
            return
        if piece:
            text.parts.append(piece)
        if sampling.finish_reason or (piece and text.call.wants_pieces):
            self._report(queue, text, sampling.finish_reason)

    def _report(self, queue: ModelQueue, text: Text, finish_reason: str | None) -> None:
        call, sampling, sequence, now = text.call, text.sampling, text.sequence, monotonic()
        assert sequence is not None
        prompt_scores: PromptScores | None = None
        if not text.is_begun:
            text.is_begun = True
            self._metrics.first_token.observe(now - call.arrived)
            prompt_scores = text.prompt_scores(sequence)
        piece, text.parts = "".join(text.parts), []
        scored = sampling.scored[text.n_reported :] if sampling else []
        text.n_reported += len(scored)
        n_tokens = len(sampling.tokens) if sampling else 0
        self._news.append((call, Update(text, piece, scored, prompt_scores, finish_reason, n_tokens)))
        if finish_reason:
            self._release(queue, text)
            self._close(queue, 1)
            self._metrics.text_ended(now - call.arrived)
            call.n_left -= 1
            if call.n_left == 0:
                self._calls.discard(call)


def _deliver(news: list[tuple[Call, Update | ApiError]]) -> None:
    """On the event loop: give the news to those who wait for them."""
    for call, one in news:
        call.report(one)
