"""What `convert` reads: each kind of checkpoint is one small reader with these attributes and methods."""

from __future__ import annotations

import os
import pathlib
from typing import Protocol

import numpy as np

from gpt2rt.modelfile import Hyperparameters


def folder_name(folder: pathlib.Path) -> str:
    """Return what a folder is called where the user named it: a link's own name, not that of its target."""
    path = os.path.abspath(folder)
    entered = os.environ.get("PWD", "")
    if path == os.getcwd() and entered and os.path.isabs(entered) and os.path.realpath(entered) == path:
        path = os.path.normpath(entered)  # getcwd() has followed the links by which the shell came here
    return os.path.basename(path)


class SourceVocabulary(Protocol):
    """What a source's vocabulary has: `Vocabulary` does."""

    @property
    def n_vocab(self) -> int: ...

    def tables(self) -> dict[str, bytes] | dict[str, memoryview]:
        """The tables of docs/format.md."""
        ...

    def section(self) -> bytes:
        """The bytes of the vocabulary section."""
        ...


class Source(Protocol):
    """A checkpoint that is complete and has the shapes that its hyperparameters call for; `TensorFlowCheckpoint` tells
    what each part is.
    """

    path: pathlib.Path
    name: str
    origin: str
    licence: str | None
    hyperparameters: Hyperparameters
    is_tied: bool
    chat: dict[str, str] | None
    size: int
    files: list[pathlib.Path]

    def vocabulary(self) -> SourceVocabulary: ...

    def tensor(self, name: str) -> np.ndarray: ...

    def release(self, array: np.ndarray) -> None: ...
