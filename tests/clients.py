"""Clients of OpenAI's API: the server that they talk with, and processes where they reach nothing else.

The server is a process of its own. So are the clients, except the openai package: they change their process' logging,
threads and environment. Each is skipped where it is not installed (the extra `clients`).
"""

import contextlib
import importlib.util
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

PATIENCE = 120  # seconds
HELLO = [{"role": "user", "content": "Hello!"}]
TALK = [
    {"role": "system", "content": "A talk in the garden."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello! How are you?"},
    {"role": "user", "content": "I am well. What did you do yesterday?"},
]
STORY = "Once upon a time"
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # it reads no .env
    "LANGSMITH_TRACING": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Whoever asks for another machine gets no answer.
    **dict.fromkeys(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], "http://127.0.0.1:9"),
    **dict.fromkeys(["no_proxy", "NO_PROXY"], "127.0.0.1,localhost"),
}


def needs(package):
    """Skip what is decorated if a package is not installed."""
    return pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"{package} is not installed")


@contextlib.contextmanager
def offline():
    """Let the processes that the block starts reach nothing but this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OFFLINE.items():
            patch.setenv(name, value)
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield


@contextlib.contextmanager
def serving_process():
    """Run `gpt2rt serve` with the bundled model; yield its address."""
    command = [sys.executable, "-m", "gpt2rt", "serve", "--port", "0", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.match(r"serving demo at (\S+) ", process.stdout.readline())[1]
        finally:
            process.terminate()


@contextlib.contextmanager
def process_apart():
    """Yield a function that calls a test module's function in a process that all calls share: call(function, *args)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result(PATIENCE)


def run(*arguments, status=0, **environment):
    """Run Python; return its standard output, or standard error if it should fail."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout
