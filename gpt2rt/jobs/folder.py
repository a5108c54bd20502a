"""JobFolder: the directory of a job: its manifest, and the shards that are complete."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.modelfile.unfinished import Unfinished

if sys.platform != "win32":
    import fcntl

MANIFEST, SHARDS = "manifest.json", "shards"
FORMAT = 1


class JobFolder:
    """The directory of a job. A shard is complete when its file has its name: renaming is the commit.

    Only complete shards, and the manifest, survive a process that is killed; the next one with the same job continues.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any]):
        """Make the directory, or take one that has the same manifest.

        Raises:
            UsageError: it can't be made, has another job, or files of something else.
        """
        self.path, self._manifest = path, manifest
        self._shards = os.path.join(path, SHARDS)
        with self._saying():
            os.makedirs(path, exist_ok=True)
            if os.path.exists(os.path.join(path, MANIFEST)):
                self._compare()
            elif taken := [name for name in os.listdir(path) if not name.startswith(".")]:
                raise UsageError(f"{path}: it has no {MANIFEST}, but {min(taken)!r:.80} (use another folder)")
            else:
                content = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
                self._write(os.path.join(path, MANIFEST), content.encode())
            os.makedirs(self._shards, exist_ok=True)

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        """Turn errors of the file system into one sentence."""
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            what = getattr(error, "strerror", None) or error
            raise Gpt2rtError(f"{getattr(error, 'filename', None) or self.path}: {what}") from None

    def _compare(self) -> None:
        path = os.path.join(self.path, MANIFEST)
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: not a manifest: {error} (use another folder)") from None
        # Through JSON, which has no tuples.
        for name, there, here in _differences(found, json.loads(json.dumps(self._manifest))):
            raise UsageError(
                f"{self.path}: it has another job: {name} is {there}, not {here} (use another folder, or remove it)"
            )

    @contextlib.contextmanager
    def locked(self, *, is_shared: bool) -> Iterator[None]:
        """Keep other processes from doing the same work; where there are no locks, they may, with the same result.

        Args:
            is_shared: whether other processes that say the same may hold the lock as well.

        Raises:
            UsageError: another process has it.
        """
        with contextlib.ExitStack() as stack:
            if sys.platform != "win32":
                with self._saying():
                    file = stack.enter_context(open(os.path.join(self.path, MANIFEST), "rb"))
                try:
                    fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UsageError(f"{self.path}: another process is working on this job") from None
                except OSError:
                    pass  # a file system without locks
            yield

    def _name(self, number: int) -> str:
        return f"{number:06}.jsonl"

    def complete(self) -> set[int]:
        """Return the numbers of the complete shards."""
        with self._saying():
            names = os.listdir(self._shards)
        return {int(name.removesuffix(".jsonl")) for name in names if re.fullmatch(r"\d{6,}\.jsonl", name)}

    def commit(self, number: int, content: bytes) -> None:
        """Write a shard. It is complete, and survives a loss of power, when this returns.

        Raises:
            Gpt2rtError: it can't be written; then nothing is left of it.
        """
        with self._saying():
            self._write(os.path.join(self._shards, self._name(number)), content)

    def _write(self, path: str, content: bytes) -> None:
        # Unfinished files lie in the job's folder, which has few others to look through.
        with _finished(os.path.join(self.path, os.path.basename(path)), path) as file:
            file.write(content)

    def merge(self, target: str, n_rows: int, shard_size: int) -> None:
        """Join all shards, in the order of the input, into a file; - is standard output.

        Raises:
            Gpt2rtError: a shard is missing or damaged, or the file can't be written; then nothing is left of it.
        """
        with self._saying():
            if target == "-":
                self._join(sys.stdout.buffer, n_rows, shard_size)
                sys.stdout.buffer.flush()
                return
            with _finished(target, target) as file:
                self._join(file, n_rows, shard_size)

    def _join(self, file: IO[bytes], n_rows: int, shard_size: int) -> None:
        for begin in range(0, n_rows, shard_size):
            expected = min(shard_size, n_rows - begin)
            path = os.path.join(self._shards, self._name(begin // shard_size))
            with open(path, "rb") as shard:
                n_lines = sum(block.count(b"\n") for block in iter(lambda: shard.read(1 << 20), b""))
                if n_lines != expected:
                    raise Gpt2rtError(f"{path}: {n_lines} rows, expected {expected} (delete it, and run the job again)")
                shard.seek(0)
                shutil.copyfileobj(shard, file, 1 << 20)


@contextlib.contextmanager
def _finished(unfinished: str, path: str) -> Iterator[IO[bytes]]:
    """Write a file that gets its name once all of it is on the disk."""
    part = Unfinished(unfinished)
    try:
        part.make()
        with open(part.path, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part.path, path)
    except BaseException:
        part.remove()
        raise
    part.release()
    if sys.platform != "win32":
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (name, value there, value here) for what differs between two manifests."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*here, *there)):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield name, f"{json.dumps(there):.80}", f"{json.dumps(here):.80}"
