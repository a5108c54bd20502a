"""Lines of files and of standard input end at line feeds alone, and a byte order mark is no text."""

import json
import pathlib
import subprocess
import sys

import pytest
from demo import DEMO, demo_model

from gpt2rt.lines import lines_of

ROOT = pathlib.Path(__file__).parents[1]
BOM = b"\xef\xbb\xbf"
NO_ENDS = "first\u2028still first\nsecond\x0cstill\x0b second\nthird\x85still\u2029 third\r and\x1c third\n"


def gpt2rt(*arguments, stdin=b""):
    line = [sys.executable, "-m", "gpt2rt", *map(str, arguments)]
    done = subprocess.run(line, check=False, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("a\r\n\r\nb", ["a", "", "b"]), ("a\rb\r", ["a\rb\r"])],
)
def test_a_line_ends_at_a_line_feed(text, lines):
    assert lines_of(text) == lines
    assert len(lines_of(NO_ENDS)) == 3


def test_no_text_is_split_at_other_characters():
    """`str.splitlines` and text files in universal newlines mode do that."""
    for folder in ("gpt2rt", "converter", "train", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            content = path.read_text(encoding="utf-8")
            assert ".splitlines(" not in content, path


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize("place", ["file", "stdin"])
def test_each_line_is_a_prompt(tmp_path, ends, mark, place):
    content = mark + NO_ENDS.replace("\n", ends).encode()
    (tmp_path / "p.txt").write_bytes(content)
    source = tmp_path / "p.txt" if place == "file" else "-"
    output = gpt2rt("generate", DEMO, "--prompts", source, "-n", 1, "--seed", 1, stdin=content)
    prompts = [json.loads(line)["prompt"] for line in output.decode().split("\n")[:-1]]
    assert prompts == NO_ENDS.split("\n")[:-1]


@pytest.mark.parametrize("content", [b"One\nTwo\n", b"One\r\nTwo\r\n", BOM + b"One\r\nTwo"])
@pytest.mark.parametrize("command", ["generate", "next"])
def test_a_prompt_from_standard_input_has_line_feeds_and_no_mark(command, content):
    options = ["-n", 4, *(["--seed", 1] if command == "generate" else [])]
    assert gpt2rt(command, DEMO, "-", *options, stdin=content) == gpt2rt(command, DEMO, "One\nTwo", *options)


def test_a_scored_text_keeps_its_line_ends_and_loses_its_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"One\r\nTwo\r\n")
    found = json.loads(gpt2rt("perplexity", DEMO, tmp_path / "a.txt", "--json"))
    assert found["texts"][0]["n_bytes"] == len(b"One\r\nTwo\r\n")
    ids = gpt2rt("tokenize", DEMO, "-", stdin=BOM + b"One\r\n").split()
    assert list(map(int, ids)) == demo_model().tokenizer.encode("One\r\n")


def test_a_piped_chat_has_line_feeds_and_no_mark():
    arguments = ["chat", DEMO, "--format", "raw", "--seed", 1, "--max-tokens", 5]
    plain = gpt2rt(*arguments, stdin=b"Hello\nAnd\n")
    assert gpt2rt(*arguments, stdin=BOM + b"Hello\r\nAnd\r\n") == plain


def test_an_opening_loses_its_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"A talk.\r\n")
    (tmp_path / "b.txt").write_bytes(b"A talk.\n")
    answers = [
        gpt2rt("chat", DEMO, "--opening", tmp_path / name, "--seed", 1, stdin=b"Hi\n") for name in ("a.txt", "b.txt")
    ]
    assert answers[0] == answers[1]
