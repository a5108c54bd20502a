"""Ray: each shard is a task. The driver reads the input and writes the answers; nodes need gpt2rt alone."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2rt.errors import Gpt2rtError, ModelFileError, UsageError
from gpt2rt.jobs.cluster import answered_on, check_port, first_line, task_failure
from gpt2rt.jobs.shard import Answers, Call
from gpt2rt.jobs.shipping import answer_shard
from gpt2rt.model import number_of_threads
from gpt2rt.threads import default_threads

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning about it
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports nothing to anyone

import ray
from ray.exceptions import RayError, RayTaskError

if TYPE_CHECKING:
    from gpt2rt.jobs.source import Shard

LOCAL = "local"  # Ray's word for a cluster of its own on this machine
STDERR = 2  # its descriptor
MOST_RETRIES = 20  # of a task whose process or node has died
PIECE = 64 << 20  # bytes of the model that are one object, so that no node has to hold all of it in its object store


def on_ray(
    call: Call,
    shards: Iterator[Shard],
    on_rows: Callable[[int], None],
    *,
    address: str | None,
) -> Iterator[Answers]:
    """Answer the rows of shards in a Ray cluster.

    Args:
        address: of the cluster, "auto" for that of this machine; None for that of RAY_ADDRESS, or else for one of its
            own on this machine. A task asks for as many CPUs as it has threads.

    Raises:
        UsageError: there is no cluster. Gpt2rtError, MemoryError: a task has failed for good.
    """
    where = address or os.environ.get("RAY_ADDRESS") or LOCAL
    name = f"--on ray={address}" if address else "--on ray"
    if where == LOCAL:
        call = call._replace(n_threads=number_of_threads(call.n_threads))
    with _connected(where, name, call.n_threads):
        cluster = RayCluster(name, call)
        try:
            yield from answered_on(cluster, shards)
        except RayError as error:
            raise Gpt2rtError(f"{name}: {first_line(error)}") from None


class RayCluster:
    """See `Cluster`."""

    def __init__(self, name: str, call: Call):
        self.name, self.need = name, f"node with {call.n_threads} CPU{'s' * (call.n_threads > 1)}"
        self._call = call
        self._task = ray.remote(num_cpus=call.n_threads, max_retries=MOST_RETRIES)(_answer)
        self._model: list[Any] = []  # a reference to the references to its pieces, once a node has asked for it

    def n_places(self) -> int:
        cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        return sum(int(n) // self._call.n_threads for n in cpus)

    def submit(self, shard: Shard) -> Any:
        return self._task.remote(self._call, self._model, shard)

    def ended(self, handles: list[Any], seconds: float) -> list[Any]:
        if not ray.wait(handles, timeout=seconds)[0]:
            return []
        ended: list[Any] = ray.wait(handles, num_returns=len(handles), timeout=0)[0]
        return ended

    def answers(self, handle: Any, shard: Shard) -> Answers | None:
        try:
            answers: Answers | None = ray.get(handle)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            raise task_failure(self, shard, cause) from None
        if answers is None and not self._model:
            with open(self._call.path, "rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            pieces = [
                ray.put(np.frombuffer(content, np.uint8, min(PIECE, len(content) - begin), begin))
                for begin in range(0, len(content), PIECE)
            ]  # arrays, which Ray copies only once
            self._model = [ray.put(pieces)]
        return answers


def _answer(call: Call, model: list[Any], shard: Shard) -> Answers | None:
    """Answer the rows of a shard; return None if this node needs the model's content, and got none."""

    def content() -> Iterator[Any]:
        yield from map(ray.get, ray.get(model[0]))

    try:
        return answer_shard(call, shard, content if model else None)
    except ModelFileError:
        if model:
            raise
        return None


@contextlib.contextmanager
def _connected(address: str, name: str, n_threads: int) -> Iterator[None]:
    """Connect to a cluster, or start one; afterwards leave it, or end it. Raises UsageError: there is none."""
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        options |= {"include_dashboard": False, "num_cpus": max(n_threads, default_threads())}
    with contextlib.ExitStack() as stack:
        # Ray prints there about nodes that have died, whatever its options say.
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.callback(_end)
        try:
            # Workers look for modules in the current folder first, where there may be others with the same name.
            with _keeping_signals(address == LOCAL), contextlib.chdir(os.sep), warnings.catch_warnings(action="ignore"):
                check_port(address)
                ray.init(**options)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            is_refused = "AuthenticationError" in str(error.__cause__)
            hint = " (it wants a token: set RAY_AUTH_MODE=token, and see Ray's documentation)" if is_refused else ""
            raise UsageError(f"{name}: can't connect: {first_line(error)}{hint}") from None
        yield


def _end() -> None:
    """Leave or end the cluster, without the lines of Ray's core about tasks that are lost by that."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there may be no standard error
            saved = os.dup(STDERR)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, STDERR)
            os.dup2(stack.enter_context(open(os.devnull, "wb")).fileno(), STDERR)
        ray.shutdown()


@contextlib.contextmanager
def _keeping_signals(is_starting: bool) -> Iterator[None]:
    """Restore the handler of SIGTERM; let Ctrl-C wait until Ray has started, which would leave processes otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    of_terminate, of_interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    is_interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True

    if is_starting and callable(of_interrupt):
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except SystemExit:  # Ray's own handler
        signal.signal(signal.SIGTERM, of_terminate)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, of_terminate)
        signal.signal(signal.SIGINT, of_interrupt)
    if is_interrupted:
        signal.raise_signal(signal.SIGINT)
