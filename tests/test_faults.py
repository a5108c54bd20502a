"""Commands under faults end with a sentence, and leave nothing but complete files; campaign.py does this many times."""

import os
import pathlib
import random
import subprocess
import sys

import campaign
import pytest
from faults import COMMANDS, faults_of, lab_of

import gpt2rt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits, devices and mounts as Linux has them")

MANY = 2
SHORT = [  # each fault, and each kind of command
    *(("convert", fault) for fault in ("kill", "cut")),
    *(("bundle", fault) for fault in ("full_disk", "vanished", "read_only")),
    *(("chat and save", fault) for fault in ("kill", "file_size", "signal")),
    *(("generate", fault) for fault in ("memory", "stream")),
]
LONG = [(command, fault) for command in COMMANDS for fault in faults_of(command)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return a function that returns a lab for a command."""
    folder, labs = tmp_path_factory.mktemp("faults"), {}

    def of(command):
        if command not in labs:
            labs[command] = lab_of(folder, command, random.Random(command))
        return labs[command]

    return of


@pytest.mark.parametrize(("command", "fault"), SHORT)
def test_a_fault_does_no_harm(lab, command, fault):
    getattr(lab(command), fault)()


@pytest.mark.slow
@pytest.mark.parametrize(("command", "fault"), LONG)
def test_a_fault_never_does_any_harm(lab, command, fault):
    broken = []
    ends = campaign.meet(lab(command), fault, MANY, broken.append)
    if not ends:
        pytest.skip(broken[0])
    assert not ends[campaign.BROKEN], broken


WITHOUT_MEMORY = """
import resource, sys
import gpt2rt.__main__, gpt2rt.cli, gpt2rt.cli.generate, gpt2rt.cli.tokenize, gpt2rt.cli.terminal, gpt2rt.model
n_left = int(sys.argv.pop(1))  # pieces of 64 bytes
resource.setrlimit(resource.RLIMIT_AS, (1 << 20, -1))
eaten = []
for size in 1 << 20, 1 << 16, 1 << 12, 1 << 8, 64:
    try:
        while True:
            eaten.append(bytearray(size))
    except MemoryError:
        pass
while n_left and eaten:
    eaten.pop()
    n_left -= 1
gpt2rt.__main__.main()
"""


@pytest.mark.parametrize("arguments", [["tokenize", "Hello!"], ["tokenise"], ["generate", "no.bin", "Hello!"]])
def test_without_memory_a_command_ends_with_a_sentence(arguments):
    def ended(line):
        done = subprocess.run([sys.executable, *line, *arguments], capture_output=True, check=False, timeout=60)
        return done.returncode, done.stderr.decode()

    without, undisturbed = (1, "gpt2rt: not enough memory\n"), ended(["-m", "gpt2rt"])
    ends = [ended(["-c", WITHOUT_MEMORY, str(n_left)]) for n_left in (20, 50, 100, 200, 500)]
    assert set(ends) <= {without, undisturbed}, ends
    assert without in ends


def test_a_campaign_prints_how_runs_ended(capsys):
    assert not campaign.main(["gpt2rt-chat -p", "--faults", "vanished", "cut", "--number", "2"])
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == "| command | vanished | cut |"
    assert row.startswith("| `gpt2rt-chat -p` | 2 (")


def test_a_library_that_cannot_be_loaded_is_a_sentence(tmp_path):
    (tmp_path / "safetensors").mkdir()
    (tmp_path / "safetensors" / "__init__.py").write_text("raise ImportError('libx.so: no such symbol')\n")
    packages = pathlib.Path(gpt2rt.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, packages)))}
    line = [sys.executable, "-m", "gpt2rt", "export", tmp_path, tmp_path / "out"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gpt2rt: a library can't be loaded: libx.so: no such symbol (")
