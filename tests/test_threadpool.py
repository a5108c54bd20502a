"""The thread pool, tested in C without Python: tests/threadpool.c, built with this system's compiler.

The slow tests build it with the thread sanitizer, and with ziglang for other systems; two of these programs run under
wine and qemu's user mode (Debian: wine64 and qemu-user-static).
"""

import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

SOURCE = pathlib.Path(__file__).with_name("threadpool.c")
CORE = SOURCE.parents[1] / "gpt2rt" / "core"
CHECKS = re.findall(r"^CHECK\((\w+)\)", SOURCE.read_text(encoding="utf-8"), re.MULTILINE)
FLAGS = ["-std=c11", "-O2", f"-I{CORE}"]
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
HEADERS = ["atomics.h", "clock.h", "float_state.h", "thread.h", "threadpool.h"]
SKIPPED = 77  # exit status of the program if the system can't run a check


def tool(*names):
    """Return the first of these programs that is installed; skip the test if there is none."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"{names[0]} is not installed")
    return path


def system_compiler():
    words = shlex.split(os.environ.get("CC", "cc"))
    return [tool(words[0]), *words[1:]]


def zig_for(target):
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    return [sys.executable, "-m", "ziglang", "cc", "-target", target]


def build(program, compiler, *options):
    subprocess.run([*compiler, *FLAGS, *options, SOURCE, "-o", program], check=True)
    return program


def run(*command, **variables):
    """Run checks and fail with their output. Return why this system can't run the last one, or ""."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, SKIPPED), done.stderr[-4000:]
    return done.stdout.strip() if done.returncode == SKIPPED else ""


def run_one(program, check):
    reason = run(program, check)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("threadpool") / "threadpool", system_compiler(), "-pthread")


@pytest.mark.parametrize("check", CHECKS)
def test_thread_pool(check, program):
    run_one(program, check)


@pytest.fixture(scope="module")
def sanitized_program(tmp_path_factory):
    compiler = [tool("gcc")]
    folder = tmp_path_factory.mktemp("sanitized")
    (folder / "nothing.c").write_text("int main(void) { return 0; }\n")
    options = ["-fsanitize=thread", "-g", "-pthread"]
    built = subprocess.run([*compiler, *options, folder / "nothing.c", "-o", folder / "nothing"], check=False)
    if built.returncode or subprocess.run([folder / "nothing"], check=False).returncode:
        pytest.skip("the thread sanitizer does not run here")
    return build(folder / "threadpool", compiler, *options)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_thread_pool_has_no_data_race(check, sanitized_program):
    run_one(sanitized_program, check)


@pytest.mark.slow
def test_thread_pool_on_windows(tmp_path):
    wine = tool("wine64", "wine", "/usr/lib/wine/wine64")
    program = build(tmp_path / "threadpool.exe", zig_for("x86_64-windows-gnu"))
    run(wine, program, *CHECKS, WINEPREFIX=str(tmp_path / "wine"), WINEDEBUG="-all")


@pytest.mark.slow
def test_thread_pool_on_arm(tmp_path):
    emulator = tool("qemu-aarch64-static", "qemu-aarch64")
    program = build(tmp_path / "threadpool", zig_for("aarch64-linux-musl"), "-static")
    run(emulator, program, *CHECKS)


def compiles_strictly(compiler, tmp_path):
    for header in HEADERS:  # each on its own
        unit = tmp_path / f"{header}.c"
        unit.write_text(f'#include "{header}"\n')
        subprocess.run([*compiler, *FLAGS, *STRICT, "-c", unit, "-o", tmp_path / "unit.o"], check=True)
    subprocess.run([*compiler, *FLAGS, *STRICT, "-c", SOURCE, "-o", tmp_path / "unit.o"], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_headers_compile_without_a_warning(compiler, tmp_path):
    compiles_strictly([tool(compiler)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        "x86_64-linux-musl",
        "aarch64-linux-gnu",
        "x86_64-windows-gnu",
        "aarch64-windows-gnu",
        "x86_64-macos",
        "aarch64-macos",
    ],
)
def test_the_headers_compile_without_a_warning_for_other_systems(target, tmp_path):
    compiles_strictly(zig_for(target), tmp_path)
