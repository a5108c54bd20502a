"""The reader of model files in C without Python: tests/modelfile.c, built with this system's compiler.

The slow tests build it with ziglang for other systems; two of these programs run under wine and qemu's user mode.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from small_model_file import section, write
from test_threadpool import STRICT, system_compiler, tool, zig_for

from gpt2rt.errors import ModelFileError
from gpt2rt.modelfile import ModelFile

SOURCE = pathlib.Path(__file__).with_name("modelfile.c")
FLAGS = ["-std=c11", "-O1", "-g", "-ffp-contract=off", *STRICT, f"-I{SOURCE.parents[1] / 'gpt2rt' / 'core'}"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
N_DAMAGED = 20_000
VALID = "valid: {} bytes, int8, 28 tensors, padding -1, damaged:\n"
WAYS = ("open", "read")  # mapped, or read into memory


def build(folder, compiler, *options, name="modelfile"):
    program = folder / name
    subprocess.run([*compiler, *FLAGS, SOURCE, "-o", program, *options], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("modelfile"), system_compiler(), "-lm")


@pytest.fixture(scope="module")
def sanitized_program(tmp_path_factory):
    folder, compiler = tmp_path_factory.mktemp("sanitized"), system_compiler()
    (folder / "nothing.c").write_text("int main(void) { return 0; }\n")
    built = subprocess.run([*compiler, *SANITIZERS, folder / "nothing.c", "-o", folder / "nothing"], check=False)
    if built.returncode or subprocess.run([folder / "nothing"], check=False).returncode:
        pytest.skip("the address sanitizer does not run here")
    return build(folder, compiler, *SANITIZERS, "-lm")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a valid file."""
    return write(tmp_path_factory.mktemp("sound") / "small.bin").read_bytes()


def output(*command, **variables):
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("offset", [0, 1 << 12, 1 << 16, 5000, (1 << 16) + 4])
def test_a_file_is_valid_wherever_it_begins_in_another(program, sound, tmp_path, way, offset):
    path = tmp_path / "whole"
    path.write_bytes(b"x" * offset + sound)
    assert output(program, way, path, str(offset)) == VALID.format(len(sound))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("beyond", [0, 1, 1 << 40])
def test_no_file_is_found_after_the_end_of_another(program, sound, tmp_path, way, beyond):
    (tmp_path / "whole").write_bytes(sound)
    found = output(program, way, tmp_path / "whole", str(len(sound) + beyond))
    assert found == "not a gpt2rt model file (it is 0 bytes long and starts with b'')\n"


BAD_FILES = {
    "missing": lambda path, _: None,
    "folder": lambda path, _: path.mkdir(),
    "pipe": lambda path, _: os.mkfifo(path),
    "device": lambda path, _: path.symlink_to("/dev/null"),
    "link_to_itself": lambda path, _: path.symlink_to(path),
    "empty": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_bytes(b"#!/bin/sh\n'\"\\\xff\0" * 500),
    "beginning": lambda path, sound: path.write_bytes(sound[:5]),
    "header": lambda path, sound: path.write_bytes(sound[:4095]),
    "truncated": lambda path, sound: path.write_bytes(sound[:-1]),
    "damaged_header": lambda path, sound: path.write_bytes(sound[:100] + b"\1" + sound[101:]),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gets_the_sentence_that_python_gives_it(program, sound, tmp_path, way, case):
    path = tmp_path / "bad"
    BAD_FILES[case](path, sound)
    with pytest.raises(ModelFileError) as raised:
        ModelFile(path, use_mmap=way == "open")
    assert f"{path}: {output(program, way, path)}" == f"{raised.value}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no fstat there")
def test_a_file_that_grows_while_it_is_opened_is_refused(program, sound, tmp_path):
    path = tmp_path / "growing"
    path.write_bytes(sound)
    expected = f"{len(sound)} bytes, and {len(sound) + 1} a moment later (is something writing it?)\n"
    assert output(program, "grow", path) == expected


@pytest.mark.parametrize("name", ["metadata", "vocabulary", "weights"])
def test_a_damaged_section_is_named(program, sound, tmp_path, name):
    damaged = bytearray(sound)
    damaged[sum(section(sound, name)) - 1] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    assert output(program, "open", tmp_path / "damaged") == VALID.format(len(sound)).replace("\n", f" {name}\n")


def test_padding_that_is_not_zero_is_found(program, sound, tmp_path):
    damaged = bytearray(sound)
    offset = section(sound, "weights")[0] - 1
    damaged[offset] = 1
    (tmp_path / "damaged").write_bytes(damaged)
    assert output(program, "open", tmp_path / "damaged") == VALID.format(len(sound)).replace("-1", str(offset))


def test_damaged_files_are_valid_or_refused_with_a_sentence_and_nothing_else_is_read(
    sanitized_program, sound, tmp_path
):
    (tmp_path / "small.bin").write_bytes(sound)
    n_valid = int(output(sanitized_program, "damage", tmp_path / "small.bin", "1", str(N_DAMAGED)).split()[0])
    assert N_DAMAGED / 20 < n_valid < N_DAMAGED / 2


@pytest.mark.slow
def test_the_program_on_windows(sound, tmp_path):
    wine = tool("wine64", "wine", "/usr/lib/wine/wine64")
    program = build(tmp_path, zig_for("x86_64-windows-gnu"), "-lshell32", name="modelfile.exe")
    environment = {"WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    (tmp_path / "naïve 日本.bin").write_bytes(b"x" * 65541 + sound)
    (tmp_path / "empty").touch()
    for way in WAYS:
        for path, offset, expected in (
            ("naïve 日本.bin", 65541, VALID.format(len(sound)).strip()),
            ("naïve 日本.bin", 0, "not a gpt2rt model file (it starts with b'xxxxxxxx', expected b'\\x89GPT2RT\\n')"),
            ("empty", 0, "not a gpt2rt model file (it is 0 bytes long and starts with b'')"),
            (".", 0, "is a folder, expected a model file (gpt2rt convert makes one from a checkpoint)"),
            ("none/none", 0, "no such file (gpt2rt convert makes one from a checkpoint)"),
        ):
            assert output(wine, program, way, f"Z:{tmp_path / path}", str(offset), **environment).strip() == expected


@pytest.mark.slow
def test_the_program_on_arm(sound, tmp_path):
    emulator = tool("qemu-aarch64-static", "qemu-aarch64")
    program = build(tmp_path, zig_for("aarch64-linux-musl"), "-static")
    (tmp_path / "small.bin").write_bytes(sound)
    assert output(emulator, program, "open", tmp_path / "small.bin") == VALID.format(len(sound))
    assert int(output(emulator, program, "damage", tmp_path / "small.bin", "1", str(N_DAMAGED)).split()[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["x86_64-windows-gnu", "aarch64-windows-gnu", "x86_64-macos", "aarch64-macos", "x86-linux-musl"]
)
def test_the_program_builds_for_other_systems_without_a_warning(target, tmp_path):
    build(tmp_path, zig_for(target), *(["-lshell32"] if "windows" in target else []))
