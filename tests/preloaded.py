"""What tests of failed allocations build: failing_malloc.c, and a standalone program that it can be preloaded into."""

import pathlib
import platform
import subprocess

import pytest
from test_threadpool import system_compiler

FOLDER = pathlib.Path(__file__).parent
CORE = FOLDER.parent / "gpt2rt" / "core"


def build_failing_malloc(folder):
    """Return the path of a library to preload."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("allocations are made to fail under glibc's names of malloc")
    library = folder / "failing_malloc.so"
    source = FOLDER / "failing_malloc.c"
    subprocess.run([*system_compiler(), "-shared", "-fPIC", "-O1", "-fno-builtin", source, "-o", library], check=True)
    return library


def build_program(folder):
    """Return the path of the standalone program, with shared libraries and the portable kernels."""
    path = folder / "program"
    flags = ["-std=c11", "-ffp-contract=off", "-O0", f"-I{CORE}"]
    source = FOLDER / "portable_program.c"
    subprocess.run([*system_compiler(), *flags, source, "-o", path, "-lm", "-lpthread"], check=True)
    return path
