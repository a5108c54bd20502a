"""Shell completion: what click answers, and what bash, zsh and fish make of it at a terminal."""

import os
import select
import shutil
import subprocess
import sys

import click
import pytest

from gpt2rt.cli import COMMANDS, group

COMMAND = [sys.executable, "-m", "gpt2rt"]
PATIENCE = 60  # seconds without a sign of life
FREE = {  # free text: there is nothing to complete
    *("name", "licence", "user_name", "bot_name", "stop", "base_url"),
    *("field", "id_field", "model_name", "on", "head", "ablate"),
    *("host", "api_key", "allow_host", "allow_origin", "chat_template", "opening_template"),
}


def completions(*words):
    """What completes the last word: (type, value) each."""
    environment = {
        **os.environ,
        "_GPT2RT_COMPLETE": "bash_complete",
        "COMP_WORDS": "\n".join(("gpt2rt", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True)
    return [tuple(line.split(",", 1)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gen"], ["generate"]),
        (["help", "ver"], ["verify"]),
        (["convert", "--ty"], ["--type"]),
        (["convert", "--type", "int"], ["int8", "int4"]),
        (["requantize", "x.bin", "--type", "f"], ["f16", "f32"]),
        (["convert", "--chat-format", "d"], ["dialogpt"]),
        (["chat", "--format", ""], ["plain", "dialogpt", "template", "raw"]),
        (["download", "1"], ["124M", "1558M"]),
        (["download", "124M", "--convert", "int"], ["int8", "int4"]),
        (["perplexity", "--task", ""], ["lambada"]),
        (["export", "--to", ""], ["safetensors"]),
    ],
)
def test_a_word_is_completed(words, expected):
    assert completions(*words) == [("plain", word) for word in expected]


@pytest.mark.parametrize(
    "words",
    [
        *([name, "124M-"] for name in COMMANDS if name not in ("models", "download", "doctor", "help")),
        ["perplexity", "x.bin", "te"],
        ["perplexity", "--against", "124M-"],
        ["chat", "--opening", "op"],
        ["convert", "models/124M", "-o", "12"],
        ["convert", "models/124M", "--calibrate", "b"],
        ["generate", "--prompts", "q"],
    ],
    ids=" ".join,
)
def test_a_file_is_completed_by_the_shell(words):
    assert completions(*words) == [("file", words[-1])]


@pytest.mark.parametrize("words", [["download", "124M", "-d", "mo"], ["export", "x.bin", "fo"]], ids=" ".join)
def test_a_folder_is_completed_by_the_shell(words):
    assert completions(*words) == [("dir", words[-1])]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_with_a_text_completes(name):
    for option in group.get_command(click.Context(group), name).params:
        is_text = isinstance(option, click.Option) and isinstance(option.type, click.types.StringParamType)
        assert not is_text or option.name in FREE or "N,N" in option.metavar


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
class TestShell:
    """A shell at a pseudo-terminal, with the completion of `gpt2rt` in it."""

    @pytest.fixture(params=["bash", "zsh", "fish"])
    def shell(self, request, tmp_path):
        name = request.param
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "gpt2rt").write_text(f'#!/bin/sh\nexec {sys.executable} -m gpt2rt "$@"\n')
        (folder / "gpt2rt").chmod(0o755)
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "124M-int8.bin").touch()
        shell = Shell(name, path, tmp_path)
        yield shell
        shell.close()

    def test_a_file_name_completes(self, shell):
        assert shell.complete("gpt2rt info 124M-") == "info 124M-int8.bin"

    def test_a_command_and_a_type_complete(self, shell):
        assert shell.complete("gpt2rt requan") == "requantize"
        assert shell.complete("gpt2rt convert --type f1") == "convert --type f16"


# Makes the terminal the shell's own, so that it may ask for keys and signals.
AT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# name: (arguments of the shell, what loads the completion and defines `show`, which prints its arguments)
SHOW = 'show() { echo "<$*>"; }'
SHELLS = {
    "bash": (["--noprofile", "--norc", "-i"], 'eval "$(_GPT2RT_COMPLETE=bash_source gpt2rt)"; ' + SHOW),
    "zsh": (
        ["-f", "-i"],
        'autoload -Uz compinit && compinit -u -D; eval "$(_GPT2RT_COMPLETE=zsh_source gpt2rt)"; ' + SHOW,
    ),
    "fish": (["--no-config", "-i"], '_GPT2RT_COMPLETE=fish_source gpt2rt | source; function show; echo "<$argv>"; end'),
}
HOME = "\x01"  # the key that goes to the begin of the line


class Shell:
    """A shell at a pseudo-terminal that knows the completion of `gpt2rt`."""

    def __init__(self, name, path, folder):
        import pty  # not on Windows

        arguments, prepare = SHELLS[name]
        self.master, slave = pty.openpty()
        home = folder / "home"
        home.mkdir()
        environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "XDG_DATA_HOME": str(home),
            "TERM": "dumb",
            "PS1": "$ ",
            "PYTHONSAFEPATH": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, path, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder / "work",
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""
        self.type(f"{prepare}; echo rea''dy\n")
        self.read_to("ready")

    def complete(self, line):
        """What `gpt2rt` would get as arguments after a tab."""
        # The tab completes the line; then `show` is typed before it, which prints the line instead of running it.
        self.type(f"{line}\t{HOME}show \n")
        self.read_to("<gpt2rt ")
        return self.read_to(">")[:-1].strip()

    def type(self, keys):
        os.write(self.master, keys.encode())

    def read_to(self, marker):
        """The output up to and with a marker."""
        while marker not in self.text:
            assert select.select([self.master], [], [], PATIENCE)[0], f"nothing more after {self.text!r}"
            self.text += os.read(self.master, 4096).decode("utf-8", "replace")
        at = self.text.index(marker) + len(marker)
        found, self.text = self.text[:at], self.text[at:]
        return found

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
