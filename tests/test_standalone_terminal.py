"""The standalone program at a terminal: what it prints, its keys, and what can't reach the screen."""

import sys

import pytest
from demo import DEMO, demo_model
from random_models import random_tensors, write_model
from standalone import program
from terminal import ESCAPES, Terminal

from gpt2rt.modelfile import Hyperparameters

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

BACK_TO_PROMPT = "User: "


@pytest.fixture
def start(tmp_path):
    """start(*arguments, columns=80) -> a Terminal with the program in it."""
    demo_model()
    started = []

    def call(*arguments, columns=80, term="dumb"):
        line = list(map(str, arguments))
        started.append(Terminal(tmp_path, line, columns=columns, program=program(), TERM=term))
        return started[-1]

    yield call
    for terminal in started:
        terminal.close()


def test_it_opens_with_what_it_is_and_how_to_leave_and_ctrl_d_leaves(start):
    terminal = start(DEMO, "--seed", 1)
    opening = terminal.read_to(BACK_TO_PROMPT)
    assert "a GPT-2 of 21.1 million parameters (seed 1)" in opening.replace("\n", " ")
    assert "Ctrl-D or /exit leaves" in opening
    terminal.type("Hello!\n")
    assert terminal.read_to("Bot: ")
    assert terminal.read_to(BACK_TO_PROMPT).strip()
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_ctrl_c_stops_an_answer_and_keeps_the_talk(start, tmp_path):
    """Of a model that never ends by itself."""
    h = Hyperparameters(n_vocab=256, n_ctx=4096, n_embd=128, n_head=2, n_layer=4)
    path = write_model(tmp_path / "long.bin", h, random_tensors(h), chat={"format": "raw"})
    terminal = start(path, "--seed", 1, "-n", 4000)
    terminal.read_to("> ")
    terminal.type("Go on.\n")
    terminal.read_to("Go on.")
    while len(terminal.text) < 50:
        assert terminal.read_more()
    terminal.type("\x03")
    terminal.read_to("\n> ")
    terminal.type("/stats\n")
    assert "1 turn, 0 dropped" in terminal.read_to("answer ")
    terminal.type("/exit\n")
    assert terminal.exit_code() == 0


def test_a_bare_exit_leaves_when_it_is_repeated(start):
    terminal = start(DEMO, "--seed", 1)
    terminal.read_to(BACK_TO_PROMPT)
    terminal.type("exit\n")
    terminal.read_to("(type /exit to leave, or exit once more)")
    terminal.read_to(BACK_TO_PROMPT)
    terminal.type("exit\n")
    assert terminal.exit_code() == 0


def test_answers_are_wrapped_between_words(start):
    terminal = start(DEMO, "--seed", 3, columns=30)
    terminal.read_to(BACK_TO_PROMPT)
    terminal.type("Hello there, how are you today?\n")
    terminal.read_to("Bot: ")
    answer = "Bot: " + terminal.read_to(BACK_TO_PROMPT).removesuffix(BACK_TO_PROMPT)
    lines = answer.strip().split("\n")
    assert len(lines) > 1
    assert all(len(line) <= 30 for line in lines)
    plain = start(DEMO, "--seed", 3, columns=1000)
    plain.read_to(BACK_TO_PROMPT)
    plain.type("Hello there, how are you today?\n")
    plain.read_to("Bot: ")
    assert "Bot: " + plain.read_to("\n").strip() == " ".join(lines)


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(start, tmp_path):
    """Of a model whose tokens are all bytes: every control character comes up."""
    h = Hyperparameters(n_vocab=256, n_ctx=512, n_embd=16, n_head=2, n_layer=1)
    path = write_model(tmp_path / "bytes.bin", h, random_tensors(h), chat={"format": "raw"})
    terminal = start(path, "--seed", 1, "-n", 400, "--temperature", 100, "--top-k", 0, "--top-p", 1)
    terminal.read_to("> ")
    terminal.type("Go\n")
    terminal.read_to("Go")
    answer = terminal.read_to("\n> ")
    assert answer.count("\ufffd") > 50
    assert not set(answer) & {chr(i) for i in (*range(9), *range(11, 32), *range(127, 160))}


def test_a_paste_of_several_lines_is_one_message(start):
    terminal = start(DEMO, "--seed", 1, term="xterm")
    terminal.read_to("User: ")
    terminal.type("\x1b[200~First line.\nSecond line.\x1b[201~\r")
    terminal.read_to("Bot: ")
    terminal.read_to("User: ")
    terminal.type("/stats\r")
    assert "1 turn, 0 dropped" in ESCAPES.sub("", terminal.read_to("answer "))
