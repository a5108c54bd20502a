"""This machine: shards in this process, or in several that share the mapped file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from gpt2rt.errors import NO_THREAD, Gpt2rtError, is_lack_of_memory
from gpt2rt.jobs.shard import Answers, Call, answered, checked_model
from gpt2rt.jobs.source import Shard

AHEAD = 2  # shards that wait in a process, so that it never waits for the next one
MOST_DEATHS = 5  # of processes with the same shard
BETWEEN_REPORTS = 0.2  # seconds
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def in_this_process(
    call: Call,
    shards: Iterator[Shard],
    on_rows: Callable[[int], None],
) -> Iterator[Answers]:
    """Answer the rows of shards in this process."""
    return answered(checked_model(call), call.task, shards, call.batch_size, lambda: on_rows(1))


class Worker:
    """A process, and the shards that it has."""

    def __init__(self, context: Any, call: Call):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, call), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen
        self.shards: list[Shard] = []
        self.is_told = False  # that no more will come
        self.n_rows = 0  # reported, of its shards

    def send(self, shard: Shard | None) -> None:
        """Send a shard, or None after the last one. A process that is gone is noticed when it is waited for."""
        self.is_told = shard is None
        if shard is not None:
            self.shards.append(shard)
        with contextlib.suppress(OSError):
            self.connection.send(shard)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def in_processes(
    call: Call,
    shards: Iterator[Shard],
    on_rows: Callable[[int], None],
    *,
    n_processes: int,
) -> Iterator[Answers]:
    """Answer the rows of shards in several processes. The shards of one that dies are given to another.

    Raises:
        Gpt2rtError: a process reports an error, or several have died with the same shard.
    """
    context = multiprocessing.get_context("spawn")
    waiting = next(shards, None)
    suspects: deque[Shard] = deque()  # of processes that have died: each runs alone, to see which one it was
    deaths: dict[int, int] = {}
    workers: list[Worker] = []
    fresh: list[Worker] = []

    def supply(worker: Worker) -> None:
        nonlocal waiting
        if not worker.is_told:
            worker.send(waiting)
            waiting = waiting and next(shards, None)

    def start() -> None:
        with _signals_held():
            worker = Worker(context, call)
            workers.append(worker)
        if suspects:
            worker.send(suspects.popleft())
            worker.send(None)
        else:
            supply(worker)
            fresh.append(worker)

    def end(worker: Worker) -> None:
        worker.stop()
        workers.remove(worker)
        on_rows(-worker.n_rows)
        for shard in worker.shards:
            deaths[shard.number] = deaths.get(shard.number, 0) + 1
            if deaths[shard.number] == MOST_DEATHS:
                code = worker.process.exitcode
                raise Gpt2rtError(
                    f"shard {shard.number}: {MOST_DEATHS} processes have died with it, the last one with exit code"
                    f" {code}" + " (not enough memory?)" * (code == -9)
                )
            suspects.append(shard)

    try:
        while workers or waiting or suspects:
            while len(workers) < n_processes and (waiting or suspects):
                start()
            while fresh:  # after each process has one
                worker = fresh.pop()
                for _ in range(AHEAD - 1):
                    supply(worker)
            ready = wait([worker.connection for worker in workers])
            for worker in [one for one in workers if one.connection in ready]:
                try:
                    news = worker.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):  # it has ended, or was killed while it wrote
                    end(worker)
                    continue
                if isinstance(news, BaseException):
                    raise news
                if isinstance(news, Answers):
                    shard = next(shard for shard in worker.shards if shard.number == news.number)
                    worker.shards.remove(shard)
                    worker.n_rows -= len(shard.rows)
                    yield news
                elif news is None:
                    supply(worker)
                else:
                    worker.n_rows += news
                    on_rows(news)
    finally:
        for worker in workers:
            worker.stop()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold up signals while a process starts: it would complain about them, or about a start that was cut short."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: came.append(number))  # other threads may get them
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)  # the new process inherits it
        resource_tracker.ensure_running()  # a process of `multiprocessing`, whose start unblocks them
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if came:
            signal.raise_signal(came[0])


def _work(connection: Connection, call: Call) -> None:
    """Answer the shards that come through a connection, until None comes: the main function of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    received: SimpleQueue[Shard | None] = SimpleQueue()
    n_new, reported, n_shards = 0, monotonic(), 0

    def on_row() -> None:
        nonlocal n_new, reported
        n_new += 1
        if monotonic() - reported > BETWEEN_REPORTS:
            connection.send(n_new)
            n_new, reported = 0, monotonic()

    def shards() -> Iterator[Shard | None]:
        # The next one is asked for when one is taken, not when one is complete: rows of several shards run together.
        nonlocal n_shards
        while True:
            try:
                shard = received.get(block=n_shards == 0)
            except Empty:
                yield None
                continue
            if shard is None:
                return
            connection.send(None)
            n_shards += 1
            yield shard

    def answer() -> None:
        nonlocal n_new, n_shards
        for answers in answered(checked_model(call), call.task, shards(), call.batch_size, on_row):
            n_shards -= 1
            connection.send(n_new)
            n_new = 0
            connection.send(answers)

    with contextlib.suppress(OSError):  # the process that started this one is gone
        try:
            threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
            answer()
        except Exception as error:
            connection.send(_reported(error))


def _reported(error: Exception) -> Exception:
    """Return what the process that started this one is told."""
    if is_lack_of_memory(error) or str(error) == NO_THREAD:
        return MemoryError()
    return error if isinstance(error, Gpt2rtError) else Gpt2rtError(repr(error))


def _receive(connection: Connection, received: SimpleQueue[Shard | None]) -> None:
    """Take what is sent at once, since the sender waits for that.

    This process ends when the one that started it is gone: nobody waits for its answers.
    """
    try:
        while True:
            received.put(connection.recv())
    finally:
        os._exit(1)
