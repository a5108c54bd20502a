"""Unfinished files and folders, which have a name of their own until they are complete.

They are hidden and lie where the finished one will be, since renaming is atomic only within a file system. Their writer
locks them, so that the next one can tell what a killed writer has left. Where there are no locks, nothing is removed,
except on Windows, where a file that is open can't be.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys

from gpt2rt.errors import UsageError

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
