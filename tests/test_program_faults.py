"""The standalone program under faults: failed allocations, streams that are closed or full, and signals."""

import errno
import os
import random
import signal
import subprocess
import sys

import pytest
from demo import DEMO, demo_model
from preloaded import build_failing_malloc, build_program
from random_models import random_tensors, write_model
from standalone import program
from terminal import Terminal

from gpt2rt.modelfile import Hyperparameters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library, and writes to /dev/full")

SHAPE = Hyperparameters(n_vocab=257, n_ctx=64, n_embd=16, n_head=2, n_layer=1)
NO_MEMORY = "gpt2rt: not enough memory"
MANY = 1_000_000  # more allocations than there are
# Turns that are dropped, discarded and answered again; then, with a new seed, what a new talk says as well.
FRESH = "/reset\n/set seed 5\nAnd now?\n"
TALK = "Hello\n" + "x" * 30 + "\n/retry\n/undo\nWho are you?\n/set\n/help\n" + FRESH + "/stats\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    metadata = {"name": "tiny", "license": "MIT", "chat": {"format": "plain", "opening": ""}}
    return write_model(tmp_path_factory.mktemp("model") / "m.bin", SHAPE, random_tensors(SHAPE), **metadata)


class Failing:
    """Runs the program with the n-th of its allocations failing."""

    def __init__(self, folder):
        self._library, self.path, self._left = build_failing_malloc(folder), build_program(folder), folder / "left"

    def environment(self, n):
        names = {"LD_PRELOAD": self._library, "FAILING_MALLOC": n, "FAILING_MALLOC_LEFT": self._left}
        return {name: str(value) for name, value in names.items()}

    def left(self):
        """Return how many allocations were left, at the end of the last run; less than 0 if one has failed."""
        return int(self._left.read_text())

    def __call__(self, n, *arguments, stdin=""):
        """Return (exit status, standard output, lines of standard error, allocations that were left)."""
        line = [self.path, *map(str, arguments), "--threads", "1"]
        done = subprocess.run(
            line, input=stdin.encode(), capture_output=True, env=self.environment(n), check=False, timeout=60
        )
        return done.returncode, done.stdout, done.stderr.decode().splitlines(), self.left()


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    return Failing(tmp_path_factory.mktemp("failing"))


RUNS = {
    "text": (("-p", "Once upon a time", "-n", 8, "--seed", 1, "--echo", "--stop", "zz"), ""),
    "prompt_from_a_pipe": (("-p", "-", "-n", 4, "--seed", 1), "x" * 50),
    "not_mapped": (("-p", "a", "-n", 4, "--seed", 1, "--no-mmap"), ""),
    "info": (("--info",), ""),
    "verify": (("--verify",), ""),
}


@pytest.mark.parametrize(("arguments", "stdin"), RUNS.values(), ids=RUNS)
def test_each_allocation_that_fails_is_one_sentence_and_no_other_text(failing, model, arguments, stdin):
    status, expected, _, left = failing(MANY, model, *arguments, stdin=stdin)
    assert status == 0
    n_refused = 0
    for n in range(MANY - left):
        status, out, lines, left = failing(n, model, *arguments, stdin=stdin)
        assert left < 0, n
        if status == 0:
            assert out == expected, n  # of the C library, which does without
            continue
        assert status == 1, (n, lines)
        assert [line for line in lines if not line.startswith("seed ")] == [NO_MEMORY], n
        assert expected.startswith(out.rstrip(b"\n")), n
        n_refused += 1
    assert n_refused > 0


def test_a_talk_goes_on_after_a_failed_allocation_as_if_nothing_had_happened(failing, model):
    def talk(n, stdin):
        return failing(n, model, "-n", 6, "--seed", 5, stdin=stdin)

    status, expected, _, left = talk(MANY, TALK)
    assert status == 0
    fresh = talk(MANY, FRESH)[1]
    assert fresh.strip()
    assert expected.endswith(fresh)
    n_continued = 0
    for n in range(MANY - left):
        status, out, lines, _ = talk(n, TALK)
        assert status in (0, 1), (n, lines)
        if status == 0:
            assert out == expected, n
            continue
        assert lines.count(NO_MEMORY) == 1, (n, lines)
        assert "gpt2rt" not in "".join(lines).replace(NO_MEMORY, ""), (n, lines)
        if {"(all turns dropped)", "(seed is now 5)"} <= {*lines[lines.index(NO_MEMORY) :]}:
            assert out.endswith(fresh), n
            n_continued += 1
    assert n_continued > 20


