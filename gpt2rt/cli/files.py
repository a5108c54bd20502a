"""Files that a user names on the command line or in a chat, and standard input.

A byte order mark at the beginning is no text. `prepare_streams` has made standard input drop it.
"""

from __future__ import annotations

import os
import sys

from gpt2rt.errors import UsageError


def read_text(path: str) -> str:
    r"""Return the text of a UTF-8 file with \n as its line ends; - is standard input. Raises UsageError."""
    try:
        if path == "-":
            return sys.stdin.read().replace("\r\n", "\n")
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read().replace("\r\n", "\n")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
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
            return file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise UsageError(f"{path}: can't be read as UTF-8 text: {getattr(error, 'strerror', None) or error}") from None


def read_line() -> str:
    r"""Return the next line of standard input, with \n as its end; "" at the end of the input."""
    line = sys.stdin.readline()
    return line[:-2] + "\n" if line.endswith("\r\n") else line


def named_file(path: str, command: str) -> str:
    """Return the path that was typed after a chat command. Raises UsageError if there is none."""
    if not path:
        raise UsageError(f"{command}: expected the name of a file")
    return os.path.expanduser(path)
