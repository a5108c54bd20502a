"""This machine: shards in this process, or in several that share the mapped file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import TYPE_CHECKING, Any

from gpt2rt.errors import Gpt2rtError
from gpt2rt.jobs.shard import Answers, answered, checked_model
from gpt2rt.jobs.source import Shard

if TYPE_CHECKING:
    from gpt2rt.jobs.shard import AnyTask

AHEAD = 2  # shards that a process has, so that it never waits for the next one
MOST_DEATHS = 5  # of processes with the same shard
BETWEEN_REPORTS = 0.2  # seconds


def in_this_process(
    path: str,
    checksums: Mapping[str, int],
    task: AnyTask,
    shards: Iterator[Shard],
    on_rows: Callable[[int], None],
    *,
    n_threads: int | None,
    batch_size: int,
) -> Iterator[Answers]:
    """Answer the rows of shards in this process."""
    model = checked_model(path, n_threads, checksums)
    return answered(model, task, shards, batch_size, lambda: on_rows(1))


class Worker:
    """A process, and the shards that it has."""

    def __init__(self, context: Any, arguments: tuple[Any, ...]):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen
        self.shards: deque[Shard] = deque()
        self.is_told = False  # that no more will come
        self.n_rows = 0  # reported, of its shards

    def send(self, shard: Shard | None) -> None:
        """Send a shard, or None after the last one. A process that is gone is noticed when it is waited for."""
        with contextlib.suppress(OSError):
            self.connection.send(shard)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def in_processes(
    path: str,
    checksums: Mapping[str, int],
    task: AnyTask,
    shards: Iterator[Shard],
    on_rows: Callable[[int], None],
    *,
    n_processes: int,
    n_threads: int,
    batch_size: int,
) -> Iterator[Answers]:
    """Answer the rows of shards in several processes. The shards of one that dies are given to another.

    Raises:
        Gpt2rtError: a process reports an error, or several have died with the same shard.
    """
    context = multiprocessing.get_context("spawn")
    arguments = (path, checksums, task, n_threads, batch_size)
    returned: deque[Shard] = deque()  # of processes that have died
    deaths: dict[int, int] = {}
    workers: list[Worker] = []

    def supply(worker: Worker) -> None:
        while not worker.is_told and len(worker.shards) < AHEAD:
            shard = returned.popleft() if returned else next(shards, None)
            if shard is None:
                worker.is_told = True
            else:
                worker.shards.append(shard)
            worker.send(shard)

    def start() -> None:
        worker = Worker(context, arguments)
        workers.append(worker)
        supply(worker)

    try:
        for _ in range(n_processes):
            start()
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [one for one in workers if one.connection in ready]:
                try:
                    news = worker.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):  # it has ended, or was killed while it wrote
                    worker.stop()
                    workers.remove(worker)
                    on_rows(-worker.n_rows)
                    if worker.shards:
                        number = worker.shards[0].number
                        deaths[number] = deaths.get(number, 0) + 1
                        if deaths[number] == MOST_DEATHS:
                            code = worker.process.exitcode
                            raise Gpt2rtError(
                                f"shard {number}: {MOST_DEATHS} processes have died with it, the last one with exit"
                                f" code {code}" + " (not enough memory?)" * (code == -signal.SIGKILL)
                            ) from None
                        returned.extend(worker.shards)
                        start()
                    continue
                if isinstance(news, BaseException):
                    raise news
                if isinstance(news, Answers):
                    shard = next(shard for shard in worker.shards if shard.number == news.number)
                    worker.shards.remove(shard)
                    worker.n_rows -= len(shard.rows)
                    yield news
                    supply(worker)
                else:
                    worker.n_rows += news
                    on_rows(news)
            if returned:  # the others may have been told that nothing is left
                while returned and all(worker.is_told for worker in workers):
                    start()
    finally:
        for worker in workers:
            worker.stop()


def _work(
    connection: Connection, path: str, checksums: Mapping[str, int], task: AnyTask, n_threads: int, batch_size: int
) -> None:
    """Answer the shards that come through a connection, until None comes: the main function of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    n_new, reported, n_shards = 0, monotonic(), 0

    def on_row() -> None:
        nonlocal n_new, reported
        n_new += 1
        if monotonic() - reported > BETWEEN_REPORTS:
            connection.send(n_new)
            n_new, reported = 0, monotonic()

    def shards() -> Iterator[Shard | None]:
        nonlocal n_shards
        while True:
            if n_shards and not connection.poll():
                yield None  # the next one comes when one of these is complete
            elif (shard := connection.recv()) is not None:
                n_shards += 1
                yield shard
            else:
                return

    try:
        model = checked_model(path, n_threads, checksums)
        for answers in answered(model, task, shards(), batch_size, on_row):
            n_shards -= 1
            connection.send(n_new)
            n_new = 0
            connection.send(answers)
    except (EOFError, OSError):
        os._exit(1)
    except BaseException as error:
        connection.send(error if isinstance(error, (Gpt2rtError, MemoryError)) else Gpt2rtError(repr(error)))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody waits for its answers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
