"""A chat at a terminal: what it prints, its colors, its lines and its keys."""

import json
import sys

import pytest
from demo import demo_model
from random_models import random_tensors, write_model
from terminal import ESCAPES, Terminal

from gpt2rt.chat import Conversation
from gpt2rt.modelfile import Hyperparameters

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

CAPABLE = {"TERM": "xterm"}  # of colors and of pasting
GREEN_USER, CYAN_BOT = "\x1b[1;32mUser: \x1b[0m", "\x1b[1;36mBot: \x1b[0m"


@pytest.fixture
def start(tmp_path):
    """start(*arguments, columns=0, **environment) -> a Terminal with a chat in it."""
    demo_model()
    started = []

    def call(*arguments, **options):
        started.append(Terminal(tmp_path, list(map(str, arguments)), **options))
        return started[-1]

    yield call
    for terminal in started:
        terminal.close()


@pytest.fixture
def chat(start):
    """chat(*arguments, ...) -> a Terminal with a chat of seed 1 that waits for its first message."""

    def call(*arguments, **options):
        terminal = start("--seed", "1", *arguments, **options)
        terminal.read_to("User: ")
        return terminal

    return call


@pytest.fixture
def gnu_readline():
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("this Python has libedit, not GNU readline")


def messages(terminal, folder):
    """The messages that were said, which are read from a saved conversation."""
    path = folder / "saved.json"
    terminal.type(f"/save {path}\n")
    terminal.read_to("(saved ")
    terminal.read_to("\n")
    return [turn["user"] for turn in json.loads(path.read_text("utf-8"))["turns"]]


# --- beginning and end


def test_a_chat_opens_with_what_it_is_and_how_to_leave_and_ctrl_d_leaves(start):
    terminal = start("--seed", "1")
    opening = terminal.read_to("User: ")
    assert "a GPT-2 of 21.1 million parameters" in opening
    assert "Ctrl-D or /exit leaves" in opening
    assert "run gpt2rt chat 124M" in opening
    assert terminal.say("Hello!")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_the_names_of_a_scene_are_explained(start, tmp_path):
    h = Hyperparameters(n_vocab=256, n_ctx=512, n_embd=32, n_head=2, n_layer=1)
    model = write_model(tmp_path / "random.bin", h, random_tensors(h))
    opening = start(model).read_to("Sam: ")
    assert "It was not trained to chat, so it continues a scene in which you are Sam and it is Emma (" in opening
    opening = start(model, "--user-name", "Al").read_to("Al: ")
    assert "in which you are Al and it is Emma (" in opening


@pytest.mark.parametrize("command", ["/exit", "/quit", " /EXIT "])
def test_commands_leave(chat, command):
    terminal = chat()
    terminal.type(f"{command}\n")
    assert terminal.exit_code() == 0


@pytest.mark.parametrize(("first", "second"), [("exit", "exit"), ("Quit", "exit")])
def test_a_bare_exit_leaves_when_it_is_repeated(chat, first, second):
    terminal = chat()
    terminal.type(f"{first}\n")
    assert f"(type /exit to leave, or {first} once more)" in terminal.read_to("\nUser: ")
    terminal.type(f"{second}\n")
    assert terminal.exit_code() == 0


def test_a_bare_help_is_answered_after_a_hint(chat, tmp_path):
    terminal = chat()
    terminal.type("help\n")
    assert "(/help lists the commands)" in terminal.read_to("\nUser: ")
    assert messages(terminal, tmp_path) == ["help"]


def test_a_message_between_two_exits_is_answered(chat, tmp_path):
    terminal = chat()
    for line in ("exit\n", "Hello!\n", "exit\n"):
        terminal.type(line)
        terminal.read_to("\nUser: ")
    assert messages(terminal, tmp_path) == ["Hello!"]


def test_ctrl_c_at_the_prompt_says_how_to_leave(chat):
    terminal = chat()
    # Python's readline may sleep on over a signal that comes just before it waits; the empty line wakes it.
    terminal.type("\x03")
    terminal.type("\n")
    assert "(Ctrl-D or /exit leaves)" in terminal.read_to("User: ")
    terminal.type("/exit\n")
    assert terminal.exit_code() == 0


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(start, tmp_path):
    h = Hyperparameters(n_vocab=256, n_ctx=1024, n_embd=512, n_head=8, n_layer=8)  # slow: there is time to stop it
    model = write_model(tmp_path / "slow.bin", h, random_tensors(h, scale=0.1), "int8")
    terminal = start(model, "--format", "raw", "-n", "1024", "--seed", "1", "--threads", "1")
    terminal.read_to("> ")
    terminal.type("abc\n")
    terminal.read_to("abc\n")  # the echo
    terminal.read_more()
    terminal.type("\x03")
    terminal.read_to("\n> ")
    terminal.type("/stats\n")
    assert "1 turn, 0 dropped" in terminal.read_to("seed      1")
    terminal.read_to("> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


# --- colors


def test_names_are_in_color(start):
    terminal = start("--seed", "1", **CAPABLE)
    terminal.read_to(GREEN_USER)
    terminal.type("Hello!\n")
    terminal.read_to(CYAN_BOT)
    assert ESCAPES.sub("", terminal.read_to(GREEN_USER)).endswith("\nUser: ")


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"NO_COLOR": "1", **CAPABLE}, {"CLICOLOR": "0", **CAPABLE}], ids=str
)
def test_the_environment_can_forbid_colors(chat, environment):
    terminal = chat(**environment)
    terminal.type("Hello!\n")
    terminal.read_to("\nBot: ")
    assert "\x1b[1;3" not in terminal.read_to("User: ")


