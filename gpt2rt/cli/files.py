"""Files that a user names on the command line or in a chat, and standard input.

A byte order mark at the beginning is no text. `prepare_streams` has made standard input drop it.
"""

from __future__ import annotations

import os
import stat
import sys

from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

MAX_STREAM = 1 << 28


def read_text(path: str) -> str:
    r"""Return the text of a UTF-8 file with \n as its line ends; - is standard input. Raises UsageError."""
    try:
        if path == "-":
            return sys.stdin.read().replace("\r\n", "\n")
        with open(path, "rb") as file:
            return _content(file, path).decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read as UTF-8 text: {getattr(error, 'strerror', None) or error}") from None


def read_any_text(path: str) -> str:
    """Return the text of a UTF-8 file with its line ends unchanged; .xz is unpacked, - is standard input.

    Raises:
        UsageError: the file can't be read, or is not such a text.
    """
    import lzma

    try:
        if path == "-":
            return sys.stdin.buffer.read().decode("utf-8-sig")
        with lzma.open(path) if path.endswith(".xz") else open(path, "rb") as file:
            return _content(file, path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UsageError:
        raise
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise UsageError(f"{path}: can't be read as UTF-8 text: {getattr(error, 'strerror', None) or error}") from None


def _content(file: IO[bytes], path: str) -> bytes:
    """Return the content of a file; of one that may have no end, or is packed, at most MAX_STREAM bytes.

    A pipe is read as standard input is: shells make one for <(command).
    """
    if stat.S_ISREG(os.stat(path).st_mode) and not path.endswith(".xz"):
        return file.read()
    content = file.read(MAX_STREAM + 1)
    if len(content) > MAX_STREAM:
        raise UsageError(f"{path}: more than {MAX_STREAM} bytes, expected a text")
    return content


def read_line() -> str:
    r"""Return the next line of standard input, with \n as its end; "" at the end of the input."""
    line = sys.stdin.readline()
    return line[:-2] + "\n" if line.endswith("\r\n") else line


def named_file(path: str, command: str) -> str:
    """Return the path that was typed after a chat command. Raises UsageError if there is none."""
    if not path:
        raise UsageError(f"{command}: expected the name of a file")
    return os.path.expanduser(path)
