"""gpt2rt explain and /why: what they print, as text, as JSON and at a terminal."""

import functools
import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from demo import DEMO, demo_model
from random_models import random_tensors, write_model
from scripts import run
from terminal import Terminal

from gpt2rt.modelfile import Hyperparameters

TEXT = "The cat sat on the"
LEFT, DOWN, ENTER = "\x1b[D", "\x1b[B", "\n"


@pytest.fixture
def cli(cli):
    """Runs `gpt2rt explain` in this process: cli(*arguments, typed="") -> (exit code, stdout, stderr)."""
    demo_model()
    return functools.partial(cli, "explain")


@pytest.fixture
def terminal(tmp_path):
    """Opens `gpt2rt explain` at a terminal: terminal(*arguments)."""
    if sys.platform == "win32":
        pytest.skip("Windows has no pseudo-terminals")
    demo_model()
    opened = []

    def start(*arguments, **environment):
        opened.append(
            Terminal(tmp_path, arguments, columns=100, command="explain", **{"TERM": "xterm-256color", **environment})
        )
        return opened[-1]

    yield start
    for one in opened:
        one.close()


# --- text


def test_each_token_has_its_surprise_in_bits(cli):
    code, out, err = cli(TEXT)
    assert (code, err) == (0, "")
    score = demo_model().score(TEXT)
    bits = [f"{-logprob / math.log(2):.1f}" for logprob in score[1:]]
    assert out.splitlines()[0] == f"The[-] cat[{bits[0]}] sat[{bits[1]}] on[{bits[2]}] the<{bits[3]}>"


def test_bars_are_those_of_next(cli):
    from gpt2rt.cli.next import most_likely_next

    out = cli(TEXT)[1]
    found = most_likely_next(demo_model(), demo_model().tokenizer.encode(TEXT), 8)
    lines = out.splitlines()
    begin = lines.index("Next after ' the' (token 5 of 5):") + 1
    for line, (token, logprob) in zip(lines[begin:], found, strict=False):
        assert repr(demo_model().tokenizer.decode([token])) in line
        assert f"{math.exp(logprob):.2%}" in line


def test_the_lens_has_a_row_for_each_layer_and_ends_with_the_models_output(cli):
    lines = cli(TEXT)[1].splitlines()
    trace = demo_model().trace(TEXT)
    rows = [line for line in lines if line.startswith(("embedding", "layer "))]
    assert len(rows) == demo_model().hyperparameters.n_layer + 1
    last = repr(demo_model().tokenizer.decode([int(trace.lens.targets[-1])]))
    assert rows[-1].endswith(last)


def test_attention_of_a_head_is_printed_with_its_sink(cli):
    out = cli(TEXT, "--head", "L4.H2")[1]
    trace = demo_model().trace(TEXT)
    assert f"Attention of layer 4, head 2; {trace.sinks[4, 2]:.0%} of it goes to the first token:" in out
    most = int(np.argmax(trace.attention[4, 2, -1]))
    name = repr(demo_model().tokenizer.decode([trace.ids[most]]))
    assert f"' the' looks at: {name} {trace.attention[4, 2, -1, most]:.0%}" in out


def test_a_sampled_token_has_the_number_that_chose_it(cli):
    code, out, err = cli("My name is", "-n", "3", "--seed", "5")
    assert (code, err) == (0, "(seed 5)\n")
    step = demo_model().trace("My name is", max_tokens=3, seed=5).steps[0]
    chosen = repr(demo_model().tokenizer.decode([step.token]))
    assert (
        f"Sampled {chosen} of {step.n_candidates} candidates: the random number {step.number:.4f}"
        f" fell between {step.low:.4f} and {step.high:.4f}."
    ) in out
    assert "by the model -> as sampled" in out


def test_a_stream_without_blocks_gets_ascii():
    demo_model()
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "gpt2rt", "explain", "Grüße aus dem Café 🐈"],
        env={"PYTHONIOENCODING": "ascii", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        check=True,
    )
    assert b"#" in done.stdout
    assert done.stdout.isascii()


def test_control_characters_do_not_reach_the_terminal(cli):
    assert "\x1b" not in cli("a\x1b[31m\x07b")[1]


# --- JSON


