"""Dask: each shard is a task, as with Ray. Nodes need gpt2rt, and the model under the driver's path."""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from distributed import Client, Future, LocalCluster

from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.jobs.cluster import answered_on, check_port, first_line, task_failure
from gpt2rt.jobs.shard import Answers, Call
from gpt2rt.jobs.shipping import answer_shard
from gpt2rt.model import number_of_threads
from gpt2rt.threads import default_threads

if TYPE_CHECKING:
    from gpt2rt.jobs.source import Shard


def on_dask(
    call: Call,
    shards: Iterator[Shard],
    on_rows: Callable[[int], None],
    *,
    address: str | None,
) -> Iterator[Answers]:
    """Answer the rows of shards in a Dask cluster, whose nodes find the model under the same path.

    Args:
        address: of the scheduler; None starts a cluster on this machine. Each of the cluster's threads runs one task
            at a time.

    Raises:
        UsageError: there is no cluster. Gpt2rtError, MemoryError: a task has failed for good.
    """
    name = f"--on dask={address}" if address else "--on dask"
    if address is None:
        call = call._replace(n_threads=number_of_threads(call.n_threads))
    with _connected(address, name, call.n_threads) as client:
        cluster = DaskCluster(name, client, call)
        try:
            yield from answered_on(cluster, shards)
        except OSError as error:
            raise Gpt2rtError(f"{name}: {first_line(error)}") from None


class DaskCluster:
    """See `Cluster`."""

    need = "worker"

    def __init__(self, name: str, client: Client, call: Call):
        self.name, self._client, self._call = name, client, call
        self._ended: SimpleQueue[Future] = SimpleQueue()

    def n_places(self) -> int:
        return sum(self._client.nthreads().values())

    def submit(self, shard: Shard) -> Future:
        # A task that does not even unpickle would end the worker, and needs gpt2rt on the scheduler as well.
        future = self._client.submit(pickle.loads, pickle.dumps(_Answered(self._call, shard)), pure=False)
        future.add_done_callback(self._ended.put)
        return future

    def ended(self, handles: list[Any], seconds: float) -> list[Any]:
        try:
            return [self._ended.get(timeout=seconds)]
        except Empty:
            return []

    def answers(self, handle: Future, shard: Shard) -> Answers:
        try:
            answers: Answers = handle.result()
        except Exception as error:
            raise task_failure(self, shard, error) from None
        return answers


class _Answered:
    """The answers to a shard, which unpickling makes."""

    def __init__(self, call: Call, shard: Shard):
        self._work = call, shard

    def __reduce__(self) -> tuple[Any, ...]:
        return answer_shard, self._work


@contextlib.contextmanager
def _connected(address: str | None, name: str, n_threads: int) -> Iterator[Client]:
    """Connect to a cluster, or start one; afterwards leave it, or end it. Raises UsageError: there is none."""
    with contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable()  # of Dask's own lines
        try:
            with warnings.catch_warnings(action="ignore"):
                check_port(address or "")
                where: Any = address or stack.enter_context(_local_cluster(max(1, default_threads() // n_threads)))
                client = stack.enter_context(Client(where))
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"{name}: can't connect: {first_line(error)}") from None
        yield client


def _local_cluster(n_workers: int) -> LocalCluster:
    """Start a cluster on this machine, whose processes Ctrl-C does not reach: it is for the driver."""
    signals = [signal.SIGINT] if hasattr(signal, "pthread_sigmask") else []
    resource_tracker.ensure_running()  # else the first worker starts it, which unblocks signals
    for number in signals:  # blocked in all threads and processes that are started meanwhile, and by these
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            memory_limit=0,  # the mapped model, which all workers share, would count for each of them
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
    finally:
        for number in signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
