"""Files that a user names on the command line or in a chat."""

from __future__ import annotations

import os
import sys

from gpt2rt.errors import UsageError


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file. Raises UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
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
            return sys.stdin.buffer.read().decode()
        with lzma.open(path) if path.endswith(".xz") else open(path, "rb") as file:
            return file.read().decode()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise UsageError(f"{path}: can't be read as UTF-8 text: {getattr(error, 'strerror', None) or error}") from None


def named_file(path: str, command: str) -> str:
    """Return the path that was typed after a chat command. Raises UsageError if there is none."""
    if not path:
        raise UsageError(f"{command}: expected the name of a file")
    return os.path.expanduser(path)
