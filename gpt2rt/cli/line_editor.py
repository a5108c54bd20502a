"""Lines that are typed at a terminal: edited, completed, kept in a history, and several of them as one message."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from gpt2rt.cli.signals import unwound_when_stopped

HISTORY_LENGTH = 1000  # messages
LINE_SEPARATOR = "\u2028"  # stands for a line break in the history's file, which has a message in each line
CONTINUED = "\\"  # at the end of a line: the message has another
CONTINUATION_PROMPT = "... "

KEYS_EVERYWHERE = rf"{CONTINUED} at the end of a line adds a line to the message."
KEYS_COMPLETION = "Tab completes commands, settings and file names."
KEYS_GNU = rf"""Alt-Enter or {CONTINUED} at the end of a line adds a line to the message; pasted lines are one message.
{KEYS_COMPLETION}"""

Completer = Callable[[str], list[str]]


def history_path() -> str:
    """Return the path of the file of the lines typed, in the user's folder for such state."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "gpt2rt", "history")


class LineEditor:
    """Reads messages at a terminal, with readline where Python has it.

    Attributes:
        keys: what its keys do, for a help text.
    """

    def __init__(self, complete: Completer):
        """
        Args:
            complete: called with a line up to the cursor; returns the lines that it may become.
        """
        self._complete = complete
        self._has_readline = False
        self._found: list[str] = []
        self.keys = KEYS_EVERYWHERE

    def read(self, prompt: str, prompt_color: str) -> str:
        """Return a message, with line breaks if it has several lines.

        Args:
            prompt: text. prompt_color: the escape sequence of its color, or "".

        Raises:
            EOFError: Ctrl-D in the first line. KeyboardInterrupt: Ctrl-C.
        """
        n_before = self._history_length()
        message = input(self._colored(prompt, prompt_color))
        if not message.endswith(CONTINUED):
            return message
        while message.endswith(CONTINUED):
            message = f"{message[:-1]}\n{self._next_line()}"
        self._make_one_in_history(n_before, message)
        return message

    def _next_line(self) -> str:
        """Return the next line of a message, "" if Ctrl-D ends it."""
        try:
            return input(CONTINUATION_PROMPT)
        except EOFError:
            print()
            return ""

    def _history_length(self) -> int:
        if not self._has_readline:
            return 0
        import readline

        return readline.get_current_history_length()

    def _make_one_in_history(self, n_before: int, message: str) -> None:
        """Put a message in place of its lines, which are all but the first `n_before`."""
        if self._has_readline:
            import readline

            for position in reversed(range(n_before, self._history_length())):
                readline.remove_history_item(position)
            readline.add_history(message)

    def _colored(self, prompt: str, color: str) -> str:
        if not color:
            return prompt
        begin, end = ("\001", "\002") if self._has_readline else ("", "")  # readline doesn't count what is between
        return f"{begin}{color}{end}{prompt}{begin}\033[0m{end}"

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Give `input` line editing, completion and the history of earlier chats, where the system has that.

        A history that can't be read or written is none; a chat does not fail for it.
        """
        try:
            import readline
        except ImportError:  # Windows: the console edits lines
            yield
            return
        self._has_readline = True
        readline.set_completer_delims(" \t")
        readline.set_completer(self._completion)
        if "libedit" in (readline.__doc__ or ""):
            readline.parse_and_bind("bind ^I rl_complete")
            self.keys = f"{KEYS_EVERYWHERE} {KEYS_COMPLETION}"
        else:
            readline.parse_and_bind("tab: complete")
            if os.environ.get("TERM", "dumb") != "dumb":
                readline.parse_and_bind("set enable-bracketed-paste on")  # which Python switches off
            for enter in ("m", "j"):
                readline.parse_and_bind(rf'"\e\C-{enter}": "\C-v\C-j"')
            self.keys = KEYS_GNU
        path = history_path()
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # what was said is nobody else's business
            readline.read_history_file(path)
        self._replace_in_history(LINE_SEPARATOR, "\n")
        readline.set_history_length(HISTORY_LENGTH)
        with unwound_when_stopped():
            try:
                yield
            finally:
                self._replace_in_history("\n", LINE_SEPARATOR)
                with contextlib.suppress(OSError):
                    readline.write_history_file(path)

    def _replace_in_history(self, old: str, new: str) -> None:
        import readline

        for position in range(self._history_length()):
            line = readline.get_history_item(position + 1)
            if line and old in line:
                with contextlib.suppress(UnicodeError):  # a locale without such a character
                    readline.replace_history_item(position, line.replace(old, new))

    def _completion(self, _word: str, state: int) -> str | None:
        """Return one of the completions of a word: what readline calls with 0, 1, 2 ... until there are no more."""
        import readline

        if state == 0:
            lines = self._complete(readline.get_line_buffer()[: readline.get_endidx()])
            self._found = [line[readline.get_begidx() :] for line in lines]
        return self._found[state] if state < len(self._found) else None


def file_completions(prefix: str) -> list[str]:
    """Return the paths that begin with a prefix; a folder's ends with a separator."""
    folder, name = os.path.split(prefix)
    try:
        found = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []
    head = prefix[: len(prefix) - len(name)]
    return [
        f"{head}{entry.name}{os.sep if entry.is_dir() else ''}"
        for entry in found
        if entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith("."))
    ]
