"""The C headers of the core: each compiles alone, without a warning."""

import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CORE = ROOT / "gpt2rt" / "core"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", *WARNINGS, f"-I{CORE}"]
COMPILER = shlex.split(os.environ.get("CC", "cc"))


@functools.cache
def needs_python(header):
    """Return whether a header includes Python.h, directly or not."""
    text = header.read_text(encoding="utf-8")
    included = [CORE / name for name in re.findall(r'#include "(.*)"', text)]
    return "<Python.h>" in text or any(needs_python(path) for path in included if path.exists())


# Those in kernels/ are parts of kernels.h.
HEADERS = [*sorted(CORE.glob("*.h")), CORE / "kernels" / "kernels.h", ROOT / "converter" / "pack.h"]


@pytest.mark.parametrize("header", [path for path in HEADERS if not needs_python(path)], ids=lambda path: path.name)
def test_a_header_compiles_alone_without_a_warning(header, tmp_path):
    if shutil.which(COMPILER[0]) is None:
        pytest.skip(f"{COMPILER[0]} is not installed")
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header.as_posix()}"\nextern int not_empty;\n', encoding="utf-8")
    command = [*COMPILER, *FLAGS, "-c", str(source), "-o", str(tmp_path / "alone.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
