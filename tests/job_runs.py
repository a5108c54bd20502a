"""Runs of `gpt2rt batch` as processes of their own, with a small random model, for tests of faults."""

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from random_models import random_tensors, write_model

from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=257, n_ctx=256, n_embd=128, n_head=2, n_layer=4)
TINY = Hyperparameters(n_vocab=257, n_ctx=64, n_embd=32, n_head=2, n_layer=2)
SHARD_SIZE = 8
TIMEOUT = 120  # seconds, of anything
CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which root may read and write anything


def tiny_model(folder):
    """Write a model that answers at once; return its path."""
    return write_model(folder / "model.bin", TINY, random_tensors(TINY))


class Batch:
    """Runs jobs in this process, in a folder of their own."""

    def __init__(self, cli, model, folder):
        self.cli, self.model, self.folder = cli, model, folder
        self.out, self.merged = folder / "out", folder / "merged.jsonl"

    def source(self, content=None, n_rows=20, name="rows.jsonl"):
        if content is None:
            content = b"".join(b'{"id": %d, "text": "%s"}\n' % (i, b"abc" * (1 + i % 7)) for i in range(n_rows))
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def run(self, source, *options, out=None, task="score"):
        """Return the exit code and standard error."""
        options = ["--task", task, "--processes", 1, *options]
        code, _, error = self.cli("batch", self.model, source, out or self.out, *options)
        return code, error

    def refused(self, source, *options, **how):
        """Run a job that must end with one sentence, after perhaps one that says how far it is; return the sentence."""
        code, error = self.run(source, *options, **how)
        assert code in (1, 2)
        *before, last = error.splitlines()
        assert len(before) <= 1
        return last.removeprefix("gpt2rt: ")

    def answers(self, content, *options, **how):
        """Return the answers to the rows of a content, which are in order, and strictly JSON."""
        code, error = self.run(self.source(content), "--merge", self.merged, "--force", *options, **how)
        assert code == 0, error
        lines = self.merged.read_bytes().split(b"\n")
        assert lines.pop() == b""
        answers = [json.loads(line, parse_constant=pytest.fail) for line in lines]
        assert [answer["row"] for answer in answers] == list(range(len(answers)))
        return answers


class Killable:
    """A job that takes about a second, and how to run it.

    Attributes:
        expected: the answers of an uninterrupted run in one process. seconds: of one in two.
    """

    n_rows = 320

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.model = write_model(self.folder / "model.bin", SHAPE, random_tensors(SHAPE))
        self.source = self.folder / "rows.jsonl"
        rows = [{"id": f"row {i}", "text": f"{i} " * (1 + i % 9)} for i in range(self.n_rows)]
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @functools.cached_property
    def expected(self):
        code, error = ended(self.start("single", "--processes", 1, "--merge", self.folder / "single.jsonl"))
        assert code == 0, error
        return (self.folder / "single.jsonl").read_bytes()

    @functools.cached_property
    def seconds(self):
        begin = time.perf_counter()
        code, error = ended(self.start("two", "--processes", 2))
        assert code == 0, error
        return time.perf_counter() - begin  # only used to choose moments

    def start(self, out, *options, **how):
        """Start it; its process is the first of a group."""
        line = [self.model, self.source, self.folder / out, "--task", "generate", "-n", 100, "--shard-size", SHARD_SIZE]
        return start(*line, *options, **how)

    def shards(self, out):
        """Return the names of the complete shards."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self.folder / out / "shards"))
        return []

    def wait_for_shards(self, process, out, n):
        """Wait until n shards are complete, or the process has ended."""
        while len(self.shards(out)) < n and is_running(process, 0.001):
            pass

    def check(self, out):
        """Check that a job is complete, and nothing else is in its folder."""
        assert sorted(os.listdir(self.folder / out)) == ["manifest.json", "shards"]
        code, error = ended(self.start(out, "--processes", 1, "--merge", self.folder / f"{out}.jsonl", "--force"))
        assert code == 0, error
        assert error == f"{self.n_rows} of {self.n_rows} rows done, {self.n_rows} of them before\n"
        assert (self.folder / f"{out}.jsonl").read_bytes() == self.expected


def start(*arguments, **how):
    """Start gpt2rt batch; its process is the first of a group."""
    line = [sys.executable, "-m", "gpt2rt", "batch", *map(str, arguments)]
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen(line, start_new_session=True, **how)


def ended(process):
    """Wait until a process and all that it has started have ended; return its exit code and what all of them say.

    They have its standard error, which ends with the last of them.
    """
    try:
        _, error = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, error.decode()


def is_running(process, seconds):
    """Wait for so long; return whether a process still runs then."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return False
    return True


def workers(process):
    """Return the ids of the processes that do the work of another one."""
    found = []
    with contextlib.suppress(OSError):
        for child in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def kill(pid):
    """Kill a process, if it is there; return whether it was."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def without_privileges():
    """Let a process of root respect permissions."""
    for capability in CAPABILITIES:
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
