"""Faults, and commands of gpt2rt that meet them: for test_faults.py and campaign.py.

A run has ended well if it is done, or is a sentence with a status other than 0. In both cases nothing but complete
files is there, and files that were there before are unharmed.
"""

import contextlib
import hashlib
import http.client
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from checkpoints import SMALL, write_checkpoint
from job_runs import without_privileges
from random_models import random_tensors, write_model
from standalone import program

from gpt2rt.converter import convert
from gpt2rt.modelfile import Hyperparameters

PATIENCE = 120  # seconds of a run
SHAPE = SMALL._replace(n_embd=256, n_head=4, n_layer=3)  # 2 million parameters
BYTES = Hyperparameters(n_vocab=257, n_ctx=256, n_embd=64, n_head=2, n_layer=2)  # talks in bytes
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BLAS_ERROR = "OpenBLAS error: Memory allocation still failed"  # with which this library ends the process
# What Python prints, and then goes on, when Ctrl-C comes at a certain moment while it finds the package gpt2rt.
LOST = r"Exception ignored in: <function _get_module_lock.*\n(?:.*\n)*?KeyboardInterrupt: \n"
NOT_BEGUN = "Exception ignored in thread started by"
STREAMS = {"<": "0", ">": "1", "2>": "2"}
LEAST_MEMORY, MOST_MEMORY = 17 << 20, 1 << 30  # bytes; with less, Python itself does not start


class Command(NamedTuple):
    """
    Attributes:
        name: of the command.
        line: its arguments, of the folder of its inputs and the one that it writes in.
        target: the name of what it writes, None if it writes nothing.
        source: the input that may vanish or be cut, relative to its folder.
        typed: its standard input.
        overwrites: whether it can replace a file, and with which option.
        old: the content of a file that it may replace.
        is_resumed: whether it keeps what it has done, beside its target, to continue it.
        start: what runs it.
    """

    name: str
    line: Callable[[pathlib.Path, pathlib.Path], list]
    target: str | None
    source: str
    typed: str = ""
    overwrites: tuple[str, ...] | None = None
    old: bytes = b"old"
    is_resumed: bool = False
    start: Callable[[], list] = lambda: [sys.executable, "-m", "gpt2rt"]


CHAT = ("--seed", 1, "-n", 30, "--threads", 1)
TALK = "Hello\nHow are you?\n/retry\nWho?\n"
COMMANDS = {
    command.name: command
    for command in (
        Command(
            "convert",
            lambda inputs, out: ["convert", inputs / "checkpoint", "-o", out / "x.bin", "--no-quality-report"],
            "x.bin",
            "checkpoint/model.ckpt.data-00000-of-00001",
            overwrites=("--force",),
        ),
        Command(
            "requantize",
            lambda inputs, out: [
                *("requantize", inputs / "model.bin", "--type", "int4", "-o", out / "x.bin", "--no-quality-report"),
            ],
            "x.bin",
            "model.bin",
            overwrites=("--force",),
        ),
        Command("export", lambda inputs, out: ["export", inputs / "model.bin", out / "x"], "x", "model.bin"),
        Command(
            "bundle",
            lambda inputs, out: ["bundle", inputs / "model.bin", "-o", out / "x"],
            "x",
            "model.bin",
            overwrites=("--force",),
        ),
        Command(
            "batch",
            lambda inputs, out: [
                *("batch", inputs / "bytes.bin", inputs / "rows.jsonl", out / "job", "--task", "generate", "-n", 20),
                *("--processes", 2, "--shard-size", 4, "--merge", out / "x.jsonl"),
            ],
            "x.jsonl",
            "bytes.bin",
            overwrites=("--force",),
            is_resumed=True,
        ),
        Command(
            "chat and save",
            lambda inputs, out: ["chat", inputs / "bytes.bin", *CHAT],
            "x.json",
            "bytes.bin",
            typed=f"{TALK}/save x.json\n",
            overwrites=(),
            old=b'{\n "gpt2rt_transcript": 1}',
        ),
        Command("chat", lambda inputs, out: ["chat", inputs / "bytes.bin", *CHAT], None, "bytes.bin", typed=TALK),
        Command(
            "generate",
            lambda inputs, out: ["generate", inputs / "bytes.bin", "Hi", "--seed", 1, "-n", 200, "--threads", 1],
            None,
            "bytes.bin",
        ),
        Command(
            "gpt2rt-chat",
            lambda inputs, out: [inputs / "bytes.bin", *CHAT],
            None,
            "bytes.bin",
            typed=TALK * 40,
            start=lambda: [program()],
        ),
        Command(
            "gpt2rt-chat -p",
            lambda inputs, out: [inputs / "bytes.bin", "-p", "Hi", "--seed", 1, "-n", 200, "--threads", 1],
            None,
            "bytes.bin",
            start=lambda: [program()],
        ),
        Command(
            "serve", lambda inputs, out: ["serve", inputs / "bytes.bin", "--log-level", "error"], None, "bytes.bin"
        ),
        Command("verify", lambda inputs, out: ["verify", inputs / "model.bin"], None, "model.bin"),
    )
}


