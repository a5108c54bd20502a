"""A node's copy of the model, and one shard as the task of a cluster."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gpt2rt.errors import ModelFileError
from gpt2rt.jobs.shard import Answers, answered, checked_model
from gpt2rt.modelfile.unfinished import Unfinished

if TYPE_CHECKING:
    from gpt2rt.jobs.shard import AnyTask
    from gpt2rt.jobs.source import Shard

MARK = "gpt2rt-model"


def answer_shard(
    path: str,
    checksums: Mapping[str, int],
    content: Callable[[], bytes] | None,
    task: AnyTask,
    shard: Shard,
    n_threads: int,
    batch_size: int,
) -> Answers:
    """Answer the rows of a shard on a node of a cluster.

    Args:
        content: returns the model file's content, for nodes that don't find it under its path; None if all do.
    """
    if content is not None and not _has(path, checksums, n_threads):
        path = _node_copy(checksums, content)
    model = checked_model(path, n_threads, checksums)
    return next(answered(model, task, [shard], batch_size))


def _has(path: str, checksums: Mapping[str, int], n_threads: int) -> bool:
    try:
        checked_model(path, n_threads, checksums)
    except ModelFileError:
        return False
    return True


def _node_copy(checksums: Mapping[str, int], content: Callable[[], bytes]) -> str:
    """Return a file of this node with the model's content, which all processes of the user share."""
    digest = hashlib.sha256(json.dumps(dict(checksums), sort_keys=True).encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    path = os.path.join(tempfile.gettempdir(), f"{MARK}-{user}-{digest}.bin")
    if not _is_ours(path):
        part = Unfinished(path)
        try:
            part.make()
            with open(part.path, "wb") as file:
                file.write(content())
            os.chmod(part.path, 0o600)
            os.replace(part.path, path)
        except BaseException:
            part.remove()
            raise
        part.release()
    return path


def _is_ours(path: str) -> bool:
    """Whether a file of this user is there: anyone can write to the folder. `checked_model` verifies its content."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()
