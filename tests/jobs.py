"""Inputs and answers of `gpt2rt batch`, for its tests."""

import json

from demo import DEMO

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "what", "no", "dog", "had", "ever", "seen", "before")


def write_rows(path, rows):
    """Write a JSON Lines file; rows are objects, or bytes of a line as they are."""
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


def read_rows(path):
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def texts(n):
    """Return n rows with an id and a text each, no two alike."""
    return [
        {"id": f"r{i}", "text": " ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(1 + i % 23))} for i in range(n)
    ]


class Batch:
    """Runs gpt2rt batch in this process, in a folder of its own."""

    def __init__(self, cli, folder):
        self.cli, self.folder, self.n_runs = cli, folder, 0

    def run(self, rows, *options, model=DEMO, out=None):
        """Run a job on rows, or on the path of a file.

        Returns:
            (exit code, content of the merged answers or None, standard error).
        """
        self.n_runs += 1
        source = write_rows(self.folder / f"in{self.n_runs}.jsonl", rows) if isinstance(rows, list) else rows
        merged = self.folder / f"merged{self.n_runs}.jsonl"
        out = self.folder / f"out{self.n_runs}" if out is None else out
        code, _, error = self.cli("batch", model, source, out, "--merge", merged, *options)
        return code, merged.read_bytes() if merged.exists() else None, error

    def answers(self, rows, *options, **where):
        """Run a job that succeeds, and return its answers."""
        code, content, error = self.run(rows, *options, **where)
        assert code == 0, error
        return [json.loads(line) for line in content.split(b"\n")[:-1]]
