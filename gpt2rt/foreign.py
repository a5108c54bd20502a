"""Exceptions that a reader of other people's files did not expect."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from gpt2rt.errors import CheckpointError, Gpt2rtError


@contextlib.contextmanager
def translated(
    path: str | os.PathLike[str], error_class: type[Gpt2rtError] = CheckpointError, what: str = "can't be read"
) -> Iterator[None]:
    """Turn an exception that is not ours into a sentence about a file, with the exception as its cause."""
    try:
        yield
    except (Gpt2rtError, MemoryError, ImportError):  # the latter is of a library, not of the file
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error!s:.200}"
        raise error_class(f"{getattr(error, 'filename', None) or path}: {what}: {reason} (damaged?)") from error
