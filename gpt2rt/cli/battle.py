"""Battle: a blind battle at a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time

from gpt2rt.arena.battle import VOID, WORDS_PER_SECOND, Arena, Revealed, Round, Turn, ticks
from gpt2rt.arena.suggestions import SUGGESTIONS, category_of
from gpt2rt.arena.votes import Outcome
from gpt2rt.cli.files import read_line
from gpt2rt.cli.terminal import BOLD_CYAN, BOLD_GREEN, PLAIN, has_colors, printable, write
from gpt2rt.errors import Gpt2rtError
from gpt2rt.lines import lines_of

VOTES = {"a": Outcome.A, "b": Outcome.B, "t": Outcome.TIE, "x": Outcome.BAD}
LEAST_COLUMN = 34  # characters; a narrower terminal has the answers below each other
HELP = """\
Say something: A and B answer it. Say more, or vote:
  a  A is better    b  B is better    t  tie    x  both are bad
  n  next round     u  undo the vote  s  suggestions    q  leave"""


class Battle:
    """Rounds at a terminal or from a pipe, until one says to leave."""

    def __init__(self, arena: Arena, category: str | None, voter: str):
        self._arena, self._category, self._voter = arena, category, voter
        self._is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._colors = (BOLD_GREEN, BOLD_CYAN, PLAIN) if has_colors() else ("", "", "")
        self._round: Round | None = None

    def run(self) -> None:
        """Play until the end of the input, or until told to leave."""
        if self._is_interactive:
            write(f"{HELP}\n\n")
        while True:
            try:
                line = input("> ") if self._is_interactive else read_line()
                if not line and not self._is_interactive:
                    return
            except EOFError:
                return
            except KeyboardInterrupt:
                write("\n")
                return
            command = line.strip()
            try:
                if command == "q":
                    return
                self._take(command)
            except Gpt2rtError as error:
                write(f"{error}\n")

    def _take(self, command: str) -> None:
        """Do what a line says. A vote is a single letter."""
        if command in VOTES and self._round is not None and self._round.turns:
            self._vote(VOTES[command])
        elif command == "u" and self._round is not None:
            self._arena.undo(self._round)
            write("The vote is withdrawn: vote again.\n")
        elif command == "n":
            self._round = None
        elif command == "s":
            for name, prompts in SUGGESTIONS.items():
                write(f"{name}:\n" + "".join(f"  {prompt}\n" for prompt in prompts))
        elif command in ("?", "h", "help"):
            write(f"{HELP}\n")
        elif command:
            self._say(command)

    def _say(self, message: str) -> None:
        if self._round is None or self._round.state in ("voted", "void"):
            self._round = self._arena.new_round(self._category or category_of(message))
        turn = self._arena.say(self._round, message)
        if turn is None:
            self._round = None
            write(f"{VOID}\n")
            return
        self._show(turn)
        if self._round.is_identical:
            write("Both answers are the same: a vote on them does not count.\n")

    def _vote(self, outcome: Outcome) -> None:
        assert self._round is not None
        revealed = self._arena.vote(self._round, outcome, self._voter)
        self._reveal(revealed)

    def _reveal(self, revealed: Revealed) -> None:
        green, cyan, plain = self._colors
        for slot, color, one in (("A", green, revealed.a), ("B", cyan, revealed.b)):
            write(f"{color}{slot}{plain}  {one.name}  ({', '.join(one.details())})\n")
        if not revealed.counts:
            write("The answers were the same, so the vote does not count.\n")
        write("\n")

    def _show(self, turn: Turn) -> None:
        """Print both answers, side by side where there is room, at one pace."""
        green, cyan, plain = self._colors
        columns = shutil.get_terminal_size().columns
        width = (columns - 3) // 2
        if not self._is_interactive or width < LEAST_COLUMN:
            for slot, color, text in (("A", green, turn.a), ("B", cyan, turn.b)):
                write(f"{color}{slot}{plain}  {printable(text)}\n")
            return
        write(f"{green}{'A':{width}}{plain} │ {cyan}B{plain}\n")
        n_lines = 0
        a = b = ""
        for more_a, more_b in ticks(turn):
            a, b = a + more_a, b + more_b
            rows = side_by_side(printable(a), printable(b), width)
            if n_lines:
                sys.stdout.write(f"\033[{n_lines}F")
            sys.stdout.write("".join(f"\033[K{row}\n" for row in rows))
            sys.stdout.flush()
            n_lines = len(rows)
            time.sleep(1 / WORDS_PER_SECOND)


def side_by_side(a: str, b: str, width: int) -> list[str]:
    """Return the lines of two texts in columns of a width."""
    left, right = (wrapped(text, width) for text in (a, b))
    n = max(len(left), len(right))
    left += [""] * (n - len(left))
    right += [""] * (n - len(right))
    return [f"{one:{width}} │ {other}" for one, other in zip(left, right, strict=True)]


def wrapped(text: str, width: int) -> list[str]:
    """Return a text's lines, broken between words where they are too long; white space is kept."""
    found = []
    for line in lines_of(text) or [""]:
        found += textwrap.wrap(line, width, drop_whitespace=False, replace_whitespace=False, expand_tabs=True) or [""]
    return found
