"""WordWrapper: text that is wrapped between words while it streams to a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

FIRST_UNUSUAL = "\u0300"  # all before it are one column wide, and break at spaces only
TAB = 8  # columns
OPENING, CLOSING = ("Ps", "Pi"), ("Pe", "Pf", "Po", "Pd")  # general categories of punctuation


def terminal_columns() -> int:
    """Return the width of the terminal that is standard output, 0 if it is none or does not tell."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 0


def char_width(char: str) -> int:
    """Return how many columns a printable character takes: 0 if it combines, 2 for wide East Asian ones, else 1."""
    if char < FIRST_UNUSUAL:
        return 1
    import unicodedata  # only such text needs it

    if (
        unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff"
    ):  # or a later part of a syllable
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: Iterable[str]) -> int:
    """Return how many columns a text in one line takes."""
    return sum(map(char_width, text))


def may_break(before: str, after: str) -> bool:
    """Return whether a line may break between two characters that no space separates.

    It may beside a wide one, as in Chinese and Japanese, but not so that an opening bracket ends the line or other
    punctuation begins the next one.
    """
    if before < FIRST_UNUSUAL and after < FIRST_UNUSUAL:
        return False
    if char_width(before) < 2 and char_width(after) < 2:
        return False
    from unicodedata import category

    return category(before) not in OPENING and category(after) not in CLOSING


class WordWrapper:
    """Passes text on and starts a new line before a word that does not fit.

    A word is held back until it is complete. One that is longer than a line is left to the terminal.
    """

    def __init__(self, write: Callable[[str], object], columns: int, column: int = 0):
        """
        Args:
            write: called with what is to be printed.
            columns: of a line, 0 to wrap nothing. column: where the text begins.
        """
        self._write, self._columns, self._column = write, columns, column
        self._spaces = ""
        self._word: list[str] = []  # characters: a word may be as long as the answer
        self._base = ""  # the word's last character that does not combine
        self._output = ""

    def write(self, text: str) -> None:
        """Print the text but for its last word."""
        if not self._columns:
            self._write(text)
            return
        for char in text:
            if char == "\n":
                self._end_word()
                self._output += "\n"
                self._spaces, self._column = "", 0
            elif char in " \t":
                self._end_word()
                self._spaces += char
            else:
                if char_width(char):
                    if self._base and may_break(self._base, char):
                        self._end_word()
                    self._base = char
                self._word.append(char)
        self._print()

    def end(self) -> None:
        """Print the last word."""
        self._end_word()
        self._print()

    def _print(self) -> None:
        if self._output:
            self._write(self._output)
            self._output = ""

    def _end_word(self) -> None:
        """Put the word into the output, on a new line if it needs one. Spaces where a line breaks are dropped."""
        if not self._word:
            return
        width = text_width(self._word)
        column = self._column
        for space in self._spaces:
            column += TAB - column % TAB if space == "\t" else 1
        if self._column and column + width > self._columns >= width:
            self._output += "\n"
            column = 0
        else:
            self._output += self._spaces
        self._output += "".join(self._word)
        for char in self._word if width > self._columns else ():
            column = column + char_width(char) if column + char_width(char) <= self._columns else char_width(char)
        self._column = column if width > self._columns else column + width
        self._spaces = self._base = ""
        self._word = []
