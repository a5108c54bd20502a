"""Signals from outside: Ctrl-C while a command starts or ends; the end of a chat by a signal keeps what was typed."""

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


# Sends itself Ctrl-C when it enters a function of this name, outside of the command.
INTERRUPTED_IN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import gpt2rt.__main__
name = sys.argv.pop(1)

def trace(frame, event, argument):
    if frame.f_code.co_name == name:
        sys.settrace(None)
        os.kill(os.getpid(), signal.SIGINT)

sys.settrace(trace)
gpt2rt.__main__.main()
"""


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("prepare_streams", ["tokenize", "Hello!"]),
        ("complain", ["tokenise"]),
        ("_shutdown", ["tokenize", "Hello!"]),  # of threading: what Python does first at its end
        ("_shutdown", ["tokenise"]),
    ],
)
def test_ctrl_c_where_nobody_catches_it_ends_without_a_word(function, arguments):
    demo_model()
    command = [sys.executable, "-c", INTERRUPTED_IN, function, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGINT
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


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


# --- what is written by a chat


SAVING = """
import os, signal, sys
import gpt2rt.__main__

def trace(frame, event, argument):
    if frame.f_code.co_name == "save_transcript":
        return within
    return None

def within(frame, event, argument):
    if event == "line" and any(name.endswith(".part") for name in os.listdir()):
        sys.settrace(None)
        os.kill(os.getpid(), int(number))
    return within

number = sys.argv.pop(1)
sys.settrace(trace)
gpt2rt.__main__.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_chat_is_saved_leaves_nothing(tmp_path, number):
    demo_model()
    command = [sys.executable, "-c", SAVING, str(int(number)), "chat", "-n", "1"]
    typed = "Hello!\n/save x.json\n/quit\n"
    done = subprocess.run(command, input=typed, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert os.listdir(tmp_path) == []
    assert done.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in done.stderr


# --- what Python does with exceptions while it loads modules


LOADING = """
import os, signal, sys, time
from gpt2rt.cli.signals import Stopped, {context}
MODULES = ["csv", "_csv"]

def trace(frame, event, argument):
    global left
    left -= frame.f_code.co_filename.startswith("<frozen importlib")
    if left == 0:
        sys.settrace(None)
        os.kill(os.getpid(), {number})

def is_loaded():
    return "csv" in sys.modules

for moment in range(1, 1000):
    for name in MODULES:
        sys.modules.pop(name, None)
    left = moment
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
    try:
        with {context}():
            sys.settrace(trace)
            try:
                import csv
                sys.settrace(None)
                end = time.monotonic() + 20
                while left <= 0 and time.monotonic() < end:
                    pass
            finally:
                sys.settrace(None)
                assert is_loaded(), moment
        assert left > 0, moment
        break
    except (KeyboardInterrupt, Stopped):
        pass
print(moment)
"""


@pytest.mark.parametrize(
    ("context", "number"),
    [("interruptible", signal.SIGINT), ("undone_when_stopped", signal.SIGINT), ("undone_when_stopped", signal.SIGTERM)],
)
def test_a_signal_while_a_module_is_loaded_waits_until_it_is(context, number):
    code = LOADING.format(context=context, number=int(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout) > 20
