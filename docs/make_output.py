"""Rewrite the output in `console` and `pycon` blocks of the documents: python docs/make_output.py

The blocks of a page run one after the other, in the folder try/ of a checkout. Only standard output counts. Output that
differs only in times and ids, or by less than 1% in numbers with a decimal point, stays as it is. A block with a title
is a file with this name. Commands and files that ask localhost:8000 are answered by a server of the bundled model.
"""

import contextlib
import doctest
import io
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
FILES = ["gpt2rt/demo.bin", "train/demo-f16.bin", "converter/prose.txt"]  # of the checkout, that the commands name
BLOCK = re.compile(r"(?<=^```)(console|pycon)\n(.*?)(?=^```)", re.MULTILINE | re.DOTALL)
FILE = re.compile(r'^```\w+ title="([\w.]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
TIME = re.compile(r"\d+(\.\d+)? s\b|\"(id|created)\": ?[^,]+")
SERVER = "localhost:8000"
NUMBER = re.compile(r"(-?\d+\.\d+(?:e-?\d+)?)")


def pages() -> list[pathlib.Path]:
    """Return the documents with such blocks."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path for path in paths if BLOCK.search(path.read_text(encoding="utf-8"))]


def with_output(text: str) -> str:
    """Return a page with the output that its blocks have now."""
    names: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as checkout:
        for name in FILES:
            (pathlib.Path(checkout) / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, pathlib.Path(checkout) / name)
        folder = os.path.join(checkout, "try")  # as in the tutorial
        os.mkdir(folder)
        with running_server() if SERVER in text else contextlib.nullcontext(SERVER) as server:
            for name, content in FILE.findall(text):
                (pathlib.Path(folder) / name).write_text(content.replace(SERVER, server), encoding="utf-8")

            def run(block: re.Match[str]) -> str:
                kind, old = block.groups()
                new = run_console(old, folder, server) if kind == "console" else run_python(old, folder, names)
                return f"{kind}\n{old if is_same(old, new) else new}"

            return BLOCK.sub(run, text)


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Run a server of the bundled model, and yield its host and port."""
    command = [sys.executable, "-m", "gpt2rt", "serve", "--port", "0", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().partition("http://")[2].split()[0]
        finally:
            process.terminate()


def is_same(old: str, new: str) -> bool:
    """Return whether two outputs differ in times, or by rounding, at most."""
    a, b = (NUMBER.split(TIME.sub("", text)) for text in (old, new))
    numbers = zip(a[1::2], b[1::2], strict=False)
    return a[::2] == b[::2] and all(math.isclose(float(x), float(y), rel_tol=0.01) for x, y in numbers)


def run_console(block: str, folder: str, server: str) -> str:
    """Return a block of `$ command` lines with the commands' output. server: what answers for localhost:8000."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    env["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), env["PATH"]])
    env |= {"COLUMNS": "88", "XDG_DATA_HOME": f"{folder}/data", "HOME": folder, "NO_COLOR": "1"}
    parts = []
    for command in re.findall(r"^\$ ((?:.*\\\n)*.*\n)", block, re.MULTILINE):
        run = ["bash", "-euc", command.replace(SERVER, server)]
        found = subprocess.run(run, cwd=folder, env=env, stdout=subprocess.PIPE, check=True)
        output = found.stdout.decode().replace(server, SERVER)
        parts += [f"$ {command}", output if not output or output.endswith("\n") else f"{output}\n"]
    return "".join(parts)


def run_python(block: str, folder: str, names: dict[str, object]) -> str:
    """Return a block of `>>> statement` lines with what the interpreter prints; it knows and adds to `names`."""
    parts = []
    for example in doctest.DocTestParser().get_examples(block):
        first, *more = example.source.splitlines()
        parts += [f">>> {first}\n", *(f"... {line}".rstrip() + "\n" for line in more)]
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(example.source, "<page>", "single"), names)
        parts.append(output.getvalue())
    return "".join(parts)


if __name__ == "__main__":
    for page in pages():
        page.write_text(with_output(page.read_text(encoding="utf-8")), encoding="utf-8")
