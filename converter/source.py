"""The interface between `convert` and the readers, one small reader for each kind of checkpoint."""

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
    """The vocabulary of a source; `Vocabulary` implements it."""

    @property
    def n_vocab(self) -> int: ...

    def tables(self) -> dict[str, bytes] | dict[str, memoryview]:
        """Return the tables of docs/format.md: {name: bytes}."""
        ...

    def section(self) -> bytes:
        """Return the bytes of the vocabulary section."""
        ...


class Source(Protocol):
    """A complete checkpoint whose tensors have the shapes implied by its hyperparameters.

    `TensorFlowCheckpoint` documents the attributes and methods.
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
    notes: list[str]

    def vocabulary(self) -> SourceVocabulary: ...

    def tensor(self, name: str) -> np.ndarray: ...

    def rows(self, name: str, begin: int, end: int) -> np.ndarray: ...