class Run(NamedTuple):
    """How a command has ended. `error` and `out`: its standard error and standard output."""

    status: int
    error: str
    out: bytes


def write_inputs(folder):
    """Write what the commands read."""
    write_checkpoint(folder / "checkpoint", SHAPE)
    convert(folder / "checkpoint", folder / "model.bin", weight_type="f32")
    chat = {"format": "plain", "opening": ""}
    write_model(folder / "bytes.bin", BYTES, random_tensors(BYTES), chat=chat)
    rows = [{"id": i, "text": "abc" * (1 + i % 7)} for i in range(32)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def content_of(folder):
    """Return {name: what is in it} of a folder, without jobs that can be continued."""
    found = {}
    for path in folder.iterdir():
        if path.is_dir():
            found |= {f"{path.name}/{name}": value for name, value in content_of(path).items()}
        else:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {name: value for name, value in found.items() if not name.startswith("job/")}


def untimed(text):
    """Return what a command prints without the seconds that it has taken."""
    return re.sub(rb" in [0-9.]+ s", b"", text)


def is_before_the_command_line(error):
    """Whether Python printed a traceback before `gpt2rt.__main__.main` ran its first line."""
    if re.search(rf"gpt2rt{os.sep}(?!__(init|main)__\.py)", error):
        return False
    return "Traceback" in error and (f"gpt2rt{os.sep}" not in error or error.endswith("\nKeyboardInterrupt\n"))


class Lab:
    """Runs a command under faults.

    Each method that is a fault returns how a run has ended: "done", "refused" or, by a signal, "ended". It raises
    AssertionError if something is broken.
    """

    def __init__(self, folder, command, choose):
        """choose: a random.Random."""
        self.command, self.choose = COMMANDS[command], choose
        self._folder, self._n = folder, 0
        self._whole = folder / "inputs"
        if not self._whole.exists():
            self._whole.mkdir()
            write_inputs(self._whole)
        self.expected, self.text, self.seconds = {}, b"", 0.0
        out = self._fresh()
        begin = time.perf_counter()
        run = self.run()
        self.seconds = time.perf_counter() - begin  # only used to choose moments
        assert run.status == 0, run
        self.expected, self.text = content_of(out), untimed(run.out)
        assert {name.partition("/")[0] for name in self.expected} == {self.command.target} - {None}

    # --- runs

    def _fresh(self, old=False):
        """Make new folders for a run; return the one to write in."""
        shutil.rmtree(self._folder / "run", ignore_errors=True)
        self.inputs, self.out = self._folder / "run" / "in", self._folder / "run" / "out"
        self.out.mkdir(parents=True)
        shutil.copytree(self._whole, self.inputs)
        if old:
            (self.out / self.command.target).write_bytes(self.command.old)
        self.before, self.may_replace = content_of(self.out), old
        return self.out

    def _prepare(self):
        """Make new folders, perhaps with a target that is replaced."""
        return self._fresh(self.command.overwrites is not None and self.choose.random() < 0.5)

    def _line(self):
        line = self.command.line(self.inputs, self.out)
        options = self.command.overwrites if self.may_replace else ()
        return [*map(str, [*self.command.start(), *line]), *options]

    def start(self, limit=None, redirections="", **how):
        """Start the command in its own process group. limit: called before. redirections: of a shell."""
        line = self._line()
        if redirections:
            line = ["sh", "-c", f'exec "$0" "$@" {redirections}', *line]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        how = {**pipes, "preexec_fn": limit, "cwd": self.out, **how}
        return subprocess.Popen(line, start_new_session=True, **how)

    def ended(self, process):
        """Wait for the end."""
        try:
            out, error = process.communicate(self.command.typed.encode() if process.stdin else None, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Run(process.returncode, (error or b"").decode(), out or b"")

    def run(self, limit=None, **how):
        return self.ended(self.start(limit, **how))

    def _until(self, process, seconds):
        """Type, and wait for so long or until the process has ended."""
        with contextlib.suppress(BrokenPipeError), process.stdin as typed:
            typed.write(self.command.typed.encode())
        process.stdin = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    # --- what must hold

    def check(self, run, *, is_silent=False, is_changed=False, is_memory=False):
        """Check how a run has ended.

        Args:
            is_silent: its errors can't be read. is_changed: its text may differ. is_memory: Python may lack memory.
        """
        if is_before_the_command_line(run.error):
            if run.status:
                return "ended"
            run = run._replace(error=re.sub(LOST, "", run.error))
        assert is_memory or "Traceback" not in run.error, run  # but for that of a worker, or of Python's libraries
        # Without memory, asyncio logs a "Fatal read error", and Python what a thread could not begin.
        assert ("Fatal Python" if is_memory else "Fatal") not in run.error, run
        assert "Exception ignored" not in (run.error.replace(NOT_BEGUN, "") if is_memory else run.error), run
        found = content_of(self.out)
        if run.status == 0:
            assert found == self.expected, (found, run)
            assert is_changed or untimed(run.out) in (self.text, b""), run
            self._check_job()
            return "done"
        assert found == self.before or (found == self.expected and self._is_late(run)), (found, run)
        self._check_job()
        if run.status < 0 or run.status in {128 + number for number in SIGNALS}:
            return "ended"
        assert run.status in (1, 2), run
        if not is_silent:
            *others, last = run.error.splitlines() or [""]
            assert last.startswith(("gpt2rt: ", BLAS_ERROR)), run
            assert all(not line.startswith("gpt2rt: ") or "of 32 rows done" in line for line in others), run
            is_noted = all(line.startswith(("(", "seed ")) for line in others)
            assert is_noted or is_memory or self.command.is_resumed, run
            assert len(last) < 600, run
        return "refused"

    def _is_late(self, run):
        """Whether the target may be complete though the run has failed: what it says of it could not be printed."""
        return run.status < 0 or run.status > 2 or "space left" in run.error or not run.error or run.out == b""

    def _check_job(self):
        """Check that nothing unfinished is in the folder of a job."""
        if self.command.is_resumed and (self.out / "job").exists():
            assert [path for path in (self.out / "job").rglob("*") if path.name.startswith(".")] == []

    # --- faults

    def kill(self):
        """Kill it at a random moment; the next run is done, and removes what was left."""
        self._prepare()
        process = self.start()
        self._until(process, self.choose.uniform(0, self.seconds))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        run = self.ended(process)
        found = {name: value for name, value in content_of(self.out).items() if not part_of(name, self.command.target)}
        assert found in (self.before, self.expected), (found, run)
        if self.command.overwrites is not None and self.command.target in found:
            self.may_replace = True
        elif self.command.target and (self.out / self.command.target).is_dir():
            shutil.rmtree(self.out / self.command.target)  # export does not replace a folder
        next_run = self.run()
        assert next_run.status == 0, next_run
        assert content_of(self.out) == self.expected, (run, next_run)
        return "ended" if run.status else "done"

    def signal(self):
        """Send a signal at a random moment."""
        self._prepare()
        process = self.start()
        self._until(process, self.choose.uniform(0, self.seconds))
        process.send_signal(self.choose.choice(SIGNALS))
        return self.check(self.ended(process), is_changed=True)

    def full_disk(self):
        """Write to a file system that is too small, perhaps."""
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small disk")
        self._fresh()
        size = max(4096, self.choose.randrange(2 * self._size()))
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(self.out)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            return self.check(self.run())
        finally:
            subprocess.run(["umount", str(self.out)], check=True)

    def file_size(self):
        """Limit the size of files."""
        self._prepare()
        size = self.choose.randrange(self._size())
        return self.check(self.run(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))))

    def _size(self):
        """Return about how many bytes it writes."""
        return {"chat and save": 3000, "batch": 12_000, "export": 10 << 20, "bundle": 10 << 20}.get(
            self.command.name, 2 << 20
        )

    def read_only(self):
        """Write where that is not allowed."""
        self._prepare()
        self.out.chmod(0o555)
        return self.check(self.run(without_privileges))

    def vanished(self):
        """Remove the source at a random moment."""
        self._prepare()
        process = self.start()
        self._until(process, self.choose.uniform(0, self.seconds))
        (self.inputs / self.command.source).unlink()
        return self.check(self.ended(process))

    def cut(self):
        """Shorten the source at a random moment."""
        self._prepare()
        process = self.start()
        self._until(process, self.choose.uniform(0, self.seconds))
        path = self.inputs / self.command.source
        os.truncate(path, self.choose.randrange(path.stat().st_size))
        return self.check(self.ended(process), is_changed=True)

    def stream(self):
        """Close a standard stream, or let it be full or a pipe that nobody reads."""
        self._prepare()
        operator, number = self.choose.choice(list(STREAMS.items()))
        kind = self.choose.choice(["closed", "full", "pipe"] if number != "0" else ["closed", "folder"])
        if kind == "pipe":
            reader, writer = os.pipe()
            os.close(reader)
            process = self.start(**{"stdout" if number == "1" else "stderr": writer})
            os.close(writer)
        else:
            where = {"closed": "&-", "full": "/dev/full", "folder": "/dev/null"}[kind]
            process = self.start(redirections=f"{operator}{where}")
        run = self.ended(process)
        is_typed = number == "0" and self.command.typed
        if is_typed:  # there is nothing to do
            assert run.status == 0, run
            assert content_of(self.out) == self.before, run
            return "done"
        return self.check(run, is_silent=number == "2" or kind == "pipe", is_changed=number == "1")

    def memory(self):
        """Limit the memory, from too little for Python's libraries on."""
        self._prepare()
        size = int(LEAST_MEMORY * (MOST_MEMORY / LEAST_MEMORY) ** self.choose.random())
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))  # noqa: E731
        return self.check(self.run(limit), is_memory=True)


