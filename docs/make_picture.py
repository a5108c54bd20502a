"""Draw docs/chat.svg, a chat with the bundled model in a terminal, after each new model: python docs/make_picture.py"""

import os
import pathlib
import pty
import re
import sys

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURE = pathlib.Path(__file__).with_name("chat.svg")
SEED = 1
WIDTH = 100  # columns
PROMPT = b"User: "
MESSAGES = [
    "Hello!",
    "I'm Anna. Who are you?",
    "What can you do?",
    "Tell me a joke.",
    "I'm a bit sad today.",
    "My dog is ill.",
    "What is my name?",
    "/quit",
]


def talk():
    """Return the lines that are on the screen after a chat."""
    command = [os.path.join(os.path.dirname(sys.executable), "gpt2rt"), "chat", "--seed", str(SEED)]
    child, terminal = pty.fork()
    if child == 0:
        # A plain terminal, and none of the user's settings for line editing.
        os.execve(command[0], command, {**os.environ, "TERM": "dumb", "INPUTRC": os.devnull})
    screen, messages = b"", iter(MESSAGES)
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # it has ended
            break
        if not piece:
            break
        screen += piece
        if screen.endswith(PROMPT):
            os.write(terminal, next(messages).encode() + b"\n")
    os.waitpid(child, 0)
    lines = screen.decode().replace("\r", "").splitlines()
    return ["$ gpt2rt chat", *lines[: -1 if lines[-1].endswith("/quit") else None]]


def main():
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        for line in talk():
            text = Text(line)
            text.highlight_regex(r"^(\$ |User: )", "bold green")
            text.highlight_regex(r"^Bot: ", "bold cyan")
            console.print(text)
        svg = console.export_svg(title="gpt2rt", theme=MONOKAI, unique_id="chat")
    # The font of rich's template is fetched from a server; the reader's own will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
