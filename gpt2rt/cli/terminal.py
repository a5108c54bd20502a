"""The terminal: its colors, and text that can't do anything to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

BOLD_GREEN, BOLD_CYAN, PLAIN = "\033[1;32m", "\033[1;36m", "\033[0m"
# C0 but tab and newline, DEL, and C1: a model's text must not move the cursor or change the title.
MOST_SHOWN = 500  # characters of a sentence about what is wrong
CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\ufffd")


def printable(text: str) -> str:
    """Return the text with its control characters replaced."""
    return text.translate(CONTROLS)


def sentence(message: object) -> str:
    """Return a message as one line of at most MOST_SHOWN characters that can be printed; others are escaped.

    The middle of a longer one is left out, since a message begins with its subject and ends with what to do.
    """
    text = shortened(str(message))
    if not text.isprintable():
        text = shortened("".join(c if c.isprintable() else escaped(c) for c in text))
    return text


def shortened(text: str) -> str:
    """Return the beginning and the end of a text that is longer than MOST_SHOWN."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN // 2]} ... {text[5 - MOST_SHOWN // 2 :]}"


def escaped(character: str) -> str:
    """Return a character as in a literal of Python: \\x1b."""
    return character.encode("unicode_escape", "surrogatepass").decode()


def json_text(document: object, indent: int | None = None) -> str:
    """Return JSON, in which characters that can't be printed are escaped: they mean the same."""
    import json
    import re

    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return re.sub("[^\n -~]+", lambda found: "".join(map(_json_escaped, found[0])), text)


def _json_escaped(character: str) -> str:
    import json

    return character if character.isprintable() else json.dumps(character)[1:-1]


def print_json(document: object, indent: int | None = 1) -> None:
    """Print JSON to standard output."""
    import click

    click.echo(json_text(document, indent))


def write(text: str) -> None:
    """Write a model's text to standard output, at once; as it is if that is no terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def has_colors() -> bool:
    """Return whether standard output is a terminal that shows colors, and nothing in the environment forbids them."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("CLICOLOR") == "0":
        return False
    if sys.platform == "win32":
        return os.environ.get("TERM") != "dumb" and processes_escapes()
    return os.environ.get("TERM", "") not in ("", "dumb")


def processes_escapes() -> bool:
    """Make Windows' console interpret escape sequences; return whether it does."""
    if sys.platform == "win32":
        import ctypes
        import msvcrt
        from ctypes import wintypes

        console, mode = ctypes.windll.kernel32, wintypes.DWORD()
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(sys.stdout.fileno()))
        virtual_terminal_processing = 4
        return bool(
            console.GetConsoleMode(handle, ctypes.byref(mode))
            and console.SetConsoleMode(handle, mode.value | virtual_terminal_processing)
        )
    return True


def counted(n: int, noun: str) -> str:
    """Return a number with its noun in the singular or the plural."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def speed(n_tokens: int, seconds: float) -> str:
    """Return the speed as text."""
    return f"{n_tokens / seconds:.1f} tokens/s" if seconds > 0 else "not measured"


def print_table(rows: Sequence[tuple[str, ...]], as_markdown: bool) -> None:
    """Print rows; the first one is the header."""
    if as_markdown:
        for row in (rows[0], ("---",) * len(rows[0]), *rows[1:]):
            write(f"| {' | '.join(row)} |\n")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        write("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() + "\n")
