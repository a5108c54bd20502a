"""Ray: each shard is a task. The driver reads the input and writes the answers; nodes need the model alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.jobs.shard import Answers
from gpt2rt.jobs.shipping import answer_shard

if TYPE_CHECKING:
    from gpt2rt.jobs.shard import AnyTask
    from gpt2rt.jobs.source import Shard

AHEAD = 2  # tasks for each place where one can run, so that none waits for the next one
BETWEEN_LOOKS = 5.0  # seconds until the size of the cluster is looked at again
MOST_RETRIES = 20  # of a task whose process or node has died


def on_ray(
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
    """Answer the rows of shards in a Ray cluster.

    Args:
        address: of the cluster, "auto" for that of this machine; None starts one on this machine.
        n_threads: of a task, which asks for as many CPUs.

    Raises:
        UsageError: ray is not installed, or there is no cluster. Gpt2rtError: a task has failed for good.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports nothing to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning about it
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ModuleNotFoundError:
        raise UsageError("--on ray: it needs the package ray (pip install 'gpt2rt[ray]')") from None

    is_connected = ray.is_initialized()
    if not is_connected:
        try:
            ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level="error",
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"--on ray={address}: can't connect: {error:.300}") from None
    try:
        # Where nodes share no disk, they get the model through Ray's object store, once each.
        shipped: list[Any] = []
        if address is not None:
            with open(path, "rb") as file:
                shipped = [ray.put(file.read())]
        remote = ray.remote(num_cpus=n_threads, max_retries=MOST_RETRIES)(_answer)
        running: dict[Any, Shard] = {}
        is_over = False
        while running or not is_over:
            places = int(ray.cluster_resources().get("CPU", 1)) // n_threads
            while not is_over and len(running) < AHEAD * max(1, places):
                shard = next(shards, None)
                is_over = shard is None
                if shard is not None:
                    reference = remote.remote(path, dict(checksums), shipped, task, shard, n_threads, batch_size)
                    running[reference] = shard
            done, _ = ray.wait(list(running), timeout=BETWEEN_LOOKS) if running else ([], [])
            for reference in done:
                del running[reference]
                yield ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, (Gpt2rtError, MemoryError)):
            raise error.cause from None
        raise Gpt2rtError(f"--on ray: a task failed: {error.cause!r:.300}") from None
    except RayError as error:
        raise Gpt2rtError(f"--on ray: {error!s:.300}") from None
    finally:
        if not is_connected:
            ray.shutdown()


def _answer(path: str, checksums: Mapping[str, int], shipped: list[Any], *work: Any) -> Answers:
    import ray

    def content() -> bytes:
        found: bytes = ray.get(shipped[0])
        return found

    return answer_shard(path, checksums, content if shipped else None, *work)
