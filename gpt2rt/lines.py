"""Lines of text files and of standard input."""

from __future__ import annotations


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text, without their ends.

    A line ends with \n or \r\n alone: `str.splitlines` also breaks at form feeds, U+0085, U+2028 and others, which are
    characters of a text like any other.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines
