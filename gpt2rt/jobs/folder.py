"""JobFolder: the directory of a job: its manifest, and the shards that are complete."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from gpt2rt.bounded_json import loads
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.modelfile.unfinished import remove_abandoned, replaced, sync_folder
from gpt2rt.regular_file import open_regular, read_regular

if sys.platform != "win32":
    import fcntl

MANIFEST, SHARDS = "manifest.json", "shards"
MAX_MANIFEST = 1 << 20  # bytes
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
        if not path:
            raise UsageError("OUT_DIR: got '', expected the name of a folder")
        with self._saying():
            os.makedirs(path, exist_ok=True)
            with _only_one(path):
                self._make()

    def _make(self) -> None:
        names = [name for name in os.listdir(self.path) if not name.startswith(".")]
        if MANIFEST in names:
            self._compare()
        elif names:
            raise UsageError(f"{self.path}: it has no {MANIFEST}, but {min(names)!r:.80} (use another folder)")
        else:
            # ASCII, since names of files may have any bytes.
            content = json.dumps(self._manifest, indent=1) + "\n"
            self._write(os.path.join(self.path, MANIFEST), content.encode())
        if SHARDS not in names:
            os.makedirs(self._shards, exist_ok=True)
            sync_folder(self.path)

    @contextlib.contextmanager
    def _saying(self, path: str | None = None) -> Iterator[None]:
        """Turn errors of the file system into one sentence. They may be those of a path, but don't all know it."""
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            what = getattr(error, "strerror", None) or error
            raise Gpt2rtError(f"{path or getattr(error, 'filename', None) or self.path}: {what}") from None

    def _compare(self) -> None:
        path = os.path.join(self.path, MANIFEST)
        try:
            found = loads(read_regular(path, MAX_MANIFEST))
            # Through JSON, which has no tuples.
            different = next(_differences(found, json.loads(json.dumps(self._manifest))), None)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: not a manifest: {error} (use another folder)") from None
        if not isinstance(found, dict):
            raise UsageError(f"{path}: not a manifest: expected a JSON object (use another folder)")
        if different is not None:
            name, there, here = different
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
                    file = stack.enter_context(open_regular(os.path.join(self.path, MANIFEST)))
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
        with self._saying(), os.scandir(self._shards) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
        return {int(name.removesuffix(".jsonl")) for name in names if re.fullmatch(r"\d{6,}\.jsonl", name, re.ASCII)}

    def clean(self) -> None:
        """Remove what killed writers of this job have left, as far as that is possible; nothing else may write."""
        with self._saying():
            names = os.listdir(self.path)
        for name in names:
            if found := re.fullmatch(r"(\.(?:manifest\.json|\d{6,}\.jsonl)\.)[0-9a-f]{8}\.part", name):
                remove_abandoned(self.path, found[1])

    def commit(self, number: int, content: bytes) -> None:
        """Write a shard. It is complete, and survives a loss of power, when this returns.

        Raises:
            Gpt2rtError: it can't be written; then nothing is left of it.
        """
        self._write(os.path.join(self._shards, self._name(number)), content)

    def _write(self, path: str, content: bytes) -> None:
        # Unfinished files lie in the job's folder, which has few others to look through.
        with self._saying(path), _finished(os.path.join(self.path, os.path.basename(path)), path) as file:
            file.write(content)

    def has(self, path: str) -> bool:
        """Whether a path is that of the manifest or of a shard, or of something next to the shards."""
        path = os.path.realpath(path)
        if path == os.path.realpath(os.path.join(self.path, MANIFEST)):
            return True
        return os.path.dirname(path) == os.path.realpath(self._shards)

    def merge(self, target: str, n_rows: int, shard_size: int, *, force: bool) -> None:
        """Join all shards, in the order of the input, into a file; - is standard output.

        Args:
            force: replace a file with other content.

        Raises:
            UsageError: the file exists. Gpt2rtError: a shard is missing or damaged, or the file can't be written; then
            nothing is left of it. OSError: standard output can't be written.
        """
        blocks = self._joined(n_rows, shard_size)
        if target == "-":
            for block in blocks:
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
            return

        def check(part: str) -> None:
            if not force and os.path.lexists(target) and not filecmp.cmp(part, target, shallow=False):
                raise UsageError(f"{target}: it exists already, with other content (--force replaces it)")

        with self._saying(target), _finished(target, target, check) as file:
            for block in blocks:
                file.write(block)

    def _joined(self, n_rows: int, shard_size: int) -> Iterator[bytes]:
        """Yield the content of all shards, after a look at each line: a file may have been cut or edited."""
        for begin in range(0, n_rows, shard_size):
            path = os.path.join(self._shards, self._name(begin // shard_size))
            with self._saying(path), open_regular(path) as shard:
                n_lines, expected = 0, min(shard_size, n_rows - begin)
                for n_lines, line in enumerate(shard, 1):
                    starts = b'{"row": %d, ' % (begin + n_lines - 1), b'{"id": "batch_req_'
                    if not (line.startswith(starts) and line.endswith(b"}\n")):
                        raise _damaged(path, f"line {n_lines} is not the answer to its row")
                if n_lines != expected:
                    raise _damaged(path, f"{n_lines} rows, expected {expected}")
                shard.seek(0)
                while block := shard.read(1 << 20):
                    yield block


def _damaged(path: str, what: str) -> Gpt2rtError:
    return Gpt2rtError(f"{path}: {what} (delete it, and run the job again)")


@contextlib.contextmanager
def _finished(unfinished: str, path: str, check: Callable[[str], None] | None = None) -> Iterator[IO[bytes]]:
    """Write a file that gets its name once all of it is on the disk, and `check` has not raised."""
    with replaced(path, unfinished=unfinished, check=check) as file:
        yield file
    sync_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def _only_one(folder: str) -> Iterator[None]:
    """Let one process at a time do something with a folder, where there are locks."""
    if sys.platform == "win32":
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (name, value there, value here) for what differs between two manifests."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*here, *there)):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield name, f"{json.dumps(there):.80}", f"{json.dumps(here):.80}"
