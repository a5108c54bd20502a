"""Terminal: a pseudo-terminal with tests/line_editor.c in it; not on Windows."""

import codecs
import contextlib
import os
import pty
import select
import signal
import subprocess
import termios

from screen import Screen

PATIENCE = 60  # seconds without a sign of life
PROMPT = "User: "
OK, INPUT_END, INTERRUPTED = range(3)  # LineStatus


class Terminal:
    """The program at a terminal of its own."""

    def __init__(self, program, *arguments, prompt=PROMPT, columns=80, rows=24, acts=True):
        self.master, self.slave = pty.openpty()
        os.set_blocking(self.master, False)
        termios.tcsetwinsize(self.master, (rows, columns))
        if not acts:  # on what is typed between two messages: it echoes, and Ctrl-C drops what is written
            mode = termios.tcgetattr(self.slave)
            mode[3] &= ~(termios.ECHO | termios.ISIG)
            termios.tcsetattr(self.slave, termios.TCSANOW, mode)
        self.screen = Screen(columns, rows)
        self.hold, self.text, self.decoder = None, "", codecs.getincrementaldecoder("utf-8")()
        begin, files = None, {}
        if "hold" in arguments:
            begin, self.hold = os.pipe()
            files = {"pass_fds": [3, begin]}

        def prepare():
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):  # jobs in the background may ignore them
                signal.signal(number, signal.SIG_DFL)
            if begin is not None:
                os.dup2(begin, 3)

        environment = {**os.environ, "TERM": "xterm", "ASAN_OPTIONS": "detect_leaks=1"}
        self.process = subprocess.Popen(
            [program, prompt, *arguments],
            **{"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, "env": environment},
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 (there are no other threads)
            **files,
        )
        if "hold" in arguments:
            os.close(begin)

    def read_more(self):
        assert select.select([self.master], [], [], PATIENCE)[0], f"nothing more after {self.text!r}"
        more = self.decoder.decode(os.read(self.master, 65536))
        self.screen.feed(more)
        self.text += more

    def read_to(self, marker):
        """Wait for a text that is written, and return what came before it."""
        while marker not in self.text:
            self.read_more()
        before, _, self.text = self.text.partition(marker)
        return before

    def wait_for(self, visible, row, column):
        """Wait until the screen shows these rows, and the cursor is there."""
        wanted = visible, row, column
        while (self.screen.visible(), self.screen.row, self.screen.column) != wanted:
            if not select.select([self.master], [], [], PATIENCE)[0]:
                assert (self.screen.visible(), self.screen.row, self.screen.column) == wanted
            self.read_more()

    def type(self, keys):
        """Write keys, and read meanwhile: a terminal has little room in both directions."""
        rest = keys if isinstance(keys, bytes) else keys.encode()
        while rest:
            readable, writable, _ = select.select([self.master], [self.master], [], PATIENCE)
            assert readable or writable, f"takes no keys after {self.text!r}"
            if readable:
                self.read_more()
            elif writable:
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self.master, rest[:256]) :]

    def next_message(self):
        """Return (status, text) of the next message that was read, when the one after it is being read."""
        self.read_to("<")
        status, _, text = self.read_to(">\r\n").partition(" ")
        if int(status) != INPUT_END and self.hold is None:
            self.read_to("\x1b[?2004h")  # until then, the terminal itself acts on Ctrl-D
        return int(status), text.replace("\\n", "\n").replace("\\t", "\t")

    def read(self, keys):
        """Type keys, and return the next message."""
        self.type(keys)
        return self.next_message()

    def is_cooked(self):
        flags = termios.tcgetattr(self.slave)[3]
        return bool(flags & termios.ICANON and flags & termios.ECHO and flags & termios.ISIG)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for file in (self.master, self.slave, self.hold):
            if file is not None:
                os.close(file)
