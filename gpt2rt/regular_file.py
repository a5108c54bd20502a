"""Regular files, the only ones that are read: opening a pipe may block forever, and a device may have no end.

What a user names as text on the command line may be a pipe, as standard input is; see cli/files.py.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import BufferedReader

    Path = str | os.PathLike[str]


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes.

    Raises:
        OSError: it can't be opened, or is not a regular file.
    """
    try:
        return open(path, "rb", opener=_opened)
    except ValueError as error:  # a null character in the path
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from error


def read_regular(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises OSError: as `open_regular`, or it is larger.

    A larger one is not read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most else b""
        if len(content) > size:  # something is writing it
            content += file.read(most + 1 - len(content))
        if size > most or len(content) > most:
            raise OSError(errno.EFBIG, f"{max(size, len(content))} bytes, expected at most {most}", os.fspath(path))
        return content


def _opened(path: str, flags: int) -> int:
    """Open a file as `open` asks for, after looking at it: opening some devices does something already."""
    _check(path, os.stat(path).st_mode)
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # it may have become a pipe in the meantime
    try:
        _check(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        kind = (
            "a pipe" if stat.S_ISFIFO(mode) else "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a socket"
        )
        raise OSError(errno.EINVAL, f"is {kind}, expected a regular file", path)
