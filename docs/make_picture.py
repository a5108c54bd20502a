"""Draw docs/chat.svg, a chat with the bundled model in a terminal, after each new model: python docs/make_picture.py"""

import fcntl
import os
import pathlib
import pty
import re
import struct
import sys
import termios

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

PICTURE = pathlib.Path(__file__).with_name("chat.svg")
SEED = 1
WIDTH, HEIGHT = 80, 40  # columns, rows
PROMPT = b"User: \x1b[0m"  # its end, after the color
MESSAGES = [
    "Hello!",
    "I'm Anna. Who are you?",
    "What can you do?",
    "Tell me a joke.",
    "I'm a bit sad today.",
    "My dog is ill.",
    "What is my name?",
    "/exit",
]

# Background, text, then black, red, green, yellow, blue, magenta, cyan and white; bold text has the same colors.
LIGHT = TerminalTheme(
    (255, 255, 255),
    (36, 41, 47),
    [
        (36, 41, 47),
        (207, 34, 46),
        (17, 99, 41),
        (77, 45, 0),
        (9, 105, 218),
        (130, 80, 223),
        (5, 92, 110),
        (110, 119, 129),
    ],
)
DARK = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
)


def talk():
    """Return what is on the screen after a chat, with its colors."""
    command = [os.path.join(os.path.dirname(sys.executable), "gpt2rt"), "chat", "--seed", str(SEED)]
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CLICOLOR")}
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        # None of the user's settings and history.
        state = {"INPUTRC": os.devnull, "XDG_STATE_HOME": os.devnull}
        os.execve(command[0], command, {**environment, **state, "TERM": "xterm-256color"})
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
    text = re.sub(r"\x1b\[\?2004[hl]|\r", "", screen.decode())  # readline switches bracketed paste on and off
    return f"\x1b[1;32m$\x1b[0m gpt2rt chat\n{text[: text.rindex(MESSAGES[-1])]}"


def drawn(screen, theme):
    """Return an SVG of the screen in the colors of a theme."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        console.print(Text.from_ansi(screen))
        return console.export_svg(title="gpt2rt", theme=theme, unique_id="chat")


def main():
    screen = talk()
    svg, dark = drawn(screen, LIGHT), drawn(screen, DARK)
    # The font of rich's template is fetched from a server; the reader's own will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    # A reader who prefers dark colors gets those of the other drawing: rules go before attributes.
    rules = "\n".join(re.findall(r"^\s*\.chat-r\d+ \{.*\}$", dark, re.MULTILINE))
    background, title = DARK.background_color.hex, DARK.foreground_color.hex
    rules += f"\n.rich-terminal > rect {{ fill: {background}; stroke: #ffffff59 }}\n.chat-title {{ fill: {title} }}"
    svg = svg.replace("</style>", f"@media (prefers-color-scheme: dark) {{\n{rules}\n}}\n    </style>", 1)
    svg = svg.replace('stroke="rgba(255,255,255,0.35)"', 'stroke="#d0d7de"', 1)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
