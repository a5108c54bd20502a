"""gpt2rt bench: its figures are present and plausible; no test depends on their size."""

import json
import subprocess
import sys

import pytest
from demo import DEMO, demo_model

from gpt2rt._engine import Runtime, read_weights
from gpt2rt.benchmark import DecodeFigure, Figure, Run
from gpt2rt.cli import run


@pytest.fixture(scope="module")
def result():
    demo_model()
    arguments = ["--threads", "1,2", "--depths", "0,100,600", "--prompts", "16,600", "--rounds", "2", "--json"]
    command = [sys.executable, "-m", "gpt2rt", "bench", str(DEMO), *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def figures(result, name):
    return [figure for figure in result["figures"] if figure["name"] == name]


def test_every_figure_is_measured_once_per_round(result):
    assert result["rounds"] == 2
    for figure in result["figures"]:
        assert len(figure["values"]) == 2 or figure["name"] == "memory read"
        assert 0 < figure["min"] <= figure["median"] <= figure["max"]


def test_reading_is_measured_before_and_after_each_decode_figure(result):
    assert [len(figure["values"]) for figure in figures(result, "memory read")] == [6, 6]


def test_the_memory_limit_is_the_fastest_read_of_the_bytes_per_token(result):
    shape = demo_model().hyperparameters
    positions = 4 * (shape.n_ctx - 1) * shape.n_embd
    n_compared = 0
    for read in figures(result, "memory read"):
        for figure in figures(result, "decode"):
            if figure["threads"] == read["threads"]:
                keys_and_values = 2 * 2 * shape.n_layer * shape.n_embd * (figure["depth"] + 8.5)
                token_bytes = result["model"]["weights"] - positions + keys_and_values
                assert figure["memory_limit"] == pytest.approx(1e9 * read["max"] / token_bytes)
                assert figure["of_memory_limit"] == pytest.approx(figure["median"] / figure["memory_limit"])
                n_compared += 1
    assert n_compared == len(figures(result, "decode")) > 0


def test_a_slow_read_does_not_lower_the_memory_limit():
    run = Run(demo_model())
    read = Figure("memory read", "GB/s", run.read_speed, threads=1)
    decode = DecodeFigure(run, 0, read)
    decode.measure()
    read.values = [2.0, 5.0, 1.0, 1.0]
    assert decode.as_dict()["memory_limit"] == pytest.approx(5e9 / run.token_bytes(0))


def test_depths_and_prompts_beyond_the_context_are_skipped(result):
    names = [(f["name"], f["threads"], f["depth"], f["n_tokens"]) for f in result["figures"] if f["threads"] == 2]
    assert names == [
        ("memory read", 2, None, None),
        ("decode", 2, 0, None),
        ("decode", 2, 100, None),
        ("prompt", 2, None, 16),
        ("first token", 2, None, None),
    ]


def test_machine_model_and_memory_are_reported(result):
    assert result["machine"]["isa"]
    assert result["machine"]["cpu"]
    assert result["model"]["weight_type"] == "int8"
    assert result["peak_memory"] is None or 5e6 < result["peak_memory"] < 100e6


def test_the_memory_benchmark_reads_all_weights():
    weights = demo_model()._runtime.weights
    assert read_weights(Runtime(weights, 1)) == read_weights(Runtime(weights, 3)) != 0


def test_the_table_has_a_line_for_each_figure(capsys):
    demo_model()
    assert run(["bench", str(DEMO), "--threads", "1", "--depths", "0", "--prompts", "8", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for start in ("what ", "memory read ", "decode after 0 ", "prompt of 8 ", "first token "):
        [line] = [line for line in lines if line.startswith(start)]
        assert line.endswith("%") == start.startswith("decode")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--threads", "0"], "--threads: got '0', expected whole numbers from 1, separated by commas"),
        (["--depths", "1,x"], "--depths: got '1,x', expected whole numbers from 0, separated by commas"),
        (["--json", "--markdown"], "--json and --markdown: got both, expected one of them"),
    ],
)
def test_invalid_options_are_refused(option, message, capsys):
    assert run(["bench", str(DEMO), *option]) == 2
    assert message in capsys.readouterr().err
