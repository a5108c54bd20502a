"""Unfinished files and folders, which have a name of their own until they are complete.

They are hidden and lie where the finished one will be, since renaming is atomic only within a file system. Their writer
locks them, so that the next one can tell what a killed writer has left. Where there are no locks, nothing is removed,
except on Windows, where a file that is open can't be.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys

from gpt2rt.errors import ModelFileError, UsageError

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, NoReturn

if sys.platform != "win32":
    import fcntl

MOST_NAME = 200  # characters of the finished one's name, as file systems allow 255 bytes
NO_LOCK = -1


class Unfinished:
    """An unfinished file or folder of this process.

    Attributes:
        path: where it is, once `make` was called.
    """

    def __init__(self, finished: str, *, is_folder: bool = False):
        self._finished, self._is_folder = finished, is_folder
        self.path, self._lock = "", NO_LOCK

    def make(self) -> None:
        """Make it, empty, and remove those of the same name whose writer is gone.

        It is a step of its own, so that `remove` can follow an interruption at any moment.

        Raises:
            UsageError: it can't be made.
        """
        folder, name = os.path.split(self._finished)
        try:
            self._make(folder, name)
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or error
            raise UsageError(f"{folder or '.'}: can't write there: {what}") from None

    def _make(self, folder: str, name: str) -> None:
        start = f".{name[:MOST_NAME]}."
        remove_abandoned(folder, start)
        is_mine = False
        while not is_mine:  # another process may have found it, and removed it, before it was locked
            self.release()
            self.path = os.path.join(folder, f"{start}{os.urandom(4).hex()}.part")
            if self._is_folder:
                os.mkdir(self.path)
            else:
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            try:
                self._lock = _lock(self.path)
            except (FileNotFoundError, BlockingIOError):
                continue
            except OSError:  # a file system without locks
                self._lock = NO_LOCK
            is_mine = os.path.exists(self.path)

    def remove(self) -> None:
        """Remove it, as far as that is possible."""
        if self.path:
            with contextlib.suppress(OSError):
                _remove(self.path)
        self.release()

    def release(self) -> None:
        """Release its lock: it has its name, or is gone."""
        if self._lock != NO_LOCK:
            os.close(self._lock)
            self._lock = NO_LOCK


@contextlib.contextmanager
def replaced(
    path: str, *, unfinished: str | None = None, mode: int | None = None, check: Callable[[str], None] | None = None
) -> Iterator[IO[bytes]]:
    """Write a file that takes its name, and the place of one that has it, once all of it is on the disk.

    Args:
        unfinished: the name to derive that of the unfinished file from, on the same file system; None for `path`.
        mode: its permissions; None for the usual ones.
        check: called with the unfinished file's path before it gets its name; may raise.

    Raises:
        UsageError: nothing can be written in the folder. OSError: as writing and renaming do.
    """
    part = Unfinished(path if unfinished is None else unfinished)
    try:
        part.make()
        if mode is not None:
            os.chmod(part.path, mode)
        with open(part.path, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(part.path)
        os.replace(part.path, path)
    except BaseException:
        part.remove()
        raise
    part.release()


def sync_file(path: str | os.PathLike[str]) -> None:
    """Return once a file's content is on the disk. Raises OSError."""
    with open(path, "r+b") as file:  # Windows syncs no file that is only read
        os.fsync(file.fileno())


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Return once the names in a folder are on the disk; Windows and some file systems sync no folders."""
    if sys.platform != "win32":
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(opened)


def check_output(path: str, force: bool) -> None:
    """Raise UsageError if a file can't be written under this name, or exists and `force` is not set."""
    if os.path.isdir(path):
        raise UsageError(f"{path}: is a folder, expected the name of a file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: is not a regular file, expected the name of a file to write")
    if not force and os.path.lexists(path):
        refuse_to_overwrite(path)


def refuse_to_overwrite(path: str) -> NoReturn:
    """Raise UsageError."""
    raise UsageError(f"{path}: already exists (use --force to overwrite it)")


def move(temporary: str, path: str, force: bool) -> None:
    """Rename a file to its final name; without `force`, never overwrite a file created in the meantime.

    Raises:
        UsageError: there is such a file. OSError: it can't be renamed.
    """
    if force:
        os.replace(temporary, path)
        return
    try:
        if sys.platform == "win32":
            os.rename(temporary, path)  # on Windows, it never overwrites
        else:
            os.link(temporary, path)
            os.unlink(temporary)
    except FileExistsError:
        refuse_to_overwrite(path)
    except OSError:  # the file system has no hard links
        if os.path.lexists(path):
            refuse_to_overwrite(path)
        os.replace(temporary, path)


@contextlib.contextmanager
def errors_named(path: str) -> Iterator[None]:
    """Turn an OSError into the sentence that a file can't be written: a ModelFileError."""
    try:
        yield
    except OSError as error:
        hint = (
            "free some space, or write elsewhere with -o"
            if error.errno == errno.ENOSPC
            else "the incomplete file was removed"
        )
        raise ModelFileError(f"{path}: can't be written: {error.strerror or error} ({hint})") from None


def remove_abandoned(folder: str, start: str) -> None:
    """Remove what killed writers have left, as far as that is possible."""
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return
    for name in names:
        if name.startswith(start) and re.fullmatch(r"[0-9a-f]{8}\.part", name[len(start) :]):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                lock = _lock(path)
                try:
                    _remove(path)
                finally:
                    if lock != NO_LOCK:
                        os.close(lock)


def _lock(path: str) -> int:
    """Return a descriptor that holds the lock of a file or folder. Raises OSError: another process holds it."""
    if sys.platform == "win32":
        return NO_LOCK
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
