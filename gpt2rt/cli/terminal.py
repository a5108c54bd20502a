"""The terminal: line editing with a history, and text that can't do anything to it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

HISTORY_LENGTH = 1000  # lines

# C0 but tab and newline, DEL, and C1: a model's text must not move the cursor or change the title.
CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")


def printable(text: str) -> str:
    """The text without control characters."""
    return text.translate(CONTROLS)


def write(text: str) -> None:
    """Writes a model's text to standard output, at once; as it is where that is no terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def speed(n_tokens: int, seconds: float) -> str:
    """How fast that was; words where nothing was measured."""
    return f"{n_tokens / seconds:.1f} tokens/s" if seconds > 0 else "no time taken"


def print_table(rows: Sequence[tuple[str, ...]], as_markdown: bool) -> None:
    """Prints rows, the first of which is the head."""
    if as_markdown:
        for row in (rows[0], ("---",) * len(rows[0]), *rows[1:]):
            write(f"| {' | '.join(row)} |\n")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        write("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() + "\n")


def history_path() -> str:
    """The file of the lines typed, in the user's folder for such state."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "gpt2rt", "history")


@contextlib.contextmanager
def line_editing() -> Iterator[None]:
    """Gives `input` line editing and the history of earlier chats, where the system has that.

    A history that can't be read or written is none; a chat does not fail for it.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    path = history_path()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # what was said is nobody else's business
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LENGTH)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)
