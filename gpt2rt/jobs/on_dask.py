"""Dask: each shard is a task, as with Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.jobs.shard import Answers
from gpt2rt.jobs.shipping import answer_shard

if TYPE_CHECKING:
    from gpt2rt.jobs.shard import AnyTask
    from gpt2rt.jobs.source import Shard

AHEAD = 2  # tasks for each thread of the cluster


def on_dask(
    path: str,
    checksums: Mapping[str, int],
    task: AnyTask,
    shards: Iterator[Shard],
    on_rows: Callable[[int], None],
    *,
    address: str | None,
    n_threads: int,
    batch_size: int,
) -> Iterator[Answers]:
    """Answer the rows of shards in a Dask cluster, whose nodes find the model under the same path.

    Args:
        address: of the scheduler; None starts a cluster on this machine.
        n_threads: of a task; each of the cluster's threads runs one task at a time.

    Raises:
        UsageError: distributed is not installed, or there is no cluster. Gpt2rtError: a task has failed for good.
    """
    try:
        from distributed import Client, wait
    except ModuleNotFoundError:
        raise UsageError("--on dask: it needs the package distributed (pip install 'gpt2rt[dask]')") from None

    try:
        client = Client(address, **({} if address else {"dashboard_address": None, "threads_per_worker": 1}))
    except (OSError, ValueError) as error:
        raise UsageError(f"--on dask={address}: can't connect: {error:.300}") from None
    with client:
        running: set[Any] = set()
        is_over = False
        while running or not is_over:
            places = sum(client.nthreads().values())
            while not is_over and len(running) < AHEAD * max(1, places):
                shard = next(shards, None)
                is_over = shard is None
                if shard is not None:
                    work = path, dict(checksums), None, task, shard, n_threads, batch_size
                    running.add(client.submit(answer_shard, *work, pure=False))
            if not running:
                continue
            for future in wait(running, return_when="FIRST_COMPLETED").done:
                running.discard(future)
                problem = future.exception()
                if isinstance(problem, (Gpt2rtError, MemoryError)):
                    raise problem
                if problem is not None:
                    raise Gpt2rtError(f"--on dask: a task failed: {problem!r:.300}")
                yield future.result()
