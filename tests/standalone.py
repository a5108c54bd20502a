"""The standalone program, for tests: what the wheel installs as gpt2rt-chat."""

import functools
import os
import pathlib
import subprocess
import sysconfig

import pytest

PROGRAM = pathlib.Path(sysconfig.get_path("scripts")) / ("gpt2rt-chat" + (sysconfig.get_config_var("EXE") or ""))


@functools.cache
def program():
    """Return the path of the program."""
    if not PROGRAM.exists():
        pytest.skip("the package was built without gpt2rt-chat")
    return PROGRAM


def run(*arguments, stdin=b"", status=0, **environment):
    """Run the program; return (standard output, standard error) as text."""
    done = subprocess.run(
        [program(), *map(str, arguments)],
        input=stdin if isinstance(stdin, bytes) else stdin.encode(),
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == status, (done.returncode, done.stderr)
    return done.stdout.decode(), done.stderr.decode()
