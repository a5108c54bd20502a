"""Source files: a long file gives the reason for its length; compiled modules avoid what their compiler gets wrong."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("gpt2rt", "converter", "tests", "bench", "train", "docs", "fuzz")
KINDS = {".py", ".pyx", ".pxd", ".pyi", ".h", ".c"}
MOST_LINES = 500
REASON = "lines because"  # in one of the first ten lines, as in "Some 700 lines because ..."


def is_written_by_cython(path):
    return path.suffix == ".c" and path.with_suffix(".pyx").exists()


def lines_of_long_files():
    """Return {path: lines} of the files that are longer than they should be."""
    found = {}
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))):
        if path.suffix in KINDS and not is_written_by_cython(path):
            lines = path.read_text(encoding="utf-8").splitlines()
            if len(lines) > MOST_LINES:
                found[path] = lines
    return found


def test_a_file_of_more_than_500_lines_says_why():
    silent = [
        f"{path.relative_to(ROOT)}: {len(lines)} lines, expected at most {MOST_LINES} or, near the top, '{REASON} ...'"
        for path, lines in lines_of_long_files().items()
        if not any(REASON in line for line in lines[:10])
    ]
    assert not silent, "\n".join(silent)


CYTHON = re.compile(
    r'"""(?:\\.|.)*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*|[][(){}]|\bfor\b|\n', re.DOTALL
)


def lines_of_list_comprehensions(text):
    """Return the numbers of the lines of Cython code that have a list comprehension."""
    found, open_brackets, line = [], [], 1
    for token in CYTHON.findall(text):
        if token in "([{":
            open_brackets.append(token)
        elif token in ")]}":
            open_brackets.pop()
        elif token == "for" and open_brackets[-1:] == ["["]:
            found.append(line)
        line += token.count("\n")
    return found


def test_list_comprehensions_are_found():
    code = "a = [b[i](\n  c) for i in d]\ne = [f(g for g in h)]  # [i for i in j]\nfor k in l: '[m for m in n]'\n"
    assert lines_of_list_comprehensions(code) == [2]


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("gpt2rt/*.pyx")) + sorted(ROOT.glob("converter/*.pyx")), ids=lambda path: path.name
)
def test_compiled_modules_have_no_list_comprehension(path):
    """In one, Cython 3.3.1 frees an item twice if memory for the list runs out; append() does it right."""
    assert lines_of_list_comprehensions(path.read_text(encoding="utf-8")) == []
