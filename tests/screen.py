"""Screen: what a terminal shows after the bytes that a program wrote."""

import re
import unicodedata

TOKEN = re.compile(r"\x1b\[\?2004[hl]|\x1b\[([0-9;]*)([AHJm])|[\r\n]|[^\x00-\x1f\x7f-\x9f]")
INCOMPLETE = re.compile(r"\x1b(\[[?0-9;]*)?\Z")


def columns_of(char):
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Screen:
    """Knows only what a line editor needs to write; anything else, as a raw control character, fails the test."""

    def __init__(self, columns, rows):
        self.columns, self.n_rows = columns, rows
        self.rows = [self.empty_row() for _ in range(rows)]
        self.scrolled = []  # rows that left at the top
        self.row = self.column = 0  # column == columns: the next character begins a row
        self.rest = ""

    def empty_row(self):
        return [" "] * self.columns

    def text(self):
        """Return all rows, also those that left, without the spaces at their ends."""
        return "\n".join("".join(row).rstrip() for row in self.scrolled + self.rows).rstrip("\n")

    def visible(self):
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip("\n")

    def feed(self, text):
        text, self.rest = self.rest + text, ""
        at = 0
        while at < len(text):
            if INCOMPLETE.match(text, at):
                self.rest = text[at:]
                return
            token = TOKEN.match(text, at)
            assert token, f"wrote {text[at : at + 8]!r}"
            at = token.end()
            if token[2]:
                self.control(token[2], int(token[1] or 0) if token[2] != "m" else 0)
            elif token[0] == "\r":
                self.column = 0
            elif token[0] == "\n":
                self.next_row()
            elif len(token[0]) == 1:
                self.put(token[0])

    def control(self, kind, number):
        if kind == "A":
            self.row = max(0, self.row - max(1, number))
        elif kind == "H":
            self.row = self.column = 0
        elif kind == "J":
            column = min(self.column, self.columns)
            self.rows[self.row][column:] = [" "] * (self.columns - column)
            self.rows[self.row + 1 :] = [self.empty_row() for _ in self.rows[self.row + 1 :]]

    def next_row(self):
        self.row += 1
        if self.row == self.n_rows:
            self.scrolled.append(self.rows.pop(0))
            self.rows.append(self.empty_row())
            self.row -= 1

    def put(self, char):
        width = columns_of(char)
        if not width:
            cell = self.column - 1
            while cell and not self.rows[self.row][cell]:
                cell -= 1
            if char not in self.rows[self.row][cell]:  # it is written again when the cursor is put in place
                self.rows[self.row][cell] += char
            return
        if self.column + width > self.columns:
            self.column = 0
            self.next_row()
        self.rows[self.row][self.column : self.column + width] = [char] + [""] * (width - 1)
        self.column += width
