"""gpt2rt explain at a terminal: keys that step through a text, and branch on another token."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

from gpt2rt.cli.explain_frame import View, cut, frame
from gpt2rt.cli.terminal import processes_escapes, sentence
from gpt2rt.errors import Gpt2rtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.explain.trace import TextTrace

    Key = Callable[[], str]

HELP = "arrows: token, choice | Enter: branch | u: undo | h H: head | l L: layer | q: quit"
OTHER_SCREEN, FIRST_SCREEN = "\033[?1049h\033[?25l", "\033[?25h\033[?1049l"
ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}
WINDOWS_ARROWS = {"H": "up", "P": "down", "M": "right", "K": "left", "G": "home", "O": "end"}


def can_read_keys() -> bool:
    """Return whether standard input and output are a terminal that can be drawn on."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    if sys.platform == "win32":
        return processes_escapes()
    return os.environ.get("TERM", "") not in ("", "dumb")


@contextlib.contextmanager
def keys() -> Iterator[Key]:
    """Yield a function that waits for a key and returns its character, or a name such as "left"; "" at the end."""
    if sys.platform == "win32":
        import msvcrt

        def windows_key() -> str:
            char = msvcrt.getwch()
            return WINDOWS_ARROWS.get(msvcrt.getwch(), "?") if char in "\0\xe0" else char

        yield windows_key
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield lambda: _key(terminal)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _key(terminal: int) -> str:
    import select

    char = os.read(terminal, 1).decode("latin-1")
    if char != "\033" or not select.select([terminal], [], [], 0.05)[0]:
        return char
    if os.read(terminal, 1) not in (b"[", b"O"):
        return "?"
    code = os.read(terminal, 1).decode("latin-1")
    while code.isdigit() or code == ";":  # with modifiers, as in \033[1;5C
        code = os.read(terminal, 1).decode("latin-1")
    return ARROWS.get(code, "?")


class Explorer:
    """A view that keys change."""

    def __init__(self, view: View, retrace: Callable[[list[int]], TextTrace]):
        """
        Args:
            retrace: returns the trace of other ids.
        """
        self.view = view
        self.retrace = retrace
        self.branches: list[View] = []  # those left by branching
        self.note = ""

    def run(self) -> None:
        """Draw and obey keys until one says to leave."""
        out = sys.stdout
        with keys() as key:
            out.write(OTHER_SCREEN)
            try:
                pressed = "?"
                while pressed not in ("q", "\033", "\x04", ""):
                    self.press(pressed)
                    self.draw()
                    pressed = key()
            finally:
                out.write(FIRST_SCREEN)
                out.flush()

    def draw(self) -> None:
        """Draw all lines again."""
        size = shutil.get_terminal_size()
        self.view = replace(self.view, columns=size.columns, rows=size.lines)
        lines = [*frame(self.view), cut(self.note or HELP, size.columns - 1)]
        sys.stdout.write("\033[H" + "\033[K\r\n".join(lines) + "\033[K\033[J")
        sys.stdout.flush()

    def press(self, key: str) -> None:
        """Obey a key; one without a meaning is ignored."""
        view, shape = self.view, self.view.trace.model.hyperparameters
        last, self.note = view.trace.n_tokens - 1, ""
        move = {"left": view.position - 1, "right": view.position + 1, "home": 0, "end": last}.get(key)
        choose = {"up": view.choice - 1, "down": view.choice + 1}.get(key)
        if move is not None:
            self.view = replace(view, position=max(0, min(move, last)), choice=0)
        elif choose is not None:
            most = min(3, len(view.trace.top(0))) if view.rows <= 22 else 5 if view.rows <= 34 else 8
            self.view = replace(view, choice=max(0, min(choose, most - 1, len(view.trace.top(0)) - 1)))
        elif key in ("\r", "\n"):
            self.branch()
        elif key in ("u", "\x7f", "\b") and self.branches:
            self.view = self.branches.pop()
        elif key in "hH":
            self.view = replace(view, head=(view.head + (1 if key == "h" else -1)) % shape.n_head)
        elif key in "lL":
            self.view = replace(view, layer=(view.layer + (1 if key == "l" else -1)) % shape.n_layer)

    def branch(self) -> None:
        """Continue the text up to the position with the chosen token, instead of what follows."""
        view = self.view
        token, _ = view.trace.top(view.position)[view.choice]
        ids = [*view.trace.ids[: view.position + 1], token]
        try:
            trace = self.retrace(ids)
        except Gpt2rtError as error:
            self.note = sentence(error)
            return
        self.branches.append(view)
        self.view = replace(view, trace=trace, position=len(ids) - 1, choice=0)