def test_json_is_the_trace(cli):
    found = json.loads(cli(TEXT, "--json", "--head", "3.1", "-n", "2", "--seed", "1")[1])
    trace = demo_model().trace(TEXT, max_tokens=2, seed=1)
    assert found["text"] == trace.text
    assert (found["n_prompt"], found["seed"]) == (5, 1)
    assert [token["id"] for token in found["tokens"]] == trace.ids
    assert [token["logprob"] for token in found["tokens"]][1:] == trace.logprobs[1:].tolist()
    assert found["attention"]["weights"] == trace.attention[3, 1].tolist()
    assert [[cell["id"] for cell in row] for row in found["lens"]] == trace.lens.top_ids[..., 0].tolist()
    (first, _), (second, _) = trace.top(2)[:2]
    parts = found["contributions"][2]
    assert (parts["token"], parts["against"]) == (first, second)
    heads = trace.contributions(2, first, second).heads[..., 0]
    assert np.array(parts["heads"]) == pytest.approx(heads, abs=1e-3)
    assert [step["number"] for step in found["steps"]] == [step.number for step in trace.steps]
    assert sum(stage["parameters"] for stage in found["sizes"]) == demo_model().hyperparameters.n_parameters


def test_ablation_is_applied(cli):
    found = json.loads(cli(TEXT, "--json", "--ablate", "3.1", "--ablate", "2")[1])
    trace = demo_model().trace(TEXT, ablate=[(3, 1), 2])
    assert found["ablated"] == [[3, 1], [2, None]]
    assert [token["logprob"] for token in found["tokens"]][1:] == trace.logprobs[1:].tolist()


def test_a_single_token_has_no_sinks(cli):
    found = json.loads(cli(" the", "--json")[1])
    assert found["first_token_attention"][0][0] is None
    assert cli(" the")[0] == 0


# --- a terminal


def test_arrow_keys_step_and_branch(terminal):
    screen = terminal(TEXT)
    screen.read_to("token 5 of 5")
    screen.read_to(f"> {demo_model().tokenizer.decode([demo_model().trace(TEXT).top(4)[0][0]])!r}")
    screen.type(LEFT)
    screen.read_to("token 4 of 5")
    screen.type(DOWN)
    top = demo_model().trace(TEXT).top(3)
    other = repr(demo_model().tokenizer.decode([top[1][0]]))
    screen.read_to(f"> {other}")
    screen.type(ENTER)
    screen.read_to(f"Next after {other} (token 5 of 5)")
    screen.type("u")
    screen.read_to("Next after ' on' (token 4 of 5)")
    screen.type("q")
    assert screen.exit_code() == 0


def test_keys_choose_a_head_and_a_layer(terminal):
    screen = terminal(TEXT, "--head", "9.5")
    screen.read_to("Attention of layer 9, head 5")
    screen.type("h")
    screen.read_to("Attention of layer 9, head 0")
    screen.type("L")
    screen.read_to("Attention of layer 8, head 0")
    screen.type("\x1b")
    assert screen.exit_code() == 0


def test_a_surprising_token_has_a_color_and_none_with_no_color(terminal):
    screen = terminal(TEXT, "--print")
    assert screen.exit_code() == 0
    assert "\x1b[38;5;16;48;5;210m cat\x1b[0m" in screen.text
    screen = terminal(TEXT, "--print", NO_COLOR="1")
    assert screen.exit_code() == 0
    assert "\x1b" not in screen.text


def test_a_terminal_that_cannot_be_drawn_on_gets_text(terminal):
    screen = terminal(TEXT, TERM="dumb")
    assert screen.exit_code() == 0
    assert "\x1b" not in screen.text


def test_long_work_shows_progress_on_a_terminal(monkeypatch):
    class Tty(io.StringIO):
        def isatty(self):
            return True

    from gpt2rt.cli import explain

    for patience, shown in ((0.0, True), (1e9, False)):
        monkeypatch.setattr(explain, "PATIENCE", patience)
        monkeypatch.setattr(sys, "stderr", Tty())
        with explain.Progress("tracing") as progress:
            progress(5, 10)
        written = sys.stderr.getvalue()
        assert ("tracing [##########          ] 5 of 10" in written) == shown
        assert written.endswith(f"\r{' ' * len('tracing [####################] 5 of 10')}\r") == shown
        assert "\033" not in written


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([""], 2, "text: got an empty text, expected at least one token"),
        (["a " * 600], 1, "text: 601 tokens, the model has 512 positions (shorten it)"),
        ([TEXT, "--head", "3"], 2, "--head: got '3', expected a layer and a head, as in 3.1"),
        ([TEXT, "--head", "10.1"], 2, "layer 10: unknown, the model has layers 0 to 9"),
        ([TEXT, "--head", "1.6"], 2, "head 6: unknown, the model has heads 0 to 5"),
        ([TEXT, "--ablate", "x"], 2, "--ablate: got 'x', expected a layer and a head, as in 3.1"),
        ([TEXT, "-n", "-1"], 2, "max_tokens: got -1, expected a whole number from 0"),
        ([], 2, "TEXT: missing (see gpt2rt explain -h)"),
    ],
)
def test_mistakes_are_sentences(cli, arguments, code, message):
    assert cli(*arguments) == (code, "", f"gpt2rt: {message}\n")