class ServerLab(Lab):
    """The same for `gpt2rt serve`: a run is an answer, and the end by a signal."""

    most_resets = math.inf

    def _line(self):
        with socket.create_server(("127.0.0.1", 0)) as one:
            self._port = one.getsockname()[1]
        return [*super()._line(), "--port", str(self._port)]

    def ended(self, process):
        try:
            status, out = self._asked(process)
        finally:
            process.terminate()
        run = super().ended(process)
        if status is None or run.status not in (0, -signal.SIGTERM):
            return run._replace(out=b"")
        answer = json.loads(out)
        if status == 200:
            return Run(0, run.error, answer["choices"][0]["text"].encode())
        return Run(1, f"gpt2rt: {answer['error']['message']}", b"")

    def _asked(self, process):
        """Ask as soon as it listens; return the status and the content of the answer, or None if there is none."""
        request = json.dumps({"prompt": "Hi", "max_tokens": 50, "seed": 1})
        end = time.monotonic() + PATIENCE
        n_resets = 0
        while process.poll() is None and n_resets < self.most_resets:
            assert time.monotonic() < end, "it runs, and does not answer"
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                connection.request("POST", "/v1/completions", request, {"content-type": "application/json"})
                try:
                    answer = connection.getresponse()
                    return answer.status, answer.read()
                except ConnectionResetError:
                    n_resets += 1
                    raise
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        return None, b""

    def memory(self):
        """Limit the memory, perhaps so that there is none to read a request with: then the connection is reset."""
        self.most_resets = 10
        try:
            return super().memory()
        finally:
            del self.most_resets


def lab_of(folder, command, choose):
    """Return a lab for a command."""
    return (ServerLab if command == "serve" else Lab)(folder, command, choose)


WRITING = ("kill", "full_disk", "file_size", "read_only")  # faults of commands that write files
READING = ("signal", "vanished", "cut", "stream", "memory")  # faults of all commands


def part_of(name, target):
    """Whether a name is that of the unfinished form of a target."""
    return target is not None and name.startswith(f".{target}.") and ".part" in name


def faults_of(command):
    """Return the names of the faults that a command may meet."""
    return (*(WRITING if COMMANDS[command].target else ()), *READING)
