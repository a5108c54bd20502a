"""gpt2rt next: the most likely next tokens, as bars and as JSON."""

import functools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from demo import DEMO, demo_model
from random_models import random_tensors, write_model

from gpt2rt.modelfile import Hyperparameters

TEXT = "The cat sat on the"


@pytest.fixture
def cli(cli):
    """Runs `gpt2rt next` in this process: cli(*arguments, typed="") -> (exit code, stdout, stderr)."""
    demo_model()
    return functools.partial(cli, "next")


def log_probabilities(ids):
    """Those of the bundled model after these ids, by numpy."""
    sequence = demo_model().sequence()
    sequence.append(ids)
    logits = sequence.logits.astype(np.float64)
    return logits - np.logaddexp.reduce(logits)


def test_tokens_are_the_most_likely_ones_of_the_bundled_model(cli):
    code, out, err = cli(TEXT, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    expected = log_probabilities(demo_model().tokenizer.encode(TEXT))
    assert found["text"] == TEXT
    assert found["ids"] == demo_model().tokenizer.encode(TEXT)
    assert [one["id"] for one in found["next"]] == np.argsort(-expected, kind="stable")[:10].tolist()
    for one in found["next"]:
        assert one["token"] == demo_model().tokenizer.decode([one["id"]])
        assert one["logprob"] == pytest.approx(expected[one["id"]], abs=1e-5)
        assert one["probability"] == pytest.approx(math.exp(expected[one["id"]]), rel=1e-4)
    assert found["probability"] == pytest.approx(sum(one["probability"] for one in found["next"]))


def test_a_line_has_the_token_in_quotes_its_probability_and_a_bar(cli):
    code, out, err = cli(TEXT, "-n", "3")
    assert (code, err) == (0, "")
    first, second, _, blank, last = out.splitlines()
    assert first.split()[-1] == "█" * 40
    assert first.startswith("' ")
    assert "%  █" in first
    assert 0 < second.count("█") < 40
    assert blank == ""
    found = json.loads(cli(TEXT, "-n", "3", "--json")[1])
    assert last.startswith(f"These 3 tokens together have {found['probability']:.1%} of the probability; ")


def test_a_newline_is_visible(cli):
    out = cli("User: Hello!", "-n", "1")[1]
    assert out.startswith(r"'\n'  ")


def test_model_may_be_named_before_the_text(cli, tmp_path):
    shape = Hyperparameters(n_vocab=300, n_ctx=24, n_embd=32, n_head=2, n_layer=2)
    path = write_model(tmp_path / "x.bin", shape, random_tensors(shape), "f32")
    found = json.loads(cli(path, "abc", "--json")[1])
    assert found["model"] == str(path)
    assert found["ids"] == list(b"abc")
    assert json.loads(cli(DEMO, TEXT, "--json")[1])["next"] == json.loads(cli(TEXT, "--json")[1])["next"]


def test_standard_input_is_a_text(cli):
    assert cli("-", typed=f"{TEXT}\n") == cli(TEXT)


@pytest.mark.parametrize(("text", "hint"), [(TEXT, ""), (f"{TEXT} ", "(the text ends with a space; ")])
def test_a_space_at_the_end_is_pointed_out(cli, text, hint):
    code, _, err = cli(text)
    assert code == 0
    assert err.startswith(hint)
    assert bool(err) == bool(hint)


def test_an_empty_text_asks_for_the_first_token_of_a_document(cli):
    found = json.loads(cli("", "--json")[1])
    assert found["ids"] == [demo_model().tokenizer.bos_token_id]


@pytest.mark.parametrize("number", [0, 33])
def test_a_number_out_of_range_is_refused(cli, number):
    code, out, err = cli(TEXT, "-n", number)
    assert (code, out) == (2, "")
    assert err == f"gpt2rt: --number: got {number}, expected a whole number from 1 to 32\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "TEXT: missing (see gpt2rt next -h)"),
        ([DEMO], 2, "TEXT: missing (see gpt2rt next -h)"),
        (["none.bin", TEXT], 1, "none.bin: no such file (gpt2rt convert makes one from a checkpoint)"),
        (["The", "cat"], 2, 'got the 2 texts The, cat, expected one (in quotes: gpt2rt next "The cat")'),
        (["a " * 600], 1, "TEXT: 601 tokens, the model has 512 positions (shorten it)"),
    ],
)
def test_mistakes_are_sentences(cli, arguments, code, message):
    assert cli(*arguments) == (code, "", f"gpt2rt: {message}\n")


def test_a_stream_without_blocks_gets_bars_of_number_signs():
    demo_model()
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "gpt2rt", "next", TEXT, "-n", "2"],
        env={"PYTHONIOENCODING": "ascii", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        check=True,
    )
    first, *_ = done.stdout.decode("ascii").splitlines()
    assert first.endswith("  " + "#" * 40)


def test_it_starts_without_numpy():
    demo_model()
    program = (
        "import sys; from gpt2rt.cli import run; run(['next', 'Once']);"
        "print(*(name for name in ('numpy', 'json') if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "\n"
