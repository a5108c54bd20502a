"""Unfinished files: nothing is left when a command fails or is stopped, and the next one removes what a kill left."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from checkpoints import SMALL, write_checkpoint

from gpt2rt.converter import convert
from gpt2rt.modelfile.unfinished import Unfinished

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")

SHAPE = SMALL._replace(n_embd=512, n_head=4, n_layer=8)  # converts for a second


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_checkpoint(folder, SHAPE)
    convert(folder, folder / "big.bin", weight_type="f32")
    return folder / "big.bin"


def command(name, source, folder):
    if name == "export":
        pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")
        return ["export", source, folder / "out"]
    return ["requantize", source, "--type", "int4", "-o", folder / "out", "--no-receipt"]


def start(arguments):
    line = [sys.executable, "-m", "gpt2rt", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def part_of(process, folder):
    """Wait for an unfinished file, and return its path; None if the command has ended before."""
    while process.poll() is None:
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(".part") and (entry.is_dir() or entry.stat().st_size):
                    return entry.path
        time.sleep(0.001)  # polling
    return None


def stopped(arguments, folder, number):
    """Send a signal to a command once it has an unfinished file; return its exit status and what it says.

    A command that was done before is run again.
    """
    for _ in range(20):
        process = start(arguments)
        if part_of(process, folder):
            process.send_signal(number)
        _, error = process.communicate(timeout=60)
        if process.returncode:
            return process.returncode, error
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    raise AssertionError("it is always done before the signal arrives")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("name", ["requantize", "export"])
def test_a_signal_leaves_nothing(source, tmp_path, name, number):
    status, error = stopped(command(name, source, tmp_path), tmp_path, number)
    assert status == 128 + number
    assert os.listdir(tmp_path) == []
    assert "Traceback" not in error
    if number != signal.SIGINT:
        assert error == f"gpt2rt: stopped by signal {int(number)}; what was unfinished is removed\n"


@pytest.mark.parametrize("name", ["requantize", "export"])
def test_the_next_run_removes_what_a_killed_one_left(source, tmp_path, name):
    stopped(command(name, source, tmp_path), tmp_path, signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 1
    process = start(command(name, source, tmp_path))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert os.listdir(tmp_path) == ["out"]


def test_an_ignored_signal_stays_ignored(source, tmp_path):
    arguments = [sys.executable, "-m", "gpt2rt", *map(str, command("requantize", source, tmp_path))]
    process = subprocess.Popen(["nohup", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert part_of(process, tmp_path)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert os.listdir(tmp_path) == ["out"]


def made(folder):
    unfinished = Unfinished(str(folder / "x.bin"))
    unfinished.make()
    return unfinished


def test_the_file_of_a_living_writer_stays(tmp_path):
    first, second = made(tmp_path), made(tmp_path)
    assert os.path.exists(first.path)
    second.remove()
    first.release()  # as if its process had ended
    third = made(tmp_path)
    assert not os.path.exists(first.path)
    third.remove()
    assert os.listdir(tmp_path) == []


def test_other_files_stay(tmp_path):
    names = [".x.bin.0123456.part", ".x.bin.01234567.part.etag", ".y.bin.01234567.part", "x.bin.01234567.part"]
    names += [".x.bin.0123456G.part", ".x.bin.part"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".x.bin.01234567.part").symlink_to(tmp_path / "x.bin.01234567.part")
    made(tmp_path).remove()
    assert sorted(os.listdir(tmp_path)) == sorted([*names, ".x.bin.01234567.part"])


def test_many_writers_of_one_name_do_not_disturb_each_other(tmp_path):
    problems = []

    def write():
        for _ in range(50):
            unfinished = made(tmp_path)
            if not os.path.exists(unfinished.path):
                problems.append(unfinished.path)
            unfinished.remove()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["requantize", "export"])
@pytest.mark.parametrize("limit", [8 << 10, 1 << 20])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(source, tmp_path, name, limit):
    arguments = command(name, source, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "gpt2rt", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"gpt2rt: {tmp_path / 'out'}: can't be written: ")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_conversion_in_a_thread_leaves_signals_alone(source, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=convert, args=(source, tmp_path / "x.bin"), kwargs={"weight_type": "int8"})
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert os.listdir(tmp_path) == ["x.bin"]
