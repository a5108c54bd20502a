"""Source files: a long file gives the reason for its length."""

import pathlib

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
