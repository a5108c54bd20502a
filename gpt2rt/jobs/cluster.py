"""Cluster: what the drivers of Ray and Dask have in common: they feed tasks, one for each shard."""

from __future__ import annotations

import socket
import warnings
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import gpt2rt
from gpt2rt.errors import Gpt2rtError
from gpt2rt.lines import lines_of

if TYPE_CHECKING:
    from gpt2rt.jobs.shard import Answers
    from gpt2rt.jobs.source import Shard

TO_CONNECT = 10.0  # seconds
AHEAD = 2  # tasks for each place where one can run, so that none waits for the next one
LEAST_TASKS = 16  # so that an autoscaler has a reason to add nodes
BETWEEN_LOOKS = 5.0  # seconds until the size of the cluster is looked at again
PATIENCE = 600.0  # seconds to wait for a node: an autoscaler needs some minutes


class Cluster(Protocol):
    """A cluster to which this process, its driver, is connected.

    Attributes:
        name: as the user gave it, such as --on ray=auto. need: what runs tasks, such as "node with 2 CPUs".
    """

    name: str
    need: str

    def n_places(self) -> int:
        """Return how many tasks can run at a time."""
        ...

    def submit(self, shard: Shard) -> Any:
        """Start a task, and return its handle."""
        ...

    def ended(self, handles: list[Any], seconds: float) -> list[Any]:
        """Wait until one of the tasks has ended, for at most some seconds; return the handles of those that have."""
        ...

    def answers(self, handle: Any, shard: Shard) -> Answers | None:
        """Return what a task has answered; None if it has to be submitted again.

        Raises:
            Gpt2rtError, MemoryError: it has failed for good.
        """
        ...


def answered_on(cluster: Cluster, shards: Iterator[Shard]) -> Iterator[Answers]:
    """Answer the rows of shards on a cluster, whose nodes may come and go.

    Raises:
        Gpt2rtError, MemoryError: a task has failed for good, or nothing can run tasks.
    """
    running: dict[Any, Shard] = {}
    again: deque[Shard] = deque()
    n_places, looked, last_place, is_told = 0, float("-inf"), monotonic(), False
    while True:
        if (now := monotonic()) - looked >= BETWEEN_LOOKS:
            n_places, looked = cluster.n_places(), now
            if n_places:
                last_place, is_told = now, False
            elif now - last_place >= PATIENCE:
                raise Gpt2rtError(f"{cluster.name}: the cluster has no {cluster.need} (add one, or lower --threads)")
            elif not is_told:
                minutes = f"{PATIENCE / 60:.0f} minutes"
                warnings.warn(
                    f"{cluster.name}: the cluster has no {cluster.need}; waiting up to {minutes} for one", stacklevel=1
                )
                is_told = True
        while len(running) < max(LEAST_TASKS, AHEAD * n_places):
            shard = again.popleft() if again else next(shards, None)
            if shard is None:
                break
            running[cluster.submit(shard)] = shard
        if not running:
            return
        for handle in cluster.ended(list(running), BETWEEN_LOOKS):
            shard = running.pop(handle)
            answers = cluster.answers(handle, shard)
            if answers is None:
                again.append(shard)
            else:
                yield answers


def check_port(address: str) -> None:
    """Raise OSError at once if nothing listens at [SCHEME://]HOST:PORT: Ray and Dask would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), TO_CONNECT).close()


def task_failure(cluster: Cluster, shard: Shard, error: BaseException | None) -> Gpt2rtError | MemoryError:
    """Return what to raise when a task has failed."""
    if isinstance(error, (Gpt2rtError, MemoryError)):
        return error
    message = first_line(error)
    is_missing = "No module named" in message or "Can't get attribute" in message
    hint = f" (install gpt2rt {gpt2rt.__version__} on all nodes)" if is_missing else ""
    return Gpt2rtError(f"{cluster.name}: shard {shard.number}: {message}{hint}")


def first_line(error: BaseException | None) -> str:
    """Return the beginning of an error's message, which may have a traceback in it, and then its last line too."""
    message = getattr(error, "strerror", None) or str(error).strip() or repr(error)
    first, *others = lines_of(str(message))
    return (f"{first} {others[-1].strip()}" if first.endswith(":") and others else first)[:300]
