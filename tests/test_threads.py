"""The number of threads of a model."""

import json
import os
import subprocess
import sys

import pytest
from demo import DEMO, demo_model

from gpt2rt.errors import UsageError
from gpt2rt.model import open_model
from gpt2rt.threads import default_threads, most_threads, thread_limits

ON_ONE_PROCESSOR = f"""
import os, warnings
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import gpt2rt
warnings.showwarning = lambda message, *_: print(message)
print(gpt2rt.open_model({str(DEMO)!r}).n_threads)
print(gpt2rt.open_model({str(DEMO)!r}, n_threads=8).n_threads)
os.environ["GPT2RT_THREADS"] = "9"
print(gpt2rt.open_model({str(DEMO)!r}, n_threads=1).n_threads)
print(gpt2rt.open_model({str(DEMO)!r}).n_threads)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_more_threads_than_processors_are_reported_but_not_started():
    environment = {name: value for name, value in os.environ.items() if name != "GPT2RT_THREADS"}
    command = [sys.executable, "-P", "-c", ON_ONE_PROCESSOR]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    reason = "but this process may use 1 (CPU affinity or quota); running with 1"
    expected = ["1", f"n_threads: got 8, {reason}", "1", "1", f"GPT2RT_THREADS: got 9, {reason}", "1"]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("value", ["two", "-1", "1.5", "0", "257"])
def test_an_invalid_value_of_the_variable_is_refused(value, monkeypatch):
    demo_model()
    monkeypatch.setenv("GPT2RT_THREADS", value)
    with pytest.raises(UsageError, match=r"GPT2RT_THREADS: got .*, expected a whole number from 1 to 256"):
        open_model(DEMO)


def test_the_variable_sets_the_default(monkeypatch):
    demo_model()
    monkeypatch.setenv("GPT2RT_THREADS", "1")
    assert open_model(DEMO).n_threads == 1


def test_the_default_is_within_every_limit():
    assert 1 <= default_threads() <= max(1, min(thread_limits().values()))
    assert default_threads() <= most_threads()


@pytest.mark.parametrize("command", ["generate", "bench"])
def test_the_command_line_warns_about_too_many_threads_in_one_line(command):
    demo_model()
    if (most := most_threads()) >= 256:
        pytest.skip("no number of threads is too many here")
    options = {
        "generate": ["Hello", "-n", "1", "--seed", "1"],
        "bench": ["--rounds", "1", "--depths", "0", "--prompts", "1"],
    }[command]
    arguments = [sys.executable, "-P", "-m", "gpt2rt", command, str(DEMO), *options, "--threads", "256"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    sentence = f"n_threads: got 256, but this process may use {most} (CPU affinity or quota); running with {most}"
    assert done.stderr.splitlines()[0] == f"gpt2rt: {sentence}"
    assert done.stderr.count(sentence) == 1
    assert "Warning" not in done.stderr + done.stdout


def test_bench_uses_the_number_of_threads_in_the_variable():
    demo_model()
    options = ["--rounds", "1", "--depths", "0", "--prompts", "1", "--json"]
    arguments = [sys.executable, "-P", "-m", "gpt2rt", "bench", str(DEMO), *options]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=True, env={**os.environ, "GPT2RT_THREADS": "1"}
    )
    assert {figure["threads"] for figure in json.loads(done.stdout)["figures"]} == {1}
