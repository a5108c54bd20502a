"""OpenAI's release of GPT-2, downloaded into a folder that `convert` takes, and verified."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import urllib.parse
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import TypeVar

from gpt2rt.converter.checkpoint_index import Index, read_index
from gpt2rt.converter.mirror import BACKOFF, N_TRIES, TIMEOUT, Mirror, Part
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.errors import CheckpointError, DownloadError, Gpt2rtError, UsageError
from gpt2rt.model_folder import SIZES
from gpt2rt.modelfile import tensor_table

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"
ENCODER, MERGES, INDEX, DATA = "encoder.json", "vocab.bpe", "model.ckpt.index", "model.ckpt.data-00000-of-00001"
FILES = ("checkpoint", "hparams.json", ENCODER, MERGES, INDEX, "model.ckpt.meta", DATA)  # the small ones first
SHA256 = {
    "124M": {
        ENCODER: "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        MERGES: "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        INDEX: "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
    }
}

Checked = TypeVar("Checked")
Progress = Callable[[str, int, int], None]

Download = namedtuple("Download", "folder fetched kept size")
Download.__doc__ = """What was done: folder; fetched and kept, the names of the files that were downloaded and of those
that were already there; size, bytes of all of them."""


def download(
    size: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    base_url: str = BASE_URL,
    progress: Progress | None = None,
    n_tries: int = N_TRIES,
    backoff: float = BACKOFF,
    timeout: float = TIMEOUT,
) -> Download:
    """Download one of OpenAI's four models and verify it.

    Args:
        size: "124M", "355M", "774M" or "1558M".
        folder: where its files go; models/SIZE by default.
        base_url: the address of OpenAI or of a mirror, which has the files as base_url/SIZE/FILE.
        progress: called with (the file's name, done, total), in bytes of all files.
        n_tries: how often a request is tried.
        backoff: half the seconds to wait before the third try; the wait doubles with each further try.
        timeout: seconds to wait for a byte.

    Returns:
        A `Download`.

    Raises:
        UsageError: an argument has a value that can't be used.
        DownloadError: a file can't be downloaded or written, or is not what it should be. What has arrived is kept for
            the next run unless the message says that it was deleted.
    """
    if size not in SIZES:
        raise UsageError(f"size {size!r}: expected one of {', '.join(SIZES)}")
    if not _is_address(base_url):
        raise UsageError(f"base URL {base_url!r}: expected one that starts with https:// or http://")
    folder = pathlib.Path(folder if folder is not None else f"models/{size}")
    with Mirror(f"{base_url.rstrip('/')}/{size}", n_tries, backoff, timeout) as mirror:
        try:
            return _Release(size, folder, mirror, progress).download()
        except OSError as error:
            raise DownloadError(
                f"{error.filename or folder}: can't be written: {error.strerror or error}"
                " (what has arrived is kept; the same command resumes)"
            ) from None


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


class _Release:
    """One model's files, on the server and in the folder."""

    def __init__(self, size: str, folder: pathlib.Path, mirror: Mirror, progress: Progress | None):
        self._folder, self._mirror, self._progress = folder, mirror, progress
        self._checksums = SHA256.get(size, {})
        self._here: dict[str, int] = {}  # {file: bytes that have arrived}
        self._total = 0  # bytes
        self._fetched: list[str] = []
        self._kept: list[str] = []

    def download(self) -> Download:
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = self._plan()
        for name in FILES:
            if name in parts:
                self._fetch(name, parts[name])
            if name == MERGES:
                self._verify((ENCODER, MERGES), lambda: Vocabulary.read(self._folder / ENCODER, self._folder / MERGES))
            elif name == INDEX:
                index = self._verify((INDEX,), lambda: read_index(self._folder / INDEX))
        self._verify((DATA,), lambda: self._check_length(index))
        checkpoint = TensorFlowCheckpoint(self._folder / INDEX)
        self._verify((DATA,), lambda: _check_tensors(checkpoint))
        return Download(str(self._folder), self._fetched, self._kept, sum(self._here.values()))

    def _plan(self) -> dict[str, Part]:
        """Return what is to be downloaded, {name: Part}. Raises DownloadError if the disk has no room for it."""
        parts: dict[str, Part] = {}
        needed = 0
        for name in FILES:
            size, path = self._mirror.size(name), self._folder / name
            if path.exists():
                self._here[name] = path.stat().st_size
                if size not in (None, self._here[name]):
                    raise DownloadError(
                        f"{path}: already exists with {self._here[name]} bytes, expected the server's {size}"
                        " (another file, or another program's unfinished download: move it away)"
                    )
                self._kept.append(name)
                self._total += self._here[name]
            else:
                parts[name] = part = Part(path, size)
                self._here[name] = part.size
                self._total += size or 0
                needed += max(0, (size or 0) - part.size)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise DownloadError(
                f"{self._folder}: {free} bytes are free, the files need {needed} more (or give another folder)"
            )
        return parts

    def _fetch(self, name: str, part: Part) -> None:
        def advance(done: int) -> None:
            self._here[name] = done
            if self._progress:
                self._progress(name, sum(self._here.values()), self._total)

        url = self._mirror.url(name)
        self._mirror.fetch(name, part, advance)
        if name in self._checksums:
            with open(part.path, "rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            if checksum != self._checksums[name]:
                part.clear()
                raise DownloadError(
                    f"{url}: got a file with SHA-256 {checksum}, expected OpenAI's, {self._checksums[name]} (it was"
                    " deleted; try again, or another --base-url)"
                )
        part.finish()
        self._fetched.append(name)

    def _verify(self, names: Sequence[str], check: Callable[[], Checked]) -> Checked:
        """Return what check() returns. If it fails, delete those of the files that this run downloaded."""
        try:
            return check()
        except Gpt2rtError as error:
            ours = [name for name in names if name in self._fetched]
            for name in ours:
                (self._folder / name).unlink()
            others = [name for name in names if name not in ours]
            done = [f"{' and '.join(ours)}: deleted, the same command downloads it again"] * bool(ours)
            done += [f"{' and '.join(others)}: not from this run, move it away"] * bool(others)
            raise DownloadError(f"{error}; {'; '.join(done)}") from None

    def _check_length(self, index: Index) -> None:
        path = self._folder / DATA
        size = path.stat().st_size
        needed = max((entry.offset + entry.size for entry in index.entries.values()), default=0)
        if size < needed:
            raise CheckpointError(f"{path}: got {size} bytes, expected {needed} according to the index")


def _check_tensors(checkpoint: TensorFlowCheckpoint) -> None:
    """Raise CheckpointError if a tensor does not have the checksum that the index has for it."""
    for tensor in tensor_table(checkpoint.hyperparameters, "f32", 0):
        checkpoint.verify(tensor.name)
