"""gpt2rt bench: its figures are there and plausible; how large they are is not for a test to say."""

import json
import subprocess
import sys

import pytest
from demo import DEMO, demo_model

from gpt2rt._kernels import ThreadTeam, read_weights
from gpt2rt.cli import run


@pytest.fixture(scope="module")
def result():
    demo_model()
    arguments = ["--threads", "1,2", "--depths", "0,100,600", "--prompts", "16,600", "--rounds", "2", "--json"]
    command = [sys.executable, "-m", "gpt2rt", "bench", str(DEMO), *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def test_every_figure_is_measured_once_a_round(result):
    assert result["rounds"] == 2
    for figure in result["figures"]:
        assert len(figure["values"]) == 2
        assert 0 < figure["least"] <= figure["median"] <= figure["greatest"]


def test_depths_and_prompts_beyond_the_context_are_left_out(result):
    names = [(f["name"], f["threads"], f["depth"], f["n_tokens"]) for f in result["figures"] if f["threads"] == 2]
    assert names == [
        ("read", 2, None, None),
        ("decode", 2, 0, None),
        ("decode", 2, 100, None),
        ("prompt", 2, None, 16),
        ("start", 2, None, None),
    ]


def test_machine_model_and_memory_are_named(result):
    assert result["machine"]["isa"]
    assert result["machine"]["cpu"]
    assert result["model"]["weight_type"] == "int8"
    assert result["peak_memory_mb"] is None or 5 < result["peak_memory_mb"] < 100


def test_a_plain_read_reads_everything():
    weights = demo_model()._weights
    assert read_weights(weights, ThreadTeam(1)) == read_weights(weights, ThreadTeam(3)) != 0


def test_the_table_has_a_line_for_each_figure(capsys):
    demo_model()
    assert run(["bench", str(DEMO), "--threads", "1", "--depths", "0", "--prompts", "8", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    for start in ("what ", "read ", "decode at 0 ", "prompt of 8 ", "start "):
        assert any(line.startswith(start) for line in out.splitlines())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--threads", "0"], "--threads: got '0', expected whole numbers from 1, parted by commas"),
        (["--depths", "1,x"], "--depths: got '1,x', expected whole numbers from 0, parted by commas"),
        (["--json", "--markdown"], "--json and --markdown: give one of them"),
    ],
)
def test_options_that_make_no_sense_are_refused(option, message, capsys):
    assert run(["bench", str(DEMO), *option]) == 2
    assert message in capsys.readouterr().err
