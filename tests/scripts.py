"""Runs scripts of bench/, train/ and docs/ as a user does, for tests."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def run(script, *arguments, cwd=ROOT, status=0):
    """Run a script in a folder, as a user does; return its standard output, or standard error if it should fail."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    result = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=cwd,
        # Scripts import from their own folder.
        env={**{key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


def cells(table):
    """Return the cells of a Markdown table, by the first cell of a row."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}
