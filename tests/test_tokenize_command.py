"""gpt2rt tokenize on long texts: standard input is read in parts, which changes no id and bounds the memory."""

import json
import os
import random
import subprocess
import sys

import pytest
from demo import DEMO, demo_model

LONG = 200_000  # characters, more than are read at a time
TEXTS = {
    "words": "The naïve dog's fox, 12345  jumps\n\n over\t\tit. " * (LONG // 48),
    "one_word": "a" * LONG,
    "one_word_then_many": "a" * LONG + " and more" * 10_000,
    "white_space": " \n" * LONG,
    "spaces_then_words": " " * LONG + "word " * 20_000,
    "lines": "line\n" * (LONG // 5),
    "other_white_space": "a\x1c \u3000b\xa0 c\n" * (LONG // 10),
    "random": "".join(random.Random(1).choices("ab '\n\t1!é\u3000\u4e2ds", k=LONG)),
    "short": "Hello!",
    "empty": "",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_ids_of_standard_input_are_those_of_the_whole_text(cli, name):
    ids = demo_model().tokenizer.encode(TEXTS[name])
    code, out, _ = cli("tokenize", "-", typed=TEXTS[name])
    assert (code, out) == (0, " ".join(map(str, ids)) + "\n")


@pytest.mark.parametrize("name", ["lines", "short", "empty"])
def test_json_is_one_list(cli, name):
    tokenizer = demo_model().tokenizer
    ids = tokenizer.encode(TEXTS[name])
    assert cli("tokenize", "-", "--json", typed=TEXTS[name])[1] == json.dumps(ids) + "\n"
    pieces = json.loads(cli("tokenize", "-", "--json", "--pieces", typed=TEXTS[name])[1])
    assert pieces == [{"id": token, "text": tokenizer.decode([token])} for token in ids]
    assert cli("tokenize", "-", "--pieces", typed=TEXTS[name])[1].count("\n") == len(ids)


def test_special_tokens_are_found_wherever_they_are(cli):
    tokenizer = demo_model().tokenizer
    special = tokenizer.decode([tokenizer.eos_token_ids[0]])
    text = f"some words {special}" * 10_000
    ids = tokenizer.encode(text, special=True)
    assert cli("tokenize", "-", "--special", typed=text)[1] == " ".join(map(str, ids)) + "\n"


def peak_of(content, tmp_path):
    """Return the largest number of bytes that the command has in memory."""
    path = tmp_path / "input"
    path.write_bytes(content)
    with open(path, "rb") as source, open(os.devnull, "wb") as sink:
        process = subprocess.Popen([sys.executable, "-m", "gpt2rt", "tokenize", "-"], stdin=source, stdout=sink)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no wait4 on this system")
@pytest.mark.parametrize("size", [1 << 20, pytest.param(10_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["random", "words"])
def test_the_memory_is_within_four_times_the_input(tmp_path, size, kind):
    demo_model()
    content = random.Random(1).randbytes(size) if kind == "random" else (TEXTS["words"] * 60).encode()[:size]
    assert peak_of(content, tmp_path) - peak_of(b"Hello!", tmp_path) < 4 * size


DECODE = """
import resource, sys
import gpt2rt
tokenizer = gpt2rt.open_model(sys.argv[2], n_threads=1).tokenizer
ids = [i % 1000 for i in range(int(sys.argv[1]))]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = tokenizer.decode(ids)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="memory is not measured on this system")
@pytest.mark.parametrize("n", [200_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_decoding_takes_less_memory_than_the_list_of_ids_times_four(n):
    demo_model()
    done = subprocess.run([sys.executable, "-c", DECODE, str(n), DEMO], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * 8 * n
