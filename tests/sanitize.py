"""Build gpt2rt with a sanitizer and run tests on it: `python tests/sanitize.py address|thread [PYTEST ARGUMENTS]`.

`address` is the address sanitizer with the undefined behavior sanitizer, `thread` is the thread sanitizer, of GCC or
clang (`CC`). Needs what `pip install '.[test]'` installs, and a Python with a shared library (Debian: libpython3-dev).
The build has bounds checks and assertions. It is installed in an environment of its own, build/sanitized-NAME, which
sees the packages of the one that runs this; the next call rebuilds what changed.

Python is started there by a program that is linked with the sanitizer. So, unlike with LD_PRELOAD, other programs that
tests start (curl, compilers) run without it. All reports are printed at the end, and any report makes this program exit
with 1, whether a test noticed or not. A tool for Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).parents[1]
HIDDEN = "build", ".git", ".venv"  # not copied
NO_RANDOM_ADDRESSES = 0x0040000  # of personality(2)

SANITIZERS = {"address": "address,undefined", "thread": "thread"}
# Built into the program that starts Python. Python does not free all memory at exit; some tests measure memory, ask for
# more than there is, preload a library of their own, or fork while other threads run; and Python and its packages are
# not built with the sanitizer.
OPTIONS = {
    "asan": "detect_leaks=0:handle_segv=2:quarantine_size_mb=16:allocator_may_return_null=1:verify_asan_link_order=0",
    "ubsan": "print_stacktrace=1",
    "tsan": "ignore_noninstrumented_modules=1:die_after_fork=0:allocator_may_return_null=1",
}
PROGRAM = """
#include <Python.h>
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__tsan_default_options(void);
const char *__asan_default_options(void) { return "%(asan)s"; }
const char *__ubsan_default_options(void) { return "%(ubsan)s"; }
const char *__tsan_default_options(void) { return "%(tsan)s"; }
int main(int n, char **arguments) { return Py_BytesMain(n, arguments); }
"""


def build_python(sanitizer, program):
    """Make the program that starts Python."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        sys.exit(
            "sanitize: this Python has no shared library, expected one (Debian: libpython3-dev; pyenv: --enable-shared)"
        )
    folder, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    source = program.with_suffix(".c")
    source.write_text(PROGRAM % OPTIONS, encoding="utf-8")
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        f"-fsanitize={SANITIZERS[sanitizer]}",
        "-g",
        source,
        "-o",
        program,
    ]
    libraries = [f"-L{folder}", f"-Wl,-rpath,{folder}", f"-lpython{version}", "-rdynamic"]
    program.unlink(missing_ok=True)  # a link to the Python that made the environment
    subprocess.run([*command, f"-I{sysconfig.get_path('include')}", *libraries], check=True)


def build(sanitizer, environment):
    """Install the checkout, built with the sanitizer, in `environment`; return its Python."""
    python = environment / "bin" / "python"
    python.unlink(missing_ok=True)  # the one with the sanitizer, in which a build would take longer
    venv.create(environment, with_pip=False, symlinks=True)
    own = next(environment.glob("lib/python*/site-packages"))
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    for old in own.glob("gpt2rt*"):
        shutil.rmtree(old)
    source = environment / "source"  # not the checkout, whose build/ is that of its own settings
    for old in source.iterdir() if source.exists() else ():
        if old.name != "build":
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    shutil.copytree(ROOT, source, symlinks=True, dirs_exist_ok=True, ignore=lambda folder, names: (
        [name for name in names if name in HIDDEN] if folder == str(ROOT) else []))  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    settings = {"GPT2RT_DEBUG": "1", "GPT2RT_SANITIZE": SANITIZERS[sanitizer]}
    subprocess.run([*command, "--disable-pip-version-check", source], check=True, env={**os.environ, **settings})
    build_python(sanitizer, python)
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("sanitizer", choices=SANITIZERS)
    parser.add_argument("--environment", type=pathlib.Path, help="where to build (default: build/sanitized-NAME)")
    options, arguments = parser.parse_known_args()
    name = options.sanitizer
    # Some versions of the thread sanitizer don't start with all that Linux randomizes.
    ctypes.CDLL(None).personality(NO_RANDOM_ADDRESSES)
    begin = time.monotonic()
    python = build(name, (options.environment or ROOT / "build" / f"sanitized-{name}").absolute())
    print(f"sanitize: built in {time.monotonic() - begin:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpt2rt-reports-") as reports:
        variables = dict.fromkeys(("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"), f"log_path={reports}/report")
        environment = {**os.environ, **variables, "PYTHONSAFEPATH": "1"}
        done = subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT, env=environment, check=False)
        found = sorted(pathlib.Path(reports).iterdir())
        for path in found:
            print(f"\n=== {path.name}\n{path.read_text(encoding='utf-8', errors='replace')}")
    print(f"sanitize: {len(found)} processes with reports, pytest exited with {done.returncode}")
    sys.exit(done.returncode or bool(found))


if __name__ == "__main__":
    main()
