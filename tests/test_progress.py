"""Progress bars: at a terminal, each of the commands that take long has one, which ends at 100%; elsewhere none has."""

import io
import re
import sys

import pytest
from checkpoints import write_checkpoint
from job_runs import tiny_model
from release_server import SIZE, serving

from gpt2rt.cli import run
from gpt2rt.converter.download import DATA, FILES


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def commands(tmp_path):
    """The command lines, by their first word, and the server that one of them asks."""
    write_checkpoint(tmp_path / "source")
    (tmp_path / "source" / "model.ckpt.meta").write_bytes(b"a graph")
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 4)
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "text": "abc"}\n{"id": 2, "text": "abd"}\n')
    model = tiny_model(tmp_path)
    with serving({name: (tmp_path / "source" / name).read_bytes() for name in FILES}) as server:
        yield {
            "convert": [tmp_path / "source", "-o", tmp_path / "converted.bin"],
            "perplexity": [model, tmp_path / "text.txt"],
            "bench": [model, "--rounds", 2, "--depths", 0, "--prompts", 1, "--threads", 1],
            "batch": [model, tmp_path / "rows.jsonl", tmp_path / "out", "--task", "score", "--processes", 1],
            "download": [SIZE, "-d", tmp_path / "got", "--base-url", server.url],
        }


@pytest.mark.parametrize(
    ("command", "label"),
    [
        ("convert", "Converting"),
        ("perplexity", "Measuring"),
        ("bench", "Measuring"),
        ("batch", "Rows"),
        ("download", re.escape(DATA)),
    ],
)
def test_a_bar_at_a_terminal_ends_at_100_percent(commands, monkeypatch, command, label):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert run([command, *map(str, commands[command])]) == 0
    written = sys.stderr.getvalue()
    bars = re.findall(rf"{label}\s+\[([#-]+)\]", written)
    assert bars
    assert set(bars[-1]) == {"#"}, written


@pytest.mark.parametrize("command", ["convert", "perplexity", "download"])
def test_elsewhere_there_is_no_bar(commands, cli, command):
    code, _, err = cli(command, *commands[command])
    assert (code, "[#" in err, "[-" in err) == (0, False, False)
