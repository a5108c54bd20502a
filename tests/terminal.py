"""A pseudo-terminal with a chat in it, for tests; every step waits for a text, never for a time."""

import os
import re
import select
import subprocess
import sys

# Makes the terminal the process' own first, so that its keys become signals.
AT_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from gpt2rt.__main__ import main
main()
"""
PROGRAM_AT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
PATIENCE = 300 if "TSAN_OPTIONS" in os.environ else 60  # seconds without a sign of life; sanitizers are slow
PASTE_MODE = re.compile(r"\x1b\[\?2004[hl]")  # readline switches bracketed paste on and off
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs `gpt2rt chat`, or another program, at a terminal of its own."""

    def __init__(self, folder, arguments, columns=0, command="chat", program=None, **environment):
        """
        Args:
            folder: for its state. command: of gpt2rt. program: the path of a program to run instead of gpt2rt.
            columns: the width, 0 for a terminal that does not tell it.
            environment: variables besides those that there are, None to take one away.
        """
        import pty  # not on Windows

        self.master, slave = pty.openpty()
        self.resize(columns)
        variables = {
            **{name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CLICOLOR")},
            **{"XDG_STATE_HOME": str(folder / "state"), "TERM": "dumb", "GPT2RT_ISA": "portable"},
            **{"INPUTRC": os.devnull, **environment},
        }
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                *([PROGRAM_AT_TERMINAL, program] if program else [AT_TERMINAL, command]),
                *arguments,
            ],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=variables,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def resize(self, columns):
        """Give the window another width."""
        import termios

        termios.tcsetwinsize(self.master, (50 if columns else 0, columns))

    def read_more(self):
        """Wait for output and add it to `text`; return False at the end."""
        assert select.select([self.master], [], [], PATIENCE)[0], f"nothing more after {self.text!r}"
        try:
            content = os.read(self.master, 4096)
        except OSError:  # Linux says so that the other side is closed
            content = b""
        self.text = PASTE_MODE.sub("", self.text + content.decode("utf-8", "replace").replace("\r", ""))
        return bool(content)

    def read_to(self, marker):
        """Return the output up to and with a marker."""
        while marker not in self.text:
            assert self.read_more(), f"the chat ended before {marker!r}: {self.text}"
        at = self.text.index(marker) + len(marker)
        found, self.text = self.text[:at], self.text[at:]
        return found

    def type(self, keys):
        os.write(self.master, keys.encode())

    def say(self, message):
        """Type a message and return the answer as it is on the screen."""
        self.type(f"{message}\n")
        self.read_to("Bot: ")
        return self.read_to("\nUser: ").removesuffix("\nUser: ")

    def exit_code(self):
        while self.read_more():
            pass
        return self.process.wait()

    def end(self, number):
        """Send signals until the chat ends; return its exit code.

        Python does not notice one that comes between its last look for signals and the wait for a key.
        """
        while True:
            self.process.send_signal(number)
            if select.select([self.master], [], [], 5)[0]:
                return self.exit_code()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
