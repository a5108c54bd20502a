"""One shard as the task of a cluster, and a node's own copy of the model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import gpt2rt
from gpt2rt.errors import Gpt2rtError, ModelFileError
from gpt2rt.jobs.shard import Answers, Call, answered, checked_model
from gpt2rt.modelfile.unfinished import replaced

if TYPE_CHECKING:
    from gpt2rt.jobs.source import Shard
    from gpt2rt.model import Model

if sys.platform != "win32":
    import fcntl

Content = Callable[[], Iterable[Any]]  # returns the pieces of the model file, each a buffer


def answer_shard(call: Call, shard: Shard, content: Content | None = None) -> Answers:
    """Answer the rows of a shard on a node of a cluster.

    Args:
        content: for a node that does not find the model under its path.

    Raises:
        ModelFileError: the node has no model, and was given none. Gpt2rtError: it has another version of gpt2rt.
    """
    if gpt2rt.__version__ != call.version:
        raise Gpt2rtError(
            f"{socket.gethostname()}: gpt2rt {gpt2rt.__version__} is installed there, expected {call.version}"
            f" (pip install gpt2rt=={call.version})"
        )
    return next(answered(node_model(call, content), call.task, [shard], call.batch_size))


_found: dict[str, str] = {}  # {name of the node's copy: the path where this process has found the model}


def node_model(call: Call, content: Content | None) -> Model:
    """Return the model of a job, from where this node has it. The copy stays, for other processes and jobs.

    Raises:
        ModelFileError: it is nowhere, and was not given. Gpt2rtError: a copy can't be written.
    """
    name = hashlib.sha256(json.dumps(dict(call.checksums), sort_keys=True).encode()).hexdigest()[:16] + ".bin"
    folder = _node_folder()
    copy = os.path.join(folder, name)
    paths = [_found.get(name, call.path), call.path, *([copy] if _is_private(folder) else [])]
    problems = []
    for path in dict.fromkeys(paths):
        try:
            return _model_at(path, call, name)
        except ModelFileError as error:
            problems.append(error)
    node = socket.gethostname()
    if content is None:
        raise ModelFileError(f"{node}: {problems[0]}")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        if not _is_private(folder):
            raise Gpt2rtError(f"{node}: {folder}: others can write there (remove it)")
        with _locked(copy):  # while another process writes it, this one waits
            with contextlib.suppress(ModelFileError):
                return _model_at(copy, call, name)
            _write(copy, content())
            return _model_at(copy, call, name)
    except OSError as error:
        raise Gpt2rtError(f"{node}: {copy}: {error.strerror or error} (set TMPDIR to another folder there)") from None


def _model_at(path: str, call: Call, name: str) -> Model:
    model = checked_model(call._replace(path=path))
    _found[name] = path
    return model


def _node_folder() -> str:
    """Return the path of this user's folder for models."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    return os.path.join(tempfile.gettempdir(), f"gpt2rt-models-{user}")


def _is_private(folder: str) -> bool:
    """Whether a folder is there in which nobody else can write: anyone can make one with this name."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    is_ours = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
    return stat.S_ISDIR(status.st_mode) and is_ours


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Wait until no other process of this node has the lock of a file; without locks, copies replace each other."""
    with open(f"{path}.lock", "ab") as lock:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: str, pieces: Iterable[Any]) -> None:
    with replaced(path) as file:
        file.writelines(pieces)
