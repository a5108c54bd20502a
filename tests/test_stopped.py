"""Signals from outside: Ctrl-C while a command starts, and the end of a chat by a signal keeps what was typed."""

import os
import signal
import subprocess
import sys

import pytest
from demo import demo_model
from terminal import Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")

# Sends itself Ctrl-C when it enters the n-th Python function after `main` began to load the command line.
INTERRUPTED = """
import _signal, os, sys
left = int(sys.argv.pop(1))
_signal.signal(_signal.SIGINT, _signal.default_int_handler)
import gpt2rt.__main__

def trace(frame, event, argument):
    global left
    if _signal.getsignal(_signal.SIGINT) is _signal.SIG_DFL or is_loaded():
        left -= 1
        if left == 0:
            sys.settrace(None)
            os.kill(os.getpid(), _signal.SIGINT)

def is_loaded():
    return hasattr(sys.modules.get("gpt2rt.cli"), "main")

sys.settrace(trace)
gpt2rt.__main__.main()
"""
MOMENTS = [1, 2, 10, 100, 500, 1500]


@pytest.mark.parametrize("moment", [*MOMENTS, *(pytest.param(n, marks=pytest.mark.slow) for n in range(200, 6000, 97))])
def test_ctrl_c_while_a_command_loads_gives_no_traceback(moment):
    demo_model()
    command = [sys.executable, "-c", INTERRUPTED, str(moment), "tokenize", "Hello!"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode in (-signal.SIGINT, 130, 0)
    assert moment > min(MOMENTS) or done.returncode == -signal.SIGINT


# --- a chat


@pytest.fixture
def chat(tmp_path):
    """A chat at a terminal that waits for its first message, and the file of what is typed."""
    demo_model()
    terminal = Terminal(tmp_path, ["--seed", "1"])
    terminal.read_to("User: ")
    yield terminal, tmp_path / "state" / "gpt2rt" / "history"
    terminal.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_chat_keeps_what_was_typed(chat, number):
    pytest.importorskip("readline")
    terminal, history = chat
    terminal.say("How are you?")
    assert terminal.end(number) == -number
    assert history.read_text().splitlines()[-1] == "How are you?"
    assert "Traceback" not in terminal.text


def test_a_closed_terminal_keeps_what_was_typed(chat):
    pytest.importorskip("readline")
    terminal, history = chat
    terminal.say("How are you?")
    os.close(terminal.master)  # as the window's button does
    terminal.process.wait(60)
    terminal.master = os.open(os.devnull, os.O_RDONLY)
    assert history.read_text().splitlines()[-1] == "How are you?"