def test_a_model_with_one_token_in_its_vocabulary_more_than_bytes_works(cli, tmp_path):
    shape = Hyperparameters(n_vocab=257, n_ctx=24, n_embd=32, n_head=2, n_layer=2)
    path = write_model(tmp_path / "x.bin", shape, random_tensors(shape), "f32")
    assert cli(path, "abc")[0] == 0


# --- /why


def test_why_shows_the_probability_of_each_token_of_the_last_answer():
    demo_model()
    done = subprocess.run(
        [sys.executable, "-m", "gpt2rt", "chat", str(DEMO), "--seed", "1"],
        input="Hello!\n/why\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    answer, *lines = done.stdout.splitlines()
    conversation = demo_model().chat([{"role": "user", "content": "Hello!"}], seed=1)
    assert conversation.text == answer
    scores = demo_model().score([*conversation.prompt, *conversation.tokens])[-len(conversation.tokens) :]
    assert len(lines) == len(conversation.tokens)
    for line, token, logprob in zip(lines, conversation.tokens, scores, strict=True):
        assert line.startswith(repr(demo_model().tokenizer.decode([token])))
        assert f" {math.exp(logprob):.2%}  " in line


def test_why_needs_an_answer():
    demo_model()
    done = subprocess.run(
        [sys.executable, "-m", "gpt2rt", "chat", str(DEMO), "--seed", "1"],
        input="/why\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "gpt2rt: /why: there is no answer yet\n")


LONG = "The cat sat on the mat, and the dog sat on the cat. " * 3  # more tokens than fit a line


@pytest.mark.parametrize("columns", [40, 100])
@pytest.mark.parametrize("text", [LONG, "日本語 🐈 Grüße\n\t\x1b[2J"])
def test_a_drawn_frame_fits_the_terminal(text, columns):
    from gpt2rt.cli.explain_frame import View, frame
    from gpt2rt.cli.wrap import text_width

    trace = demo_model().trace(text)
    for rows in (12, 24, 50):
        lines = frame(View(trace, trace.n_tokens - 1, 0, 4, 2, columns, rows, colors=True))
        assert len(lines) < rows
        for line in lines:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
            assert plain.isprintable()
            assert text_width(plain) <= columns


@pytest.mark.parametrize("position", [0, 2, 3, 20, 41])
def test_a_frame_shows_the_last_tokens_up_to_the_position(position):
    from gpt2rt.cli.explain_frame import View, attention_lines, fitted, lens_lines, name_of, shade, token_lines, window

    trace = demo_model().trace(LONG)
    view = View(trace, position, 0, 4, 2, 60, 0, colors=False)
    names = [name_of(trace, token) for token in trace.ids]
    first = max(0, position - 3)  # the lens has room for four
    assert (
        lens_lines(view, 3)[1] == (" " * 11 + " ".join(fitted(names[i], 10) for i in range(first, first + 4))).rstrip()
    )

    view.columns = 30  # 15 of them are for shades: the first token's, then the last ones
    rows = attention_lines(view, 5)[1:-1]
    at = range(position + 1) if position < 15 else [0, *range(position - 13, position + 1)]
    assert [row.split("|")[0].rstrip() for row in rows] == [
        fitted(name, 11).rstrip() for name in names[max(0, position - 4) : position + 1]
    ]
    for row, queried in zip(rows[::-1], range(position, -1, -1), strict=False):
        assert row.split("|")[1] == "".join(shade(trace.attention[4, 2, queried, i]) for i in at if i <= queried)
    lines, selected = token_lines(view)
    assert "<" in lines[selected]
    for most in (1, 2, 3, 5):
        assert lines[selected] in window(lines, selected, most)
        assert len(window(lines, selected, most)) == most


# --- what it costs


def test_the_benchmark_measures_a_trace_beside_the_plain_pass():
    demo_model()
    found = json.loads(run("bench/explain.py", DEMO, "--tokens", 8, "--rounds", 1, "--json"))
    assert found["plain"] > 0
    assert found["explain"] > 0
    assert found["page"] > 10_000
    table = run("bench/explain.py", DEMO, "--tokens", 8, "--rounds", 1)
    assert "| 8 tokens | figure |" in table