@pytest.fixture(scope="module")
def at_terminal(tmp_path_factory, failing, model):
    """Return a function that chats at a terminal, with the n-th allocation failing."""

    def chat(n):
        """Return (exit status, what is on the screen at the end, allocations that were left)."""
        variables = failing.environment(n)
        line = [*(f"{name}={value}" for name, value in variables.items()), failing.path, model, *AT_TERMINAL]
        folder = tmp_path_factory.mktemp("terminal")
        terminal = Terminal(folder, map(str, line), columns=30, program="/usr/bin/env", TERM="xterm")
        terminal.type(TYPED)
        status = terminal.exit_code()
        terminal.close()
        return status, terminal.text, failing.left()

    return chat


AT_TERMINAL = ("--seed", 5, "-n", 8, "--threads", 1)
TYPED = "Hello\n" + "word " * 12 + "\n\x10\x1b[D!\n/help\n/set top-k\n/exit\n"


@pytest.mark.parametrize("step", [40, pytest.param(1, marks=pytest.mark.slow)])
def test_each_allocation_that_fails_at_a_terminal_is_said_there(at_terminal, step):
    status, expected, left = at_terminal(MANY)
    assert status == 0
    for n in range(3, MANY - left, step):
        status, text, _ = at_terminal(n)
        assert status in (0, 1), (n, text)
        if "gpt2rt: not enough memory" not in text:
            assert (status, text.split()) == (0, expected.split()), n


# --- streams

GENERATES = ("-p", "Hi", "-n", "5", "--seed", "1")
WRITING = {"text": GENERATES, "chat": ("--seed", "1"), **{name: (f"--{name}",) for name in ("help", "version", "info")}}


@pytest.fixture
def needs_demo():
    demo_model()


def shell(line, *arguments, stdin=b""):
    """Run the program with redirections of its streams; return (exit status, standard output, standard error)."""
    script = f'"$0" "$@" {line}'
    done = subprocess.run(
        ["sh", "-c", script, program(), DEMO, *arguments], input=stdin, capture_output=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.usefixtures("needs_demo")
class TestStreams:
    @pytest.mark.parametrize("arguments", WRITING.values(), ids=WRITING)
    def test_a_full_disk_is_a_sentence(self, arguments):
        status, _, error = shell(">/dev/full", *arguments, stdin=b"Hello\nHello\n")
        assert status == 1
        assert error.splitlines()[-1] == f"gpt2rt: standard output: {os.strerror(errno.ENOSPC)}"

    def test_nothing_more_is_sampled_for_a_full_disk(self):
        error = shell(">/dev/full", "-p", "Hi", "-n", "300", "--seed", "1")[2]
        assert "text 1 token," in error

    def test_a_pipe_that_nobody_reads_ends_it(self):
        script = 'trap "" PIPE; { "$0" "$@"; echo $? >&2; } | true'
        line = ["sh", "-c", script, program(), DEMO, *GENERATES]
        done = subprocess.run(line, capture_output=True, check=False, timeout=60)
        *_, status = done.stderr.decode().splitlines()
        assert status in "01"  # 0: the pipe was still open
        assert b"gpt2rt" not in done.stderr

    @pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
    def test_without_a_stream_it_says_the_same(self, closed):
        assert shell(closed, *GENERATES)[:2] == shell("", *GENERATES)[:2]

    @pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
    def test_without_standard_output_nothing_is_written_elsewhere(self, closed):
        assert shell(closed, *GENERATES)[:2] == (0, b"")

    @pytest.mark.parametrize("arguments", [("-p", "-"), ("--seed", "1")])
    def test_input_that_cannot_be_read_is_a_sentence(self, tmp_path, arguments):
        script = f'"$0" "$@" <"{tmp_path}"'
        done = subprocess.run(["sh", "-c", script, program(), DEMO, *arguments], capture_output=True, check=False)
        assert done.returncode == 1
        assert done.stderr.decode() == f"gpt2rt: standard input: {os.strerror(errno.EISDIR)}\n"


# --- signals


@pytest.mark.usefixtures("needs_demo")
@pytest.mark.parametrize("n", [4, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "arguments", [("-p", "Hi", "-n", "400", "--seed", "1"), ("--seed", "1", "-n", "20")], ids=["text", "chat"]
)
def test_a_signal_at_any_moment_ends_it_with_a_beginning_of_its_text(number, arguments, n):
    choose = random.Random(n)
    typed = b"Hello\n" * 4
    line = [program(), DEMO, *arguments, "--seed", "1"]
    expected = subprocess.run(line, input=typed, capture_output=True, check=True).stdout
    n_ended = 0
    for _ in range(n):
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write(typed)
        process.stdin.close()
        wanted = choose.randrange(len(expected))
        begin = os.read(process.stdout.fileno(), wanted) if wanted else b""
        process.send_signal(number)
        out, error = begin + process.stdout.read(), process.stderr.read().decode()
        process.stdout.close()
        process.stderr.close()
        status = process.wait(60)
        assert status in (0, -number, 130) if number == signal.SIGINT else (0, -number)
        assert expected.startswith(out.rstrip(b"\n"))
        assert "gpt2rt" not in error
        n_ended += status != 0
    assert n_ended