# --- lines


def test_answers_are_wrapped_between_words_at_the_width_of_the_window(chat):
    terminal = chat(columns=20)
    expected = Conversation(demo_model(), seed=1)
    for message in ("Hello!", "What do you do?"):
        answer = terminal.say(message)
        assert answer.replace("\n", " ") == expected.say(message).text
        assert max(map(len, f"Bot: {answer}".splitlines())) <= 20
    assert "\n" in answer


def test_the_next_answer_has_the_new_width_of_the_window(chat):
    terminal = chat(columns=12)
    assert "\n" in terminal.say("What do you like to do at home?")
    terminal.resize(200)
    assert "\n" not in terminal.say("What else?")


def test_the_greeting_is_wrapped_too(start):
    greeting = start("--seed", "1", columns=40).read_to("User: ")
    assert max(map(len, greeting.splitlines())) <= 40


def test_raw_text_has_its_own_line_breaks_only(start):
    terminal = start("--seed", "1", "--format", "raw", "-n", "60", columns=200)
    terminal.read_to("> ")
    terminal.resize(20)
    terminal.type("Once\n")
    terminal.read_to("Once\n")
    expected = Conversation(demo_model(), format="raw", seed=1, max_tokens=60).say("Once").text
    assert terminal.read_to("\n> ").removesuffix("\n> ") == expected


# --- keys


@pytest.mark.usefixtures("gnu_readline")
@pytest.mark.parametrize(
    "keys",
    ["\x1b[200~first\rsecond\x1b[201~\r", "\x1b[200~first\nsecond\n\x1b[201~\r", "first\x1b\rsecond\r"],
    ids=["pasted", "pasted with an end", "Alt-Enter"],
)
def test_several_lines_are_one_message(chat, tmp_path, keys):
    terminal = chat(**CAPABLE)
    terminal.type(keys)
    terminal.read_to("Bot: ")
    terminal.read_to("User: ")
    assert messages(terminal, tmp_path) == ["first second"]


def test_a_backslash_at_the_end_of_a_line_continues_the_message(chat, tmp_path):
    terminal = chat()
    terminal.type("first\\\n")
    terminal.read_to("... ")
    terminal.type("second\n")
    terminal.read_to("\nUser: ")
    assert messages(terminal, tmp_path) == ["first second"]


def test_raw_messages_keep_their_lines(start, tmp_path):
    terminal = start("--seed", "1", "--format", "raw", "-n", "5")
    terminal.read_to("> ")
    terminal.type("first\\\n")
    terminal.read_to("... ")
    terminal.type("  second\n")
    terminal.read_to("\n> ")
    assert messages(terminal, tmp_path) == ["first\n  second"]


@pytest.mark.usefixtures("gnu_readline")
def test_pasted_lines_are_no_commands(chat, tmp_path):
    terminal = chat(**CAPABLE)
    terminal.type("\x1b[200~/usr/bin\r/exit\x1b[201~\r")
    terminal.read_to("Bot: ")
    terminal.read_to("User: ")
    assert messages(terminal, tmp_path) == ["/usr/bin /exit"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [("/ret\t\n", "retry: there is no answer yet"), ("/set tem\t0.5\n", "(temperature is now 0.5)")],
)
def test_tab_completes_commands_and_settings(chat, keys, expected):
    pytest.importorskip("readline")
    terminal = chat()
    terminal.type(keys)
    assert expected in terminal.read_to("\nUser: ")


def test_tab_completes_names_of_files(chat, tmp_path):
    pytest.importorskip("readline")
    (tmp_path / "a talk with spaces.json").write_text("{}")
    terminal = chat()
    terminal.type(f"/load {tmp_path}/a talk w\t\n")
    assert "a talk with spaces.json: not a transcript" in terminal.read_to("\nUser: ")


def test_the_history_is_kept_for_the_next_chat(chat, tmp_path):
    pytest.importorskip("readline")
    terminal = chat()
    terminal.say("I like trains.")
    terminal.type("one\\\n")
    terminal.read_to("... ")
    terminal.type("two\n")
    terminal.read_to("\nUser: ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    history = tmp_path / "state" / "gpt2rt" / "history"
    assert history.read_text("utf-8").splitlines(keepends=True)[-1].endswith("\n")
    assert history.stat().st_mode & 0o077 == 0
    terminal = chat()
    terminal.type("\x1b[A\n")  # the arrow up
    terminal.read_to("Bot: ")
    terminal.read_to("\nUser: ")
    assert messages(terminal, tmp_path) == ["one two"]


def test_help_lists_commands_and_keys(chat):
    terminal = chat()
    terminal.type("/?\n")
    shown = terminal.read_to("\nUser: ")
    assert "/exit, /quit       leave" in shown
    assert "\\ at the end of a line adds a line to the message" in shown


def test_a_setting_is_shown_with_its_default(chat):
    terminal = chat("--temperature", "0.9")
    terminal.type("/set\n")
    shown = terminal.read_to("\nUser: ")
    assert "temperature           0.9     changed; default 0.7\n" in shown
    assert "top_p                 0.9     default\n" in shown
    terminal.type("/set top_p\n")
    assert "Sample from the most likely tokens that together have probability X; 1 for all." in terminal.read_to(
        "\nUser: "
    )
